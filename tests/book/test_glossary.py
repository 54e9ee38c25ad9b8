"""The glossary: sorted terms, each with a Chinese name, a definition, and a chapter that uses it."""

import json
import re

import pytest
from tiny_notebook import ROOT

PAGE = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
BLOCK = re.fullmatch(r"# Glossary\n\n.+?\n\n```\{glossary\}\n(.+)\n```\n", PAGE, re.DOTALL)[1]
ENTRY = re.compile(r"(?P<term>\S.*)\n  \*\*(?P<chinese>[^*]+)\.\*\* (?P<rest>.+)", re.DOTALL)
ENTRIES = [ENTRY.fullmatch(entry) for entry in BLOCK.split("\n\n")]
LINK = re.compile(r"\[chapter (\d+)\]\(\.\./(notebooks/(\d\d)_\w+\.ipynb)\)")
WORDS_OF_THE_CHAPTER = {  # where the chapter has the term in another form
    "asynchronous execution": "works asynchronously",
    "chat template": "text with marks",
    "elastic training": "train_elastic",
    "KV cache": "keys and values. So we keep these, in a cache",
    "n-gram model": "gram model",
    "transfer learning": "what transfers",
    "vanishing gradient": "gradient vanishes",
}


def plain(text: str) -> str:
    """Return `text` in lower case, without emphasis, and with a space for each hyphen, underscore or break."""
    return re.sub(r"[-_\s]+", " ", re.sub(r"[*`]", "", text)).casefold()


def occurs(words: str, text: str) -> bool:
    """Tell whether `words` or their plural occur in `text`, which is plain already."""
    return re.search(rf"(?<!\w){re.escape(plain(words))}(?:s|es)?(?!\w)", text) is not None


def chapter(path: str) -> str:
    cells = json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]
    return plain("\n".join("".join(cell["source"]) for cell in cells))


CHAPTERS = {path: chapter(path) for path in sorted({link[1] for link in LINK.findall(PAGE)})}
TERMS = [entry["term"] for entry in ENTRIES if entry]


def test_every_entry_is_a_term_a_chinese_name_and_a_text():
    broken = [entry for entry in BLOCK.split("\n\n") if not ENTRY.fullmatch(entry)]
    assert broken == []


def test_there_are_enough_terms():
    assert len(TERMS) >= 110


def test_terms_are_unique_and_sorted():
    folded = [term.casefold() for term in TERMS]
    assert folded == sorted(set(folded))


def test_terms_can_be_named_by_a_role():
    # " : " would start a classifier, and angle brackets or an exclamation mark another kind of target.
    assert [term for term in TERMS if re.search(r" : |[<>`*]|^[!~]", term)] == []


def test_every_chapter_so_far_has_terms():
    assert {path[10:12] for path in CHAPTERS} >= {f"{number:02}" for number in range(11)}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry and entry["term"])
def test_entry_is_complete_and_its_chapter_uses_the_term(entry):
    assert re.search("[\u4e00-\u9fff]", entry["chinese"])
    definition = " ".join(LINK.sub("", entry["rest"]).removesuffix(" See .").split())
    assert 20 <= len(definition) <= 400
    links = LINK.findall(entry["rest"])
    assert links
    for number, path, prefix in links:
        assert int(number) == int(prefix)
        assert occurs(WORDS_OF_THE_CHAPTER.get(entry["term"], entry["term"]), CHAPTERS[path]), path


def test_other_forms_are_needed():
    assert set(WORDS_OF_THE_CHAPTER) <= set(TERMS)
    for entry in ENTRIES:
        if entry["term"] in WORDS_OF_THE_CHAPTER:
            assert not any(
                occurs(entry["term"], CHAPTERS[path]) for _, path, _ in LINK.findall(entry["rest"])
            )


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        ("micro-batch", "Cut it into **micro-batches**.", True),
        ("recurrent network", "a *recurrent*\nnetwork", True),
        ("rank", "a low-rank change", True),
        ("rank", "a crankshaft", False),
        ("no_sync", "inside `no_sync()`", True),
    ],
)
def test_occurrence_is_by_whole_words(words, text, found):
    assert occurs(words, plain(text)) is found


USUAL_NAMES = {  # the standard Chinese terms, which others were mistaken for
    "autocast": "自动类型转换",
    "average precision": "平均精度",
    "backpropagation": "反向传播算法",
    "backward pass": "反向传播",
    "corruption": "图像损坏",
    "forward pass": "前向传播",
}


def test_chinese_names_are_the_usual_ones_and_differ():
    names = {entry["term"]: entry["chinese"] for entry in ENTRIES}
    assert {term: names[term] for term in USUAL_NAMES} == USUAL_NAMES
    taken = {"自动混合精度", "提前编译"}  # AMP and AOT compilation as a whole
    assert not taken & set(names.values())
    assert len(set(names.values())) == len(names)
