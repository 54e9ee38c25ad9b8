"""The program that makes a model: it may be killed at any stage, keeps what is right, and reports what it did."""

import copy
import importlib
import json
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rooms import ROOT

from bigmodel_helpers import models
from bigmodel_helpers.data import documents, tasks, tokens
from bigmodel_helpers.models import published
from bigmodel_helpers.training import checkpoint

LAUNCH = ROOT / "book" / "launch"
NAMES = ("tokenize", "pretrain", "instruct", "control", "reinforce", "quantize", "evaluate")
RECORD = """title command profile device torch python platform date data options parameters text cost bytes board
always_the_same differences samples curves"""


@pytest.fixture(scope="module", autouse=True)
def freed_memory_is_returned():
    """Leave the process as it is: what is measured in it later would need more memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigmodel_helpers.runtime.keep_freed_memory", lambda: False)
        yield


def module(name="make_model"):
    if str(LAUNCH) not in sys.path:
        sys.path.append(str(LAUNCH))
    return importlib.import_module(name)


def make(out, *options):
    module().main(["--profile", "smoke", "--out", str(out), *options])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    library = documents.standard_library()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "standard_library", lambda: library)  # reading it again and again takes long
        out = tmp_path_factory.mktemp("made")
        make(out)
        yield out


@pytest.fixture
def out(made, tmp_path):
    """Return a copy of what was made, to be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def forget(out, name):
    """Remove a stage and those behind it."""
    for later in NAMES[NAMES.index(name) :]:
        shutil.rmtree(out / later)


def facts(out, name):
    return json.loads((out / name / "facts.json").read_text(encoding="utf-8"))


def weights(folder):
    return published.load(folder).state_dict()


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class KilledError(BaseException):
    pass


def kill(monkeypatch, place, name, call):
    """Let a function do its work `call` times, and die after the last of them."""
    whole, calls = getattr(place, name), []

    def dying(*args, **options):
        calls.append(whole(*args, **options))
        if len(calls) == call:
            raise KilledError
        return calls[-1]

    monkeypatch.setattr(place, name, dying)


def numbers(value):
    """Return all numbers in nested facts."""
    if isinstance(value, dict | list | tuple):
        return [
            one for part in (value.values() if isinstance(value, dict) else value) for one in numbers(part)
        ]
    return [value] if isinstance(value, int | float) else []


def check_record(record):
    """Assert that a record has what the report and the book show."""
    assert {*record} == {*RECORD.split()}
    assert {*record["cost"]} == {*NAMES}
    assert {*record["curves"]} == {"pretrain", "instruct", "control", "reinforce"}
    rows = record["board"]
    assert [*rows] == [*module().BOARD]
    for row in rows.values():
        assert {*row["by_task"]} == {*tasks.TASKS}
        for name in ("bits", "greedy", "drawn"):
            value, low, high = row[name]
            assert low <= value <= high
        assert all(0 <= share <= 1 for share in (*row["greedy"], *row["drawn"], *row["by_task"].values()))
    assert len(record["differences"]) == 2 * len(module().PAIRS)
    assert all(low <= value <= high for value, low, high in record["differences"].values())
    for one in record["samples"].values():
        assert len(one) == len(tasks.TASKS) + 2
        assert all(type(text) is str for text in one.values())
    for cost in record["cost"].values():
        assert cost["seconds"] > 0
        assert cost["attempts"] >= 1
    assert (
        record["bytes"]["model-int4.gguf"]
        < record["bytes"]["model-int8.gguf"]
        < record["bytes"]["model.gguf"]
    )
    assert torch.tensor(numbers(record), dtype=torch.float64).isfinite().all()


def test_the_record_has_its_form(made):
    record = json.loads((made / "record.json").read_text(encoding="utf-8"))
    check_record(record)
    assert record["profile"] == "smoke"
    assert all(cost["attempts"] == 1 for cost in record["cost"].values())
    assert record["parameters"] == sum(one.numel() for one in module().fresh().parameters())
    spoiled = copy.deepcopy(record)
    spoiled["board"]["reinforced"]["drawn"][1] = 2.0
    with pytest.raises(AssertionError):
        check_record(spoiled)


def test_the_record_of_the_book_is_one_of_laptop():
    file = ROOT / "book" / "model.json"
    if file.exists():  # it is made by hand, from a run of half an hour
        record = json.loads(file.read_text(encoding="utf-8"))
        check_record(record)
        assert record["profile"] == "laptop"
        assert all(cost["attempts"] == 1 for cost in record["cost"].values())
        assert record["board"]["instructed"]["greedy"][0] > record["always_the_same"]


