"""Each change of a sound does what it says, and nothing else."""

import math

import pytest
import torch
from spoken import generator, noise, tone

from bigmodel_helpers.data import SoundChanges, add_noise, pad_sounds

OFF = {"speed": 0.0, "gain": 0.0, "noise": None, "band": None, "place": False}


def only(**options) -> SoundChanges:
    return SoundChanges(**OFF | options)


# ---------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(
    ("lengths", "samples", "begins", "row"),
    [
        ([3, 5], None, [0, 0], 1600),
        ([1600, 10], None, [0, 0], 1600),
        ([1601], None, [0], 3200),
        ([3, 4, 9], 9, [3, 2, 0], 9),
    ],
)
def test_sounds_stand_at_the_beginning_or_in_the_middle(lengths, samples, begins, row):
    sounds = [noise(length, length) for length in lengths]
    rows = pad_sounds(sounds, samples)
    assert rows.shape == (len(sounds), row)
    for found, sound, begin in zip(rows, sounds, begins, strict=True):
        assert torch.equal(found[begin : begin + len(sound)], sound)
        assert found.count_nonzero() == len(sound)


@pytest.mark.parametrize(("length", "first"), [(9, 2), (8, 1), (6, 0), (5, 0)])
def test_long_sounds_are_cut_to_their_middle(length, first):
    for place in (None, generator()):
        assert pad_sounds([torch.arange(length).float()], 5, place)[0].tolist() == [*range(first, first + 5)]


def test_random_places_are_all_places():
    found = {int(pad_sounds([torch.ones(3)], 8, generator(seed))[0].argmax()) for seed in range(100)}
    assert found == set(range(6))
    rows = pad_sounds([torch.ones(3)] * 50, 8, generator())
    assert (rows.sum(1) == 3).all()
    assert len(rows.argmax(1).unique()) > 1
    assert torch.equal(rows, pad_sounds([torch.ones(3)] * 50, 8, generator()))
    rows = pad_sounds([torch.ones(1600), torch.ones(10)], None, generator())
    assert rows[1].argmax() > 0


def test_no_sound_is_refused():
    with pytest.raises(ValueError, match="no sound"):
        pad_sounds([])


# ------------------------------------------------------------------------------------------------ noise


def slope(sound: torch.Tensor) -> float:
    """Return by how many decibels an octave the spectrum falls."""
    power = torch.fft.rfft(sound.double())[1:].abs() ** 2
    octaves = torch.arange(1, len(power) + 1, dtype=torch.float64).log2()
    bands = [(octaves >= low) & (octaves < low + 1) for low in range(3, 12)]
    levels = torch.stack([10 * power[band].mean().log10() for band in bands])
    return -float(levels.diff().mean())


def test_noise_has_the_asked_ratio_and_a_color_between_white_and_brown():
    ratios = torch.arange(-12.0, 36, 2)
    rows = torch.stack([noise(16_000, 7) + tone(16_000)] * len(ratios))
    rows[:, 8000:] = 0  # a silence in the sound does not count
    added = add_noise(rows, ratios, generator(3)) - rows
    found = 10 * torch.log10((rows[:, :8000] ** 2).mean(1) / (added**2).mean(1))
    assert torch.allclose(found, ratios, atol=0.5)
    slopes = sorted(slope(one) for one in added)
    assert -0.5 < slopes[0] < 0.7
    assert 5.3 < slopes[-1] < 6.5


def test_noise_differs_from_sound_to_sound_and_silence_stays_silent():
    rows = torch.stack([torch.zeros(4000), tone(4000), tone(4000)])
    found = add_noise(rows, torch.zeros(3), generator())
    assert not found[0].any()
    assert not torch.allclose(found[1], found[2])
    assert torch.equal(found, add_noise(rows, torch.zeros(3), generator()))


# ---------------------------------------------------------------------------------------------- changes


def test_with_everything_off_it_is_pad_sounds():
    sounds = [noise(length, length) for length in (1, 700, 3000, 5000)]
    for samples in (None, 4000):
        assert torch.equal(only()(sounds, generator(), samples), pad_sounds(sounds, samples))


