"""A mistake in a page or in a record is told in words: which file, what is wrong, what to do."""

import json
from pathlib import Path
from types import SimpleNamespace

import bigmodel_book
import bigmodel_cards
import bigmodel_goals
import bigmodel_llama_cpp
import bigmodel_model
import bigmodel_recorded
import bigmodel_records
import bigmodel_scaling
import bigmodel_status
import pytest
from docutils.parsers.rst import DirectiveError
from docutils.utils import new_document
from made_up import made_up_record
from rooms import ROOT
from sphinx.errors import ExtensionError


def made(directive: type, argument: str, root: Path = ROOT, **options: str) -> list:
    """Run `directive` as a page of the book in `root` would."""
    document = new_document("page")
    document.settings.env = SimpleNamespace(
        srcdir=str(root),
        docname="book/page",
        note_dependency=lambda _: None,
        relfn2path=lambda name: (f"book/{name}", str(root / "book" / name)),
    )
    state = SimpleNamespace(document=document)
    return directive("it", [argument], options, [], 1, 0, "", state, SimpleNamespace(reporter=None)).run()


@pytest.mark.parametrize("options", [{}, {"alt": ""}, {"alt": " "}])
def test_a_drawing_without_alternative_text_is_named(options: dict[str, str]) -> None:
    with pytest.raises(DirectiveError) as error:
        made(bigmodel_book.InlineSvg, "map.svg", **options)
    message = "book/map.svg has no alternative text: say what it shows in a line `:alt: ...`"
    assert error.value.msg == message
    (node,) = made(bigmodel_book.InlineSvg, "map.svg", alt="A map")
    assert 'aria-label="A map"' in node.astext()


@pytest.mark.parametrize(
    ("directive", "argument", "message"),
    [
        (bigmodel_book.InlineSvg, "none.svg", "book/none.svg does not exist: correct the name"),
        (bigmodel_book.Curves, "5", "no run of chapter 5 is recorded: name another chapter"),
        (bigmodel_book.Curves, "four", "no run of chapter four is recorded: name another chapter"),
        (bigmodel_recorded.Scaling, "law", "'law' is no part of it: use figure, laws, predictions, runs"),
        (bigmodel_recorded.LlamaCpp, "both", "'both' is no part of it: use equal, speed"),
        (bigmodel_recorded.Model, "price", "'price' is no part of it: use board, tasks, samples, run"),
        (bigmodel_book.Room, "kitchen", "'kitchen' is no room: use runtime, data, "),
        (bigmodel_book.Names, "os", "'os' is no room: use runtime, data, "),
    ],
)
def test_a_wrong_argument_is_told_with_the_right_ones(directive: type, argument: str, message: str) -> None:
    with pytest.raises(DirectiveError) as error:
        made(directive, argument, alt="A drawing of nothing")
    assert error.value.msg.startswith(message)


def test_an_unknown_number_is_told_with_its_page() -> None:
    role = bigmodel_recorded.RecordedNumber("scaling.json", lambda path: {"sizes": "six"})
    env = SimpleNamespace(srcdir=str(ROOT), docname="book/page", note_dependency=lambda _: None)
    role.inliner = SimpleNamespace(document=SimpleNamespace(settings=SimpleNamespace(env=env)))
    role.text = "shares"
    with pytest.raises(
        ExtensionError, match=r"^book/page: book/scaling\.json gives no number 'shares': use sizes"
    ):
        role.run()


READERS = {
    "records": lambda path: bigmodel_records.load_records(path.parent),
    "cards": bigmodel_cards.card_markdown,
    "goals": bigmodel_goals.goals_markdown,
    "llama_cpp": bigmodel_llama_cpp.load_llama_cpp,
    "model": bigmodel_model.load_model,
    "scaling": bigmodel_scaling.load_scaling,
    "stamp": bigmodel_status.read_stamp,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[]", "not a JSON object"), ("{}", "^broken.json lacks ")]
)
def test_a_broken_record_is_named(tmp_path: Path, reader: str, text: str, message: str) -> None:
    (tmp_path / "broken.json").write_text(text, encoding="utf-8")
    with pytest.raises(ExtensionError, match=message) as error:
        READERS[reader](tmp_path / "broken.json")
    assert str(error.value).startswith("broken.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chapter": "four"}, "run.json: chapter 'four' is no number"),
        ({"history": [{"epoch": 1, "seconds": 2.0}]}, "run.json: an epoch lacks its number, seconds or"),
    ],
)
def test_an_impossible_part_of_a_record_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(made_up_record(**changes)), encoding="utf-8")
    with pytest.raises(ExtensionError, match=message):
        bigmodel_records.load_records(tmp_path)