def test_the_report_needs_nothing_else(made):
    page = (made / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|<link|<script|@import|url\(", page)
    assert "color-scheme:light dark" in page
    assert 'name="viewport"' in page
    assert page.count("<svg") == 4
    for name in module().BOARD:
        assert f'<th scope="row">{name}</th>' in page


def test_what_a_model_says_is_no_markup(made):
    record = json.loads((made / "record.json").read_text(encoding="utf-8"))
    for one in record["samples"].values():
        one["Hello"] = "<script>alert(1)</script>"
    page = module("model_report").page_of(record)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_model_is_published_whole(made):
    final = weights(made / "reinforce")
    assert same(final, weights(made / "model"))
    assert same(final, weights(made / "model.gguf"))
    tokenizer = tokens.from_folder(made / "model")
    assert tokenizer.to_str() == tokens.from_folder(made / "tokenize").to_str()
    assert json.loads((made / "model" / "card.json").read_text(encoding="utf-8"))["limits"]
    assert not [*made.glob("*.work"), *made.glob("*.partial")]


def test_rounded_files_hold_rounded_weights(made):
    final = torch.cat([one.flatten() for one in weights(made / "reinforce").values()])
    errors = []
    for name in ("model-int8", "model-int4"):
        rounded = weights(made / "quantize" / f"{name}.gguf")
        errors.append(
            float((torch.cat([one.flatten() for one in rounded.values()]) - final).norm() / final.norm())
        )
    assert 0 < errors[0] < 0.02 < errors[1] < 0.2


@pytest.mark.parametrize("where", ["model", "model.gguf"])
def test_the_server_writes_chats_as_in_training(made, where):
    server = pytest.importorskip("bigmodel_helpers.inference.server")
    template = server.load(made / where)._template
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "12"}]
    messages.append({"role": "user", "content": "3 + 4?"})
    module().OUT = made
    assert template.turns(messages) == module().chat_template().turns(messages)


def test_started_again_nothing_is_made(made, capsys):
    before = {name: facts(made, name) for name in NAMES}
    make(made)
    assert capsys.readouterr().out.count("is there") == len(NAMES)
    assert before == {name: facts(made, name) for name in NAMES}


KILLED = [
    ("tokenize", checkpoint, "save", 1),
    ("pretrain", checkpoint, "save", 3),
    ("instruct", checkpoint, "save", 2),
    ("control", checkpoint, "save", 1),
    ("reinforce", checkpoint, "save", 2),
    ("reinforce", "make_model", "write", 1),
    ("quantize", published, "save_gguf", 2),
    ("evaluate", "model_board", "row", 3),
]


@pytest.mark.parametrize(
    ("name", "place", "function", "call"), KILLED, ids=[f"{one[0]}-{one[2]}" for one in KILLED]
)
def test_killed_and_resumed_it_comes_to_the_same(out, made, monkeypatch, name, place, function, call):
    forget(out, name)
    whole = made / name
    if name == "reinforce":
        monkeypatch.setattr(
            tasks, "is_right", lambda item, text: len(text) % 2 == 0
        )  # so that there is a reward
        make(out, "--until", name)
        whole = Path(shutil.copytree(out / name, out / "whole"))
        shutil.rmtree(out / name)
    with monkeypatch.context() as patch:
        kill(patch, module(place) if isinstance(place, str) else place, function, call)
        with pytest.raises(KilledError):
            make(out, "--until", name)
    assert not (out / name).exists()
    make(out, "--until", name)
    resumed = facts(out, name)
    assert resumed["attempts"] == 2
    if (whole / "model.safetensors").exists():
        assert same(weights(out / name), weights(whole))
        steps = [row["step"] for row in resumed["history"]]
        assert steps == [
            row["step"] for row in json.loads((whole / "facts.json").read_text("utf-8"))["history"]
        ]
    for file in whole.rglob("*.json"):
        if file.name not in ("facts.json", "begun.json"):
            assert (out / name / file.relative_to(whole)).read_bytes() == file.read_bytes(), file.name
    if name == "tokenize":
        for part in ("train", "valid"):
            one, other = (
                checkpoint.load(place / "tokens.safetensors")[part] for place in (out / name, whole)
            )
            assert same(one, other)
    told = json.loads((whole / "facts.json").read_text(encoding="utf-8"))
    assert all(resumed[key] == told[key] for key in ("board", "samples", "bytes") if key in told)


def test_the_network_learns_its_own_right_answers_and_nothing_else(out, monkeypatch):
    program, lessons = module(), []
    forget(out, "reinforce")
    whole = program.lessons
    monkeypatch.setattr(
        program, "answers", lambda model, items, seed: [f"{place} {seed}" for place in range(len(items))]
    )
    monkeypatch.setattr(tasks, "is_right", lambda item, text: int(text.split()[0]) % 5 == 1)
    monkeypatch.setattr(program, "lessons", lambda items, seed: lessons.append(items) or whole(items, seed))
    make(out, "--until", "reinforce")
    known, told = {item.question for item in program.solved()}, facts(out, "reinforce")
    own = [item for item in lessons[0] if item.task != "talk"]
    assert 0 < len(own) == told["answered"] < told["questions"]
    assert len({item.question for item in own}) == len(own)
    assert all(int(item.answer.split()[0]) % 5 == 1 for item in own)
    assert not {item.question for item in own} & known
    assert {item.question for item in lessons[0] if item.task == "talk"} <= known


