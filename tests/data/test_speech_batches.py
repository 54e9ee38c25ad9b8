"""Batches of words and of strings of digits: what is said is what the letters spell, and time is enough for it."""

from itertools import islice, pairwise

import pytest
import torch
import torch.nn.functional as F
from spoken import generator, made_up, noise, spoken, tone

from bigmodel_helpers import data
from bigmodel_helpers.data import DIGITS, LETTERS, SoundChanges, SpeechSet, join_words, log_mel, pad_sounds

VOICES = SpeechSet(  # constant sounds: the loudness tells the voice, the digit and the take
    tuple(torch.full((6000,), 0.1 * voice + 0.01 * digit) for voice in (1, 2, 4) for digit in range(10)),
    DIGITS * 3,
    tuple(f"voice {voice}" for voice in (1, 2, 4) for _ in DIGITS),
    "made up",
)


def spelled(letters: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    return ["".join(LETTERS[i - 1] for i in part) for part in letters.split(lengths.tolist())]


def test_letters_are_those_of_the_digits_and_the_space_is_one():
    assert LETTERS[0] == " "
    assert {*LETTERS} == {*" ".join(DIGITS)}
    assert len({*LETTERS}) == len(LETTERS)


@pytest.mark.parametrize("samples", [720, 1040, 4321, 16_000])
def test_steps_are_half_of_the_frames(samples):
    assert data.steps_of(samples) == len(log_mel(torch.zeros(samples))) // 2


# ------------------------------------------------------------------------------------------ joined words


def test_joined_words_keep_their_order_and_their_gaps_lie_in_the_range():
    sounds, gaps = [torch.ones(5000), 10 * torch.ones(6000), 100 * torch.ones(4000)], []
    for seed in range(200):
        joined = join_words(sounds, generator(seed))
        places = []
        for worth, sound in zip((1, 10, 100), sounds, strict=True):
            here = (joined / worth).floor() % 10 == 1  # where words overlap, they are added
            (found,) = here.nonzero(as_tuple=True)
            assert len(found) == len(sound) == found[-1] - found[0] + 1
            places.append((int(found[0]), int(found[-1]) + 1))
        gaps += [start - end for (_, end), (start, _) in pairwise(places)]
        assert 0 <= places[0][0] == len(joined) - places[-1][1] < 2400
    assert -1200 <= min(gaps) < -1100
    assert 2300 < max(gaps) < 2400


def test_one_word_and_very_short_ones_are_joined():
    for sounds in ([noise(900)], [noise(10)] * 5, [noise(1)]):
        joined = join_words(sounds, generator(2))
        assert joined.sum() == pytest.approx(float(sum(sound.sum() for sound in sounds)), abs=1e-4)


# ------------------------------------------------------------------------------------------ single words


def test_a_pass_has_each_word_once_with_its_label():
    spoken_words = made_up(strings=0)
    batches = list(islice(data.keyword_batches(spoken_words, DIGITS[::-1], batch_size=5), 8))
    wanted = {
        9 - DIGITS.index(text): log_mel(pad_sounds([sound], 16_000))[0]
        for sound, text in zip(spoken_words.sounds[10:], DIGITS, strict=True)
    }
    for start in (0, 4):
        labels = torch.cat([labels for _, labels in batches[start : start + 4]])
        assert labels.bincount().tolist() == [2] * 10
    frames, labels = batches[0]
    assert (frames.shape, frames.dtype, labels.dtype) == ((5, 98, 40), torch.float32, torch.int64)
    for one, label in zip(frames, labels.tolist(), strict=True):
        assert (one.argmax(1) == wanted[label].argmax(1)).float().mean() > 0.9
    assert not torch.equal(batches[0][1], batches[4][1])


def test_what_is_left_of_a_pass_is_dropped():
    batches = list(islice(data.keyword_batches(made_up(strings=0), DIGITS, batch_size=8), 5))
    assert {len(labels) for _, labels in batches} == {8}


@pytest.mark.parametrize("options", [{}, {"changes": SoundChanges()}, {"mask": True}])
def test_same_seed_same_words(options):
    found = [
        next(data.keyword_batches(made_up(strings=0), DIGITS, batch_size=8, seed=seed, **options))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[2][0])


def test_words_are_changed_and_masked_where_it_is_asked():
    plain, changed, masked = (
        next(data.keyword_batches(made_up(strings=0), DIGITS, changes, batch_size=8, mask=mask))[0]
        for changes, mask in ((None, False), (SoundChanges(), False), (None, True))
    )
    assert not torch.allclose(plain, changed)
    assert 0.1 < (plain == masked).float().mean() < 1


def test_words_that_cannot_be_used():
    with pytest.raises(ValueError, match="20 sounds for batches of 64"):
        next(data.keyword_batches(made_up(strings=0), DIGITS))
    with pytest.raises(
        ValueError, match="the texts 'one two three', 'two three four', 'zero one two' are none"
    ):
        next(data.keyword_batches(made_up(), DIGITS, batch_size=4))


# --------------------------------------------------------------------------------------------- strings


def test_there_is_time_for_all_letters_with_the_default_changes():
    batches = data.string_batches(spoken("validation"), SoundChanges(), batch_size=50)
    for frames, steps, letters, lengths in islice(batches, 6):
        texts = spelled(letters, lengths)
        assert all({*text.split(" ")} <= {*DIGITS} for text in texts)
        assert letters.min() > 0
        assert letters.max() <= len(LETTERS)
        needed = [len(text) + sum(a == b for a, b in pairwise(text)) for text in texts]
        assert all(need <= step for need, step in zip(needed, steps.tolist(), strict=True))
        assert steps.max() <= frames.shape[1] // 2
        assert frames.isfinite().all()
        scores = torch.zeros(int(steps.max()), len(texts), 1 + len(LETTERS)).log_softmax(2)
        assert F.ctc_loss(scores, letters, steps, lengths, reduction="none").isfinite().all()


def test_a_joined_string_has_one_voice_and_says_what_it_spells():
    batches = data.string_batches(VOICES, batch_size=40, joined=1.0, longest=3)
    frames, steps, letters, lengths = next(batches)
    texts = spelled(letters, lengths)
    assert {len(text.split(" ")) for text in texts} == {1, 2, 3}
    assert frames.shape[1] >= 2 * steps.max()


def test_strings_are_those_of_one_voice(monkeypatch):
    joined, voices = [], set()

    def note(sounds, generator):
        joined.append([round(float(sound[0]), 2) for sound in sounds])
        return join_words(sounds, generator)

    monkeypatch.setattr(data.speech_batches, "join_words", note)
    _, _, letters, lengths = next(data.string_batches(VOICES, batch_size=60, joined=1.0, longest=4))
    for worth, text in zip(joined, spelled(letters, lengths), strict=True):
        names = {int(10 * one + 1e-6) for one in worth}
        assert len(names) == 1
        voices |= names
        assert [DIGITS[round(100 * one) % 10] for one in worth] == text.split(" ")
    assert voices == {1, 2, 4}


@pytest.mark.parametrize("joined", [0.0, 0.25, 1.0])
def test_the_share_of_joined_strings(joined):
    spoken_words = made_up(strings=2)
    _, steps, _, lengths = next(data.string_batches(spoken_words, batch_size=200, joined=joined, longest=1))
    share = float((lengths < 7).float().mean())
    assert share == pytest.approx(joined, abs=0.1 if 0 < joined < 1 else 0)
    assert (steps[lengths >= 7] == data.steps_of(18_000)).all()


def test_steps_count_the_sound_and_not_what_is_added_after_it():
    _, steps, _, _ = next(data.string_batches(made_up(), SoundChanges(speed=1.0), joined=0.0, batch_size=40))
    assert steps.min() < 40
    assert steps.max() > 80
    assert len(steps.unique()) > 20


@pytest.mark.parametrize("changes", [None, SoundChanges()])
def test_same_seed_same_strings(changes):
    found = [next(data.string_batches(made_up(), changes, batch_size=4, seed=seed)) for seed in (1, 1, 2)]
    assert all(map(torch.equal, found[0], found[1]))
    assert not torch.equal(found[0][2], found[2][2])
    assert [part.dtype for part in found[0]] == [torch.float32, *[torch.int64] * 3]


def test_a_voice_without_some_digits_says_the_others():
    batches = data.string_batches(made_up(("one", "six"), strings=0), batch_size=30, joined=1.0)
    _, _, letters, lengths = next(batches)
    assert {word for text in spelled(letters, lengths) for word in text.split(" ")} == {"one", "six"}


@pytest.mark.parametrize(
    ("spoken_words", "joined", "message"),
    [
        (made_up(strings=0), 0.75, "20 sounds, 0 of them strings, single digits in 2 voices"),
        (made_up(()), 0.75, "4 sounds, 4 of them strings, single digits in 0 voices"),
        (made_up((), 2, 0), 1.0, "0 sounds, 0 of them strings"),
        (SpeechSet((tone(800),), ("one left",), ("a",), ""), 0.0, "strings of left: pass strings of digits"),
    ],
)
def test_what_has_no_strings_or_no_digits(spoken_words, joined, message):
    with pytest.raises(ValueError, match=message):
        next(data.string_batches(spoken_words, joined=joined))


def test_short_sounds_keep_their_order():
    for seed in range(50):
        joined = data.join_words(
            [torch.full((300,), value) for value in (0.1, 0.7)], torch.Generator().manual_seed(seed)
        )
        first, second = ((joined - value).abs().lt(1e-6).nonzero().min() for value in (0.1, 0.7))
        assert first < second


@pytest.mark.parametrize(
    "numbers", [{"batch_size": 0}, {"longest": 0}, {"joined": 2}, {"joined": float("nan")}]
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match="take 1 or more, 1 or more, and from 0 to 1"):
        next(data.string_batches(made_up(), **numbers))
    with pytest.raises(ValueError, match="take a batch_size from 1"):
        next(data.keyword_batches(made_up(strings=0), DIGITS, batch_size=0))
