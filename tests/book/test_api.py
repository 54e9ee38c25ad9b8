"""The package reference: every public name has its entry, its chapter, and links that lead there and back."""

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import bigmodel_api
import pytest
from bigmodel_api import Name
from bs4 import BeautifulSoup, Tag
from rooms import ROOT

import bigmodel_helpers

ROOMS = sorted(set(bigmodel_helpers.__all__) - {"__version__"})
CHAPTERS = {int(path.name[:2]): path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


def functions_and_classes(module: ModuleType, prefix: str) -> set[str]:
    """Return what a module defines itself, or what a room in a room offers, as a reader types it."""
    if hasattr(module, "__path__"):
        return {f"{prefix}.{name}" for name in module.__all__}
    return {
        f"{prefix}.{name}"
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
        if inspect.isfunction(thing) or inspect.isclass(thing)
    }


def offered(room: str) -> set[str]:
    """Return all names of a room as a reader types them, found without the help of the extension."""
    module = importlib.import_module(f"bigmodel_helpers.{room}")
    if room in ("runtime", "exercises"):
        return functions_and_classes(module, room)
    names = set()
    for name in module.__all__:
        thing = getattr(module, name)
        names |= functions_and_classes(thing, name) if inspect.ismodule(thing) else {f"{room}.{name}"}
    return names


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def entries(page: BeautifulSoup) -> list[Tag]:
    """Return the signatures on a page, but for those of methods and attributes."""
    return [entry for entry in page.article.select("dt.sig") if not entry.find_parent("dd")]


def typed(entry: Tag) -> str:
    return "".join(part.get_text() for part in entry.select(".descclassname, .descname"))


def public_names() -> list[Name]:
    return [name for name in bigmodel_api.all_names() if not name.is_constant]


# ---------------------------------------------------------------------------------------- names


def test_each_room_has_its_page() -> None:
    assert sorted(bigmodel_api.ROOMS) == ROOMS
    assert sorted(path.stem for path in (ROOT / "book" / "api").glob("*.md")) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_page_of_a_room_shows_what_it_offers_and_nothing_else(built_book: Path, room: str) -> None:
    page = soup(built_book / "book" / "api" / f"{room}.html")
    shown = [typed(entry) for entry in entries(page)]
    assert len(shown) == len(set(shown))
    also = {link.get_text() for link in page.article.select("div.also code")}
    constants = {
        name.typed for part in bigmodel_api.room_names(room).values() for name in part if name.is_constant
    }
    assert {*shown, *also} - constants == offered(room) - constants
    assert constants <= {*shown, *also}


def test_constants_say_what_they_are() -> None:
    constants = [name for name in bigmodel_api.all_names() if name.is_constant]
    assert [name.typed for name in constants if not bigmodel_api.comment(name.module, name.origin[1])] == []


@pytest.mark.parametrize("room", ROOMS)
def test_signatures_are_short_and_their_types_are_links(built_book: Path, room: str) -> None:
    page = soup(built_book / "book" / "api" / f"{room}.html")
    for entry in page.article.select("dt.sig"):
        assert "bigmodel_helpers." not in entry.get_text()
        for word in entry.find_all(
            "span", class_="pre", string=re.compile("^(Tensor|Module|Generator|dtype)$")
        ):
            if "n" not in word.parent.get("class", ()):  # the name of an argument
                link = word.find_parent("a")
                assert link, f"{entry.get_text()}: {word.get_text()} is no link"
                assert link["href"].startswith("https://docs.pytorch.org/docs/stable/")


def test_other_pages_link_to_entries(built_book: Path) -> None:
    links = {
        link["href"] for link in soup(built_book / "book" / "outlook.html").article.find_all("a", href=True)
    }
    assert "api/models.html#bigmodel_helpers.models.ByteLM" in links


# ------------------------------------------------------------------------------------- chapters


def test_every_public_name_names_a_chapter_that_exists() -> None:
    wrong = {name.typed: name.chapter for name in public_names() if name.chapter not in CHAPTERS}
    assert wrong == {}, "write 'Introduced in chapter N.' into the docstring, or into that of its module"
    assert len(public_names()) > 100


def test_entries_link_to_chapters_and_chapters_to_entries(built_book: Path) -> None:
    pages = {room: soup(built_book / "book" / "api" / f"{room}.html") for room in ROOMS}
    chapters = {number: soup(built_book / "notebooks" / f"{name}.html") for number, name in CHAPTERS.items()}
    for name in public_names():
        room = name.path.partition(".")[0]
        entry = pages[room].find(id=f"bigmodel_helpers.{name.path}")
        link = entry.find_next_sibling("dd").select_one("div.introduced a")
        assert link["href"] == f"../../notebooks/{CHAPTERS[name.chapter]}.html", name.typed
        target = f"../book/api/{room}.html#bigmodel_helpers.{name.path}"
        found = chapters[name.chapter].select_one(f'.admonition.introduced a[href="{target}"]')
        assert found, f"chapter {name.chapter} does not list {name.typed}"
        assert found.get_text() == name.typed
    listed = sum(len(page.select(".admonition.introduced a code")) for page in chapters.values())
    assert listed == len(public_names())


@pytest.mark.parametrize(
    ("own", "module", "chapter"),
    [
        ("Add. Introduced in chapter 4.", "Sums. Introduced in chapter 2.", 4),
        ("Add.\n\nIntroduced in\nchapter 12. It is exact.", "", 12),
        ("Add.", "Sums. Introduced in chapter 2.", 2),
        ("As chapter 3 says.", "From chapter 4.", None),
    ],
)
def test_chapter_comes_from_the_docstring_or_that_of_the_module(
    own: str, module: str, chapter: int | None
) -> None:
    def add() -> None: ...

    add.__doc__ = own
    assert Name("data.add", SimpleNamespace(__doc__=module), add).chapter == chapter


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Add. Introduced in chapter 4.", "Add."),
        ("Add. Introduced in chapter 4. Fast.", "Add. Fast."),
        ("Add.\n\nIntroduced in chapter 4. It is exact.", "Add.\n\nIt is exact."),
        ("Add. Introduced in\nchapter 12.\n\nFast.", "Add.\n\nFast."),
        ("Add, as chapter 4 does.", "Add, as chapter 4 does."),
    ],
)
def test_sentence_about_the_chapter_is_replaced_by_the_link(text: str, left: str) -> None:
    assert bigmodel_api.without_chapter(text) == left


@pytest.mark.parametrize(
    ("docstring", "title", "rest"),
    [
        ("Digits: real ones.", "Digits", "real ones."),
        ("Is B better? Tests.", "Is B better?", " Tests."),
        ("Batches of tensors.", "Batches of tensors", ""),
        ("Networks (He 2016).", "Networks", "(He 2016)."),
        ("Adapters", "Adapters", ""),
    ],
)
def test_title_of_a_section_is_the_start_of_the_docstring(docstring: str, title: str, rest: str) -> None:
    assert bigmodel_api.TITLE.match(docstring).groups() == (title, rest)
