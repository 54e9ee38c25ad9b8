"""Each sentence of a chapter that compares or judges names the assert that holds it, or is listed."""

import pytest
from tiny_notebook import CARD, code, notebook, text

from tools.notebooks import claims, prose
from tools.notebooks import notebook as nb_tools

MOST_CLAIMS = 110  # sentences in the list of exempt ones: this number only goes down


def breaches(sentence: str, tmp_path, assertion: str = "assert gray > color", **said: object) -> list[str]:
    cell = text(sentence, "read")
    cell.metadata["bigmodel"] = {"claims": [said] if said else []}
    nb = notebook(text("# Better", "title"), text(CARD, "card"), code(assertion, "gray-assert"), cell)
    return claims.has_backed_claims(tmp_path / "04_cifar_training.ipynb", nb)


@pytest.mark.parametrize(
    "sentence",
    [
        "Gray images look worst by far.",
        "It hardly matters.",
        "- One is level with the other.",
        "The loss\nfalls.",
        "This takes less memory.",
    ],
)
def test_a_sentence_that_judges_needs_an_assert(sentence, tmp_path):
    (found,) = breaches(sentence, tmp_path)
    assert "claims " + repr(" ".join(sentence.removeprefix("- ").split())) in found.replace("'- ", "'")


@pytest.mark.parametrize(
    "sentence",
    [
        "It is best {cite}`someone`.",
        "Which is better?",
        "## A better way",
        "It prints `the best` one.",
        "```python\nbest = 3\n```",
    ],
)
def test_other_sentences_need_none(sentence, tmp_path):
    assert breaches(sentence, tmp_path) == []


@pytest.mark.parametrize(
    ("said", "assertion", "problem"),
    [
        ({"phrase": "look worst by far", "cell": "gray-assert"}, "assert gray > color", ""),
        (
            {"phrase": "look best by far", "cell": "gray-assert"},
            "assert gray > color",
            "does not say 'look best by far'",
        ),
        (
            {"phrase": "look worst by far", "cell": "gray"},
            "assert gray > color",
            "cell gray, which asserts nothing",
        ),
        ({"phrase": "look worst by far", "cell": "gray-assert"}, "print(gray)", "which asserts nothing"),
        ({"phrase": "look worst by far", "cell": "gray-assert"}, "assert True", "which asserts nothing"),
        ({"phrase": "look worst by far"}, "assert gray > color", "has a claim with ['phrase']: phrase, cell"),
    ],
)
def test_a_claim_names_an_assert_and_stands_there(said, assertion, problem, tmp_path):
    found = breaches("Gray images look\nworst by far.", tmp_path, assertion, **said)
    assert [problem in line for line in found] == ([True] if problem else []), found


def test_a_bound_number_backs_its_sentence(tmp_path):
    cell = text("It is better, at half the cost.", "read")
    cell.metadata["bigmodel"] = {
        "numbers": [{"phrase": "at {} the cost", "value": "a / b", "format": "part"}]
    }
    assert claims.has_backed_claims(tmp_path / "04_cifar_training.ipynb", notebook(cell)) == []


def test_the_list_of_exempt_sentences_only_gets_shorter():
    listed = {(stem, line) for stem, lines in prose.exempt(claims.EXEMPT).items() for line in lines}
    said = {
        (path.stem, sentence)
        for path in nb_tools.find([])
        for cell in claims.texts(nb_tools.read(path))
        for sentence in claims.judging(cell)
        if not claims.backing(cell, sentence)
    }
    assert listed - said == set(), "stand in no chapter, or name their assert now: take them out of the list"
    assert len(listed) <= MOST_CLAIMS


def test_the_lister_shows_each_sentence_with_its_assert(tmp_path, monkeypatch, capsys):
    cell = text("Gray images look worst by far. Color is better.", "read")
    cell.metadata["bigmodel"] = {"claims": [{"phrase": "look worst by far", "cell": "gray-assert"}]}
    nb_tools.write(tmp_path / "04_x.ipynb", notebook(cell))
    monkeypatch.setattr(claims.notebook, "find", lambda names: [tmp_path / "04_x.ipynb"])
    monkeypatch.setattr("sys.argv", ["claims"])
    claims.main()
    assert capsys.readouterr().out == (
        "04_x read [gray-assert] Gray images look worst by far.\n04_x read [-] Color is better.\n"
    )