def test_no_demonstration_is_from_a_new_document(made, monkeypatch):
    program = module()
    library = documents.standard_library()
    monkeypatch.setattr(program, "LIBRARY", library, raising=False)
    monkeypatch.setattr(program, "OPTIONS", replace(program.PROFILES["smoke"], solved=1400), raising=False)
    read, new = documents.split(library, valid=0.1)
    told = [item.question for item in program.solved() if item.answer == module("model_data").UNKNOWN]
    assert len(told) > 100
    text = "\n".join(read.texts)
    assert all(line in text for line in told)
    assert not all(line in "\n".join(new.texts) for line in told)


def test_an_answer_that_does_not_end_is_empty(made, monkeypatch):
    program = module()
    monkeypatch.setattr(program, "OUT", made, raising=False)
    template = program.chat_template()
    drawn = [[*template.reply("12")], [*template.reply("12")][:-1]]
    monkeypatch.setattr(program.inference, "replies", lambda model, prompts, **options: drawn)
    assert program.answers(None, tasks.mixture(2, "train"), seed=0) == ["12", ""]


def test_other_options_make_anew_what_they_concern(out, monkeypatch, capsys):
    profiles = module().PROFILES
    monkeypatch.setitem(profiles, "smoke", replace(profiles["smoke"], reinforce=2))
    make(out, "--until", "reinforce")
    assert capsys.readouterr().out.count("is there") == 4
    assert len(facts(out, "reinforce")["history"]) == 2
    assert not (out / "reinforce.work").exists()


def test_a_question_of_the_test_that_was_trained_on_is_an_error(out, monkeypatch):
    forget(out, "evaluate")
    mixture = tasks.mixture
    monkeypatch.setattr(tasks, "mixture", lambda count, part, **options: mixture(count, "train", **options))
    with pytest.raises(AssertionError, match="were trained on"):
        make(out, "--until", "evaluate")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (tasks.Item("addition", "3 + 5?", "8"), tasks.Item("addition", "5 + 3?", "8"), True),
        (tasks.Item("units", "2 km in m?", "2000"), tasks.Item("units", "2000 m in km?", "2"), True),
        (tasks.Item("sorting", "Sort b a.", "a b"), tasks.Item("sorting", "Sort a b.", "a b"), True),
        (tasks.Item("addition", "3 + 5?", "8"), tasks.Item("addition", "3 + 6?", "9"), False),
        (
            tasks.Item("form", "ruki 2 times with -?", "ruki-ruki"),
            tasks.Item("form", "ruki 2 times with +?", "ruki+ruki"),
            False,
        ),
    ],
)
def test_mirror_images_are_known(one, other, alike):
    what_is_asked = module("model_board").what_is_asked
    assert (what_is_asked(one) == what_is_asked(other)) is alike


@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_at_the_sizes_of_a_profile_no_question_of_the_test_is_trained_on(profile):
    sizes, asked = module("model_sizes").PROFILES[profile], module("model_board").what_is_asked
    seen = tasks.mixture(sizes.solved, "train")
    seen += module("model_data").unsolved(sizes.unsolved, seen)
    test = {*map(asked, tasks.mixture(sizes.items, "test"))}
    assert len(test) == sizes.items
    assert not test & {*map(asked, seen)}


PROGRAM = """import json
OPTIONS = None
def first(work):
    return {"value": OPTIONS.one}
def second(work):
    return {"value": OPTIONS.two}
"""


def test_a_fingerprint_is_of_what_stands_above(tmp_path, monkeypatch):
    stages, found = module("model_stages"), {}
    options = models.TransformerConfig(1, 8, 16, 2, 1, 10)
    programs = {
        "as it is": PROGRAM,
        "below": PROGRAM + "LATER = 1\n",
        "above": PROGRAM.replace("import json", "import re"),
    }
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, (name, text) in enumerate(programs.items()):
        text = text.replace("OPTIONS.one", "OPTIONS.layers").replace("OPTIONS.two", "OPTIONS.width")
        (tmp_path / f"program{number}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        program = importlib.import_module(f"program{number}")
        found[name] = [stages.fingerprint(make, options, "text") for make in (program.first, program.second)]
        if name == "as it is":
            wider = replace(options, width=16, head_width=4)
            found["width"] = [
                stages.fingerprint(make, wider, "text") for make in (program.first, program.second)
            ]
            found["text"] = [
                stages.fingerprint(make, options, "another") for make in (program.first, program.second)
            ]
    plain = found.pop("as it is")
    assert found.pop("below") == plain
    assert found["width"][0] == plain[0]
    assert found["width"][1] != plain[1]
    assert not {*found["above"], *found["text"]} & {*plain}


def test_a_stage_that_another_code_has_begun_begins_anew(tmp_path):
    stages, seen = module("model_stages"), []
    options = SimpleNamespace(one=1, two=2, layers=1, width=8)  # all that this file names

    def build(work):
        seen.append([path.name for path in work.glob("left*")])
        (work / "left").write_text("half", encoding="utf-8")
        raise KilledError

    for others in ("one", "one", "two"):
        with suppress(KilledError):
            stages.stage(build, tmp_path, options, others)
    assert seen == [[], ["left"], []]
