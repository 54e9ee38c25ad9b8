"""What other programs read of the site: descriptions, social cards, `book.json`, the cover, the sitemap."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import bigmodel_social
import pytest
from bigmodel_status import notebook_names, toc_files
from bs4 import BeautifulSoup
from docutils.core import publish_doctree
from PIL import Image
from rooms import ROOT
from yaml import safe_load

PAGES = toc_files(safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
SITE = "https://ann.github.io/book"


@pytest.fixture
def app(tmp_path: Path) -> SimpleNamespace:
    (tmp_path / "_static").mkdir()
    return SimpleNamespace(
        srcdir=ROOT,
        outdir=tmp_path,
        builder=SimpleNamespace(format="html"),
        config=SimpleNamespace(html_title="", project="From Zero with Torch"),
        env=SimpleNamespace(found_docs={"book/intro", "notebooks/03_cnn"}),
    )


def head(app: SimpleNamespace, page: str, text: str = "Words that are long enough.") -> dict[str, str]:
    doctree = publish_doctree(f"Title\n=====\n\n{text}", settings_overrides={"doctitle_xform": False})
    context = {"metatags": "", "title": "A <em>title</em>"}
    bigmodel_social.describe_page(app, page, "page.html", context, doctree)
    tags = BeautifulSoup(context["metatags"], "html.parser").find_all("meta")
    return {tag.get("property") or tag["name"]: tag["content"] for tag in tags}


def test_chapter_is_described_by_its_goals(app: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOOK_SITE_URL", raising=False)
    tags = head(app, "notebooks/03_cnn")
    assert tags["description"].startswith("You will be able to fit a line in three ways")
    assert len(tags["description"]) <= 200
    assert tags["og:title"] == "A title"
    assert not {"og:url", "og:image"} & tags.keys()


def test_another_page_is_described_by_its_first_paragraph(app: SimpleNamespace) -> None:
    assert head(app, "book/faq", 'Say "<b>" & then go on.')["description"] == 'Say "<b>" & then go on.'
    assert head(app, "book/faq", "Short.")["og:description"].endswith("From Zero with Torch.")


def test_addresses_are_absolute_where_the_site_is_known(
    app: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOK_SITE_URL", f"{SITE}/")
    tags = head(app, "book/faq")
    assert tags["og:url"] == f"{SITE}/book/faq.html"
    assert tags["og:image"] == f"{SITE}/_static/cover.png"
    bigmodel_social.write_site_files(app, None)
    places = [place.text for place in ET.parse(app.outdir / "sitemap.xml").findall(".//{*}loc")]
    assert places == [f"{SITE}/book/intro.html", f"{SITE}/notebooks/03_cnn.html"]


def test_no_sitemap_of_a_site_without_an_address(
    app: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BOOK_SITE_URL", raising=False)
    bigmodel_social.write_site_files(app, None)
    assert sorted(path.name for path in app.outdir.iterdir()) == ["_static", "book.json"]
    bigmodel_social.write_site_files(app, ValueError("a failed build"))


@pytest.mark.parametrize("length", [10, 199, 200, 201, 400])
def test_description_ends_at_a_word(length: int) -> None:
    text = bigmodel_social.first_sentences(("word, " * 100)[:length])
    assert len(text) <= 200
    assert text.endswith("word…") or length <= 200


def test_book_json_tells_of_each_chapter(built_book: Path) -> None:
    book = json.loads((built_book / "book.json").read_text(encoding="utf-8"))
    assert [chapter["page"] for chapter in book["chapters"]] == [f"{n}.html" for n in notebook_names(ROOT)]
    for number, chapter in enumerate(book["chapters"]):
        assert chapter["number"] == number
        assert (built_book / chapter["page"]).is_file()
        assert len(chapter["objectives"]) > 60
        assert len(chapter["prerequisites"]) > 10
        assert chapter["profiles"].keys() == {"smoke", "laptop", "gpu"}
        for profile in chapter["profiles"].values():
            assert re.fullmatch(r".*\d+ GB.*", profile["memory"])
            assert profile.keys() == {"run_time", "memory", "what_it_does"}
        assert not re.search(r"[`*\[]", json.dumps(chapter))


def test_each_page_has_a_description_of_its_own(built_book: Path) -> None:
    texts = {}
    for name in PAGES:
        head, _, _ = (built_book / f"{name}.html").read_text(encoding="utf-8").partition("</head>")
        page = BeautifulSoup(head, "html.parser")
        (tag,) = page.head.select('meta[name="description"]')
        (title,) = page.head.select('meta[property="og:title"]')
        assert 20 <= len(tag["content"]) <= 200
        assert title["content"] in page.title.get_text()
        texts[name] = tag["content"]
    assert len(set(texts.values())) == len(PAGES)
    with Image.open(built_book / "_static" / "cover.png") as cover:
        assert cover.size == (1200, 630)
