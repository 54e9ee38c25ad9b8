"""Tasks with answers that a program can check: right answers, parts that do not touch, the same items for a seed."""

import re
from datetime import date

import pytest

from bigmodel_helpers.data import tasks


@pytest.mark.parametrize("task", tasks.TASKS)
def test_items_differ_and_depend_on_the_seed_alone(task: str) -> None:
    items = tasks.make(task, 40, "train")
    assert len({item.question for item in items}) == 40
    assert items == tasks.make(task, 40, "train")
    assert items[:10] == tasks.make(task, 10, "train")
    assert items != tasks.make(task, 40, "train", seed=1)
    assert {item.task for item in items} == {task}


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", text)]


MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip
IN_ONE = {
    ("km", "m"): 1000,
    ("kg", "g"): 1000,
    ("hours", "minutes"): 60,
    ("days", "hours"): 24,
    ("m", "cm"): 100,
}


def solved(task: str, question: str) -> str:
    """Answer a question from its text alone."""
    if task == "addition":
        a, b = re.fullmatch(r"(\d+) \+ (\d+)\?", question).groups()
        return str(int(a) + int(b))
    if task == "dates":
        month, day, year = re.fullmatch(r"(\w+) (\d+), (\d+) in digits\?", question).groups()
        return date(int(year), 1 + MONTHS.index(month), int(day)).isoformat()
    if task == "sorting":
        letters = re.fullmatch(r"Sort (.*)\.", question)[1].split(" ")
        return " ".join(sorted(letters))
    if task == "letters":
        letter, word = re.fullmatch(r"How many (\w) in (\w+)\?", question).groups()
        return str(len(word) - len(word.replace(letter, "")))
    if task == "units":
        count, given, wanted = re.fullmatch(r"(\d+) (\w+) in (\w+)\?", question).groups()
        if (given, wanted) in IN_ONE:
            return str(int(count) * IN_ONE[given, wanted])
        whole, rest = divmod(int(count), IN_ONE[wanted, given])
        assert rest == 0
        return str(whole)
    if task == "table":
        rows, name = re.fullmatch(r"(.*)\. (\w)\?", question).groups()
        return dict(row.split(" = ") for row in rows.split(", "))[name]
    word, count, sign = re.fullmatch(r"(\w+) (\d) times with (.)\?", question).groups()
    return sign.join(word for _ in range(int(count)))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_answers_are_right(task: str) -> None:
    for item in tasks.make(task, 200, "train"):
        assert solved(task, item.question) == item.answer, item


def hard_part(item: tasks.Item) -> object:
    """What a mirror image has in common with its item, from the text alone."""
    words = item.question.rstrip("?.").split()
    if item.task == "addition":
        return sorted(numbers(item.question))
    if item.task == "sorting":
        return sorted(words[1:])
    if item.task == "letters":
        return words[-1]
    if item.task == "units":
        return sorted((*numbers(item.question), int(item.answer))), sorted((words[1], words[3]))
    if item.task == "table":
        return sorted(item.question.split(". ")[0].split(", "))
    return item.question


@pytest.mark.parametrize("task", tasks.TASKS)
def test_parts_hold_no_mirror_images_of_each_other(task: str) -> None:
    parts = [{str(hard_part(item)) for item in tasks.make(task, 300, part, seed=3)} for part in tasks.PARTS]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_the_order_of_the_summands_does_not_choose_the_part() -> None:
    questions = [{item.question for item in tasks.make("addition", 250, part)} for part in tasks.PARTS]
    mirrored = {re.sub(r"(\d+) \+ (\d+)", r"\2 + \1", question) for question in questions[0]}
    assert not mirrored & (questions[1] | questions[2])


def test_the_parts_are_about_eight_one_and_one_tenth() -> None:
    found = [tasks.part_of("addition", number) for number in range(5000)]
    for part, share in (("train", 0.8), ("valid", 0.1), ("test", 0.1)):
        assert abs(found.count(part) / 5000 - share) < 0.02


def test_a_mixture_has_the_tasks_in_turn() -> None:
    items = tasks.mixture(15, "valid")
    assert [item.task for item in items] == [*tasks.TASKS, *tasks.TASKS, "addition"]
    assert tasks.mixture(4, "valid", names=("dates", "form"))[1].task == "form"


def test_an_answer_is_the_answer_and_nothing_else() -> None:
    item = tasks.Item("addition", "What is 1 + 1?", "2")
    assert tasks.is_right(item, " 2\n")
    assert not any(tasks.is_right(item, text) for text in ("2.", "The answer is 2", "22", ""))


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="'chess' of 'test': take one of addition, dates"):
        tasks.make("chess", 1, "test")
    with pytest.raises(ValueError, match="train, valid, test"):
        tasks.make("dates", 1, "all")
    with pytest.raises(ValueError, match="count is -1"):
        tasks.make("dates", -1, "test")
    with pytest.raises(ValueError, match="no 9,000 items of addition: about"):
        tasks.make("addition", 9000, "test")
    with pytest.raises(ValueError, match="name at least one, and each once"):
        tasks.mixture(3, "test", names=())
    with pytest.raises(ValueError, match="each once"):
        tasks.mixture(3, "test", names=("form", "form"))
    with pytest.raises(ValueError, match="count is -3"):
        tasks.mixture(-3, "test")
