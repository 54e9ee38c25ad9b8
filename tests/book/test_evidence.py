"""A claim that the checks skip is held against what the last run saw."""

import pytest
from tiny_notebook import code, notebook

from tools.notebooks import evidence

SEEN = {"a": 0.2, "b": 0.3, "best(x)": "late", "x.shape": [2, 3], "ok": True}
SEEN |= {"loss": {"float": "inf"}, "x": {"kind": "Dict"}}


def breaches(source: str, tmp_path, seen=SEEN) -> list[str]:
    nb = notebook(code(source, "claim"))
    nb.metadata["bigmodel"]["evidence"] = {"claim": seen}
    return evidence.has_claims_that_hold(tmp_path / "04_cifar_training.ipynb", nb)


@pytest.mark.parametrize(
    "source",
    [
        "assert a < b",
        "assert 0 < a < b < loss",
        "assert not a > b, f'{a}'",
        "assert a < b and best(x) == 'late'",
        "assert a > b or ok",
        "assert x.shape == (2, 3)",
        "assert x != 3",
        "assert ok",
        "assert best(x) in {'late', 'early'}",
        "if real:\n    assert a < b\nelse:\n    assert unseen > b",
        "for a in some:\n    assert a < b",
        "def check_a():\n    assert a > b",
        "assert True",
    ],
)
def test_what_was_seen_holds(source, tmp_path):
    assert breaches(source, tmp_path) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("assert a > b", "asserts 'a > b', but its last run saw {'a': 0.2, 'b': 0.3}"),
        ("assert a < 0.1", "asserts 'a < 0.1', but its last run saw {'a': 0.2}"),
        ("assert not a < b", "but its last run saw"),
        ("assert a < b and best(x) == 'early'", "but its last run saw"),
        ("assert a > b or not ok", "but its last run saw"),
        ("assert x.shape == (3, 2)", "but its last run saw"),
        ("assert not ok", "but its last run saw"),
        ("if real:\n    with torch.no_grad():\n        assert a > b", "but its last run saw"),
        ("assert c < d", "of which its last run tells nothing; cure: make execute NB=04_cifar_training"),
    ],
)
def test_a_reversed_claim_is_found(source, problem, tmp_path):
    (found,) = breaches(source, tmp_path)
    assert problem in found


def test_a_claim_without_evidence_is_found(tmp_path):
    assert "of which its last run tells nothing" in breaches("assert a < b", tmp_path, {})[0]
