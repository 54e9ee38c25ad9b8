"""Errors of transcripts: the least number of changes, rates over all that was said, intervals over voices."""

import random
from functools import cache

import pytest
import torch

from bigmodel_helpers.evaluation import bootstrap, count_errors, edit_distance, error_rate


def by_recursion(a: str, b: str) -> int:
    """The definition: change the first sign, leave it out, or insert one before it."""

    @cache
    def least(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        return min(least(i + 1, j) + 1, least(i, j + 1) + 1, least(i + 1, j + 1) + (a[i] != b[j]))

    return least(0, 0)


def test_distance_is_that_of_the_definition_and_a_metric():
    rng = random.Random(0)
    strings = ["".join(rng.choices("abc", k=rng.randint(0, 7))) for _ in range(40)]
    for a in strings:
        for b in strings:
            assert edit_distance(a, b) == by_recursion(a, b) == edit_distance(b, a)
        assert edit_distance(a, a) == 0
        assert edit_distance(a, "") == len(a)
    for a, b, c in zip(strings, strings[1:], strings[2:], strict=False):
        assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_distance_of_any_sequences():
    assert edit_distance(["one", "two"], ("two",)) == 1
    assert edit_distance([1, 2, 3], range(1, 4)) == 0


@pytest.mark.parametrize(
    ("heard", "said", "unit", "errors", "lengths"),
    [
        (["one two"], ["one too two"], "words", [1], [3]),
        (["one two"], ["one too two"], "characters", [4], [11]),
        (["", "  five   six "], ["one", "five six"], "words", [1, 0], [1, 2]),
        (["two one"], [""], "words", [2], [0]),
    ],
)
def test_errors_and_what_was_said_are_counted(heard, said, unit, errors, lengths):
    found = count_errors(heard, said, unit)
    assert [part.tolist() for part in found] == [errors, lengths]
    assert [part.dtype for part in found] == [torch.int64] * 2


def test_rate_is_over_all_that_was_said_and_can_exceed_one():
    assert error_rate(["a", "b b b"], ["b", "b b b"]).value == 0.25
    assert error_rate(["a b c", "d e"], ["x", "y"]).value == 2.5
    assert error_rate(["ab", "b"], ["bb", "b"], "characters").value == pytest.approx(1 / 3)
    same = error_rate(["one"] * 5, ["one"] * 5)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_interval_is_over_utterances_or_over_voices():
    heard = [word for i in range(30) for word in ["one" if i % 3 else "two"] * 10]
    voices = [f"voice {i}" for i in range(30) for _ in range(10)]
    alone = error_rate(heard, ["one"] * 300)
    together = error_rate(heard, ["one"] * 300, voices=voices)
    assert alone.value == together.value == pytest.approx(1 / 3)
    wrong, of = torch.tensor([10 * (i % 3 == 0) for i in range(30)]), torch.full((30,), 10)
    assert together == bootstrap(lambda wrong, of: wrong.sum() / of.sum(), wrong, of)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_voices_may_come_in_any_order_and_say_different_amounts():
    heard, said = ["one", "x", "one two three", "x x"], ["one", "one", "one two three", "one two"]
    found = error_rate(heard, said, voices=["b", "a", "b", "a"])
    assert found.value == pytest.approx(3 / 7)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(
    ("heard", "said", "options", "message"),
    [
        (["one"], ["one", "two"], {}, "1 texts heard, 2 said"),
        ([], [], {}, "0 texts heard, 0 said"),
        (["one"] * 2, ["one"] * 2, {"unit": "letters"}, "unit 'letters': take 'words' or 'characters'"),
        (["one"] * 2, ["", " "], {}, "nothing was said"),
        (["one"] * 2, ["one"] * 2, {"voices": ["a"]}, "1 voices for 2 texts"),
        (["one"] * 2, ["one"] * 2, {"voices": ["a", "a"]}, "at least 2"),
        (["one"], ["one"], {}, "at least 2"),
    ],
)
def test_what_cannot_be_counted(heard, said, options, message):
    with pytest.raises(ValueError, match=message):
        error_rate(heard, said, **options)


def test_draws_in_which_nothing_was_said_are_left_out():
    found = error_rate(["a", "b", "c"], ["a", "", "d"])
    assert 0 <= found.low <= found.value <= found.high < float("inf")
