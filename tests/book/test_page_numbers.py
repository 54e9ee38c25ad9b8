"""Numbers in the prose of pages are those of the records."""

import pytest

from tools.notebooks import page_numbers


def test_the_pages_say_what_is_recorded():
    assert page_numbers.problems() == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("27 million card hours", "72 million card hours", "does not say what is recorded"),
        ("1.35 times", "1.53 times", "does not say what is recorded"),
        ("less than three hours", "less than thirty hours", "does not say what is recorded"),
        ("5,300 households", "thousand households", "stands 0 times"),
    ],
)
def test_a_changed_number_is_found(old, new, problem, tmp_path, monkeypatch):
    page = (page_numbers.notebook.ROOT / "book" / "outlook.md").read_text(encoding="utf-8")
    numbers = page_numbers.bound()["book/outlook.md"]
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "outlook.md").write_text(page.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(page_numbers, "bound", lambda: {"book/outlook.md": numbers})
    page_numbers.names()
    monkeypatch.setattr(page_numbers.notebook, "ROOT", tmp_path)
    (found,) = page_numbers.problems()
    assert problem in found


def test_records_can_be_named():
    phrase = {"phrase": "it has {} parameters", "format": ",.0f"}
    numbers = [phrase | {"value": "records['cifar10_long']['parameters']"}]
    assert page_numbers.anew("it has 1 parameters", numbers) == "it has 1,972,792 parameters"
    assert page_numbers.names()["goals"]["convolution_conv2d"] > 1
    assert page_numbers.names()["stamps"]["04"]["duration_s"] > 1
    with pytest.raises(ValueError, match=r"book/numbers.yml binds 'it has .*: KeyError\('short'\)"):
        page_numbers.anew("it has 1 parameters", [phrase | {"value": "records['short']"}])