def test_speed_moves_a_tone_and_its_length_by_one_factor_within_the_octaves():
    found = []
    for sound in only(speed=0.5).played([tone(8000)] * 60, generator(5)):
        peak = int(torch.fft.rfft(sound, 32_000).abs().argmax()) / 2
        assert math.isclose(peak / 1000, 8000 / len(sound), rel_tol=0.01)
        found.append(math.log2(8000 / len(sound)))
    assert -0.5 <= min(found) < -0.4
    assert 0.4 < max(found) <= 0.5


def test_gain_makes_fainter_only():
    sound = tone(1600)
    rows = only(gain=12.0)([sound] * 60, generator())
    factors = (rows @ sound) / (sound @ sound)
    assert torch.allclose(rows, factors[:, None] * sound, atol=1e-6)
    decibels = 20 * factors.log10()
    assert decibels.max() <= 1e-4
    assert decibels.max() > -1.5
    assert -12 - 1e-4 <= decibels.min() < -10.5


def test_band_removes_what_is_above_and_nothing_else_of_half_of_the_sounds():
    sound = noise(4000)
    rows = only(band=0.3)([sound] * 200, generator(), 4000)
    before, after = torch.fft.rfft(sound), torch.fft.rfft(rows)
    kept = after.abs() > 1e-3
    ends = kept.sum(1) / kept.shape[1]
    assert 70 < (ends < 1).sum() < 130
    assert 0.3 <= ends.min() < 0.35
    assert ends[ends < 1].max() > 0.9
    for found, whole, end in zip(after, kept, kept.sum(1).tolist(), strict=True):
        assert whole[:end].all()
        assert torch.allclose(found[:end], before[:end], atol=1e-3)
        assert not whole[end:].any()


def test_noise_leaves_a_fifth_clean_and_lies_between_the_worst_and_30_decibels():
    sound = noise(4000)
    rows = only(noise=10.0)([sound] * 300, generator(), 4000)
    power = ((rows - sound) ** 2).mean(1)
    clean = power < 1e-9
    assert 40 < clean.sum() < 80
    ratios = 10 * torch.log10((sound**2).mean() / power[~clean])
    assert 9.5 < ratios.min() < 11.5
    assert 28.5 < ratios.max() < 30.5


def test_place_is_random_only_where_it_should_be():
    sounds, rows = [torch.ones(100)] * 20, {}
    for place in (True, False):
        for samples in (None, 3000):
            rows[place, samples] = only(place=place)(sounds, generator(), samples).argmax(1)
    assert len(rows[True, 3000].unique()) > 10
    assert (rows[False, 3000] == 1450).all()
    assert not rows[True, None].any()
    assert not rows[False, None].any()


@pytest.mark.parametrize("samples", [None, 1000])
def test_same_generator_same_sounds_and_the_given_ones_stay(samples):
    sounds = [noise(length, length) for length in (400, 900, 2000)]
    before = [sound.clone() for sound in sounds]
    found = [SoundChanges()(sounds, generator(seed), samples) for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert found[0].dtype == torch.float32
    assert found[0].shape != found[2].shape or not torch.allclose(found[0], found[2])
    assert all(map(torch.equal, before, sounds))


def test_all_changes_are_those_of_speed_and_then_of_rows():
    sounds, changes, chance = [noise(400), tone(900)], SoundChanges(), generator(4)
    played = changes.played(sounds, chance)
    assert torch.equal(changes.rows(played, chance, 1000), changes(sounds, generator(4), 1000))


@pytest.mark.parametrize("samples", [None, 1, 7, 1000])
def test_silence_stays_silent_and_single_samples_are_sounds(samples):
    for seed in range(20):
        rows = SoundChanges(speed=2.0)(
            [torch.zeros(500), torch.zeros(1), torch.ones(1)], generator(seed), samples
        )
        assert rows.isfinite().all()
        assert rows[:2].abs().max() < 1e-6


@pytest.mark.parametrize("bad", [{"speed": -1}, {"gain": float("nan")}, {"noise": 31}, {"band": -0.1}])
def test_changes_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is .*: take a number from"):
        SoundChanges(**bad)


def test_what_is_no_row_of_sounds_is_refused():
    for sounds, samples, said in (
        ([torch.ones(5)], 0, "take 1 or more"),
        ([torch.ones(1, 5)], 10, r"pass floats \(samples,\)"),
        ([torch.ones(5, dtype=torch.int16)], 10, r"pass floats \(samples,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            pad_sounds(sounds, samples)
    changed = SoundChanges()([torch.zeros(0)], torch.Generator().manual_seed(0), 1000)
    assert not changed.any()
