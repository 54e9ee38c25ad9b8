"""Decoding of CTC: the best path, and the sum over all paths, with and without a list of words."""

from collections import defaultdict
from itertools import groupby, product

import pytest
import torch
from spoken import generator

from bigmodel_helpers.data import DIGITS, LETTERS
from bigmodel_helpers.inference import ctc_beam, ctc_greedy


def random_scores(steps: int, letters: int, seed: int, sharpness: float = 2.0) -> torch.Tensor:
    return sharpness * torch.randn(steps, 1 + letters, generator=generator(seed))


def text_of(path: tuple[int, ...], letters: str) -> str:
    return "".join(letters[number - 1] for number, _ in groupby(path) if number)


def chances(scores: torch.Tensor, letters: str) -> dict[str, float]:
    """Return the probability of each text, from the list of all paths."""
    p, found = scores.double().softmax(1).tolist(), defaultdict(float)
    for path in product(range(1 + len(letters)), repeat=len(scores)):
        chance = 1.0
        for step, number in zip(p, path, strict=True):
            chance *= step[number]
        found[text_of(path, letters)] += chance
    return found


def path(numbers: str, letters: str) -> torch.Tensor:
    """Return certain scores; ``-`` is the blank."""
    return 20 * torch.eye(1 + len(letters))[[1 + letters.find(sign) for sign in numbers]]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [("aa-abb", "aab"), ("---", ""), ("-a-", "a"), ("abba", "aba"), ("a-a-a", "aaa"), ("", "")],
)
def test_repeated_letters_are_merged_then_blanks_left_out(numbers, text):
    scores = path(numbers, "ab") if numbers else torch.zeros(0, 3)
    assert ctc_greedy(scores, "ab") == ctc_beam(scores, "ab", width=1) == ctc_beam(scores, "ab") == text


def test_greedy_is_the_text_of_the_likeliest_path():
    for seed in range(50):
        scores = random_scores(5, 2, seed)
        best = max(
            product(range(3), repeat=5), key=lambda path: sum(scores[t, n].item() for t, n in enumerate(path))
        )
        assert ctc_greedy(scores, "ab") == ctc_greedy(scores.log_softmax(1), "ab") == text_of(best, "ab")


@pytest.mark.parametrize(("steps", "letters"), [(1, "a"), (6, "ab"), (5, "abc")])
def test_a_wide_beam_finds_the_likeliest_text_of_all(steps, letters):
    differs = 0
    for seed in range(40):
        scores = random_scores(steps, len(letters), seed, 1.0)
        found = chances(scores, letters)
        best = ctc_beam(scores, letters, width=10_000)
        assert found[best] == pytest.approx(max(found.values()))
        assert best == ctc_beam(scores.log_softmax(1) + 3, letters, width=10_000)
        differs += best != ctc_greedy(scores, letters)
    assert differs or steps == 1  # else these scores tell the two apart nowhere


@pytest.mark.parametrize("words", [["a", "ab"], ("ab", "aba"), {"aab", "b"}, ["a", "aa", "aaa"]])
def test_a_wide_beam_finds_the_likeliest_text_of_the_words(words):
    letters = "ab "
    for seed in range(12):
        scores = random_scores(6, 3, seed, 1.5)
        found = {
            text: chance
            for text, chance in chances(scores, letters).items()
            if not text or all(word in words for word in text.split(" "))
        }
        best = ctc_beam(scores, letters, width=10_000, words=words)
        assert best in found
        assert found[best] == pytest.approx(max(found.values()))


@pytest.mark.parametrize("width", [1, 2, 8])
def test_words_are_all_that_is_ever_given(width):
    some = 0
    for seed in range(200):
        scores = random_scores(4 + seed % 23, len(LETTERS), seed, 3.0)
        text = ctc_beam(scores, LETTERS, width=width, words=DIGITS)
        assert not text or {*text.split(" ")} <= {*DIGITS}
        some += bool(text)
    assert some


def test_a_sound_that_ends_within_a_word_has_the_words_before():
    scores = path("one-t", LETTERS)
    assert ctc_beam(path("one tw", LETTERS), LETTERS, width=1, words=DIGITS) == "one"
    assert ctc_beam(scores, LETTERS, width=1, words=["one"]) == "one"
    assert ctc_beam(path("tw", LETTERS), LETTERS, width=1, words=DIGITS) == ""
    assert ctc_beam(path("one ", LETTERS), LETTERS, width=1, words=DIGITS) == "one"


def test_words_repair_what_was_heard():
    scores = path("five", LETTERS)
    scores[1, 1 + LETTERS.index("o")] = 21  # "fove" is the likeliest
    assert ctc_beam(scores, LETTERS) == ctc_greedy(scores, LETTERS) == "fove"
    assert ctc_beam(scores, LETTERS, words=DIGITS) == "five"
    assert ctc_beam(scores, LETTERS, words=[]) == ""
    assert ctc_beam(path("---", "ab"), "ab", words=["a"]) == ""


def test_a_wider_beam_adds_up_what_a_narrow_one_loses():
    scores = torch.tensor([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]]).log()
    assert ctc_greedy(scores, "ab") == ""
    assert ctc_beam(scores, "ab") == "a"  # 0.4 * 0.35 twice and 0.35 squared


@pytest.mark.parametrize("decode", [ctc_greedy, ctc_beam])
@pytest.mark.parametrize("shape", [(4, 2), (4, 4), (3,), (1, 4, 3)])
def test_shapes_that_do_not_fit(decode, shape):
    with pytest.raises(ValueError, match=r"for 2 letters: pass \(steps, 3\)"):
        decode(torch.zeros(shape), "ab")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "a width of 0: take 1 or more"),
        ({"words": ["a", "abc"]}, "the word 'abc' cannot be spelled with 'ab '"),
        ({"words": [""]}, "the word '' cannot"),
        ({"words": ["a b"]}, "the word 'a b' cannot"),
    ],
)
def test_widths_and_words_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        ctc_beam(torch.zeros(2, 4), "ab ", **options)


def test_scores_of_a_network_that_has_diverged_are_refused():
    for bad in (float("nan"), float("inf")):
        scores = torch.zeros(4, 3)
        scores[2, 1] = bad
        for decode in (ctc_greedy, ctc_beam):
            with pytest.raises(ValueError, match="the network has diverged"):
                decode(scores, "ab")


def test_words_may_come_from_anywhere_but_a_text():
    scores = 9 * torch.eye(3)[[1, 1, 0, 1, 2, 2]]
    assert ctc_beam(scores, "ab", words=(word for word in ["ab", "aab"])) == "aab"
    with pytest.raises(ValueError, match="words 'ab': pass a list of words"):
        ctc_beam(scores, "ab", words="ab")
