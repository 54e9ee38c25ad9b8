"""Small tasks whose answers a program can check, written by a seeded generator. Introduced in chapter 12.

Each item belongs to one of three parts, by a hash of what makes it hard: two numbers in either order, the same
numbers to sort, one table with another question are in the same part. So no part holds an item of another one, nor
its mirror image.
"""

import calendar
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from string import ascii_lowercase

#: The parts, and which of ten equal shares of all items each of them has.
PARTS = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_SYLLABLES = [first + second for first in "bdfklmnprst" for second in "aeiou"]
_UNITS = (
    ("km", "m", 1000),
    ("kg", "g", 1000),
    ("hours", "minutes", 60),
    ("days", "hours", 24),
    ("m", "cm", 100),
)
_Made = tuple[str, str, object]  # question, answer, what makes it hard


@dataclass(frozen=True)
class Item:
    """A question with its one right answer, and the name of its task."""

    task: str
    question: str
    answer: str


def _addition(random: Random) -> _Made:
    a, b = random.randrange(100), random.randrange(100)
    return f"{a} + {b}?", str(a + b), sorted((a, b))


def _dates(random: Random) -> _Made:
    year, month = random.randint(1900, 2099), random.randint(1, 12)
    day = random.randint(1, calendar.monthrange(year, month)[1])
    written = f"{_MONTHS[month - 1]} {day}, {year}"
    return f"{written} in digits?", f"{year}-{month:02}-{day:02}", written


def _sorting(random: Random) -> _Made:
    letters = random.sample(ascii_lowercase, 4)
    found = " ".join(sorted(letters))
    return f"Sort {' '.join(letters)}.", found, found


def _letters(random: Random) -> _Made:
    word = "".join(random.choices(_SYLLABLES, k=random.randint(3, 5)))
    letter = random.choice(word)
    return f"How many {letter} in {word}?", str(word.count(letter)), word


def _units(random: Random) -> _Made:
    large, small, factor = random.choice(_UNITS)
    count = random.randint(2, 999)
    key = (large, small, count)
    if random.random() < 0.5:
        return f"{count} {large} in {small}?", str(count * factor), key
    return f"{count * factor} {small} in {large}?", str(count), key


def _table(random: Random) -> _Made:
    names, numbers = random.sample(ascii_lowercase, 3), random.sample(range(10, 100), 3)
    rows = [f"{name} = {number}" for name, number in zip(names, numbers, strict=True)]
    asked = random.randrange(3)
    return f"{', '.join(rows)}. {names[asked]}?", str(numbers[asked]), sorted(rows)


def _form(random: Random) -> _Made:
    word, count, sign = "".join(random.choices(_SYLLABLES, k=2)), random.randint(2, 4), random.choice("-+/*")
    question = f"{word} {count} times with {sign}?"
    return question, sign.join([word] * count), (word, count, sign)


#: The tasks, and what makes an item of each.
TASKS: dict[str, Callable[[Random], _Made]] = {
    "addition": _addition,
    "dates": _dates,
    "sorting": _sorting,
    "letters": _letters,
    "units": _units,
    "table": _table,
    "form": _form,
}


def part_of(task: str, key: object) -> str:
    """Return the part of `PARTS` to which belongs what makes an item hard."""
    share = int.from_bytes(sha256(f"{task} {key}".encode()).digest()[:4]) % 10
    return next(part for part, shares in PARTS.items() if share in shares)


def make(task: str, count: int, part: str, *, seed: int = 0) -> list[Item]:
    """Write `count` items of one task that differ in what makes them hard.

    Args:
        task: a key of `TASKS`.
        count: how many.
        part: "train", "valid" or "test".
        seed: the same seed gives the same items, and a larger `count` begins with those of a smaller one.

    Raises:
        ValueError: there is no such task or part, or the part has not so many items.

    >>> tasks.make("addition", 1, "test")
    [Item(task='addition', question='85 + 34?', answer='119')]
    """
    if task not in TASKS or part not in PARTS:
        raise ValueError(
            f"{task!r:.99} of {part!r:.99}: take one of {', '.join(TASKS)} and of {', '.join(PARTS)}"
        )
    if type(count) is not int or count < 0:
        raise ValueError(f"count is {count!r:.99}: pass how many items, at least 0")
    random, found, tries = Random(f"{seed} {task} {part}"), {}, 0
    while len(found) < count:
        question, answer, key = TASKS[task](random)
        tries = tries + 1
        if part_of(task, key) == part and str(key) not in found:
            found[str(key)], tries = Item(task, question, answer), 0
        if tries > _MOST_TRIES:
            raise ValueError(
                f"{part} has no {count:,} items of {task}: about {len(found):,} are all there are"
            )
    return [*found.values()]


_MOST_TRIES = 20_000  # in a row without a new item


def mixture(count: int, part: str, *, names: tuple[str, ...] = tuple(TASKS), seed: int = 0) -> list[Item]:
    """Write `count` items, one task after the other in turn; each beginning of the list has all of them.

    Raises:
        ValueError: as `make`, or there is no task, or one twice.
    """
    if not names or len({*names}) < len(names):
        raise ValueError(f"the tasks are {names!r:.99}: name at least one, and each once")
    if type(count) is not int or count < 0:
        raise ValueError(f"count is {count!r:.99}: pass how many items, at least 0")
    each = [make(name, -(-count // len(names)), part, seed=seed) for name in names]
    return [item for row in zip(*each, strict=True) for item in row][:count]


def is_right(item: Item, text: str) -> bool:
    """Return whether a text is the answer and nothing else; space around it does not count."""
    return text.strip() == item.answer
