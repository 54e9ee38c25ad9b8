"""Log-mel frames are those of the textbook, and of any pieces of a sound; masks hide what they say."""

import numpy as np
import pytest
import torch
from spoken import generator, noise, tone
from transformers.audio_utils import mel_filter_bank

from bigmodel_helpers.data import log_mel, mask_frames, mel_filters, spectrograms


@pytest.mark.parametrize(
    ("mels", "window", "rate"), [(40, 400, 16_000), (20, 256, 8_000), (80, 1024, 22_050)]
)
def test_filters_are_those_of_transformers(mels, window, rate):
    wanted = mel_filter_bank(window // 2 + 1, mels, 20.0, rate / 2, rate, norm=None, mel_scale="htk")
    found = mel_filters(mels, window, rate)
    assert found.dtype == torch.float32
    assert np.allclose(found, wanted, atol=1e-6)


def test_empty_filters_are_refused():
    with pytest.raises(ValueError, match="200 mels are too many for a window of 400 samples"):
        mel_filters(200)


@pytest.mark.parametrize("samples", [400, 559, 560, 16_000, 16_159])
def test_frames_by_their_formula(samples):
    sound = noise(samples, samples)
    frames = sound.double().unfold(0, 400, 160) * torch.hann_window(400, dtype=torch.float64)
    power = torch.fft.rfft(frames).abs() ** 2
    wanted = torch.log(power @ mel_filters().double() + 1e-6)
    found = log_mel(sound)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), wanted, atol=1e-4)
    assert torch.equal(log_mel(sound[None].double())[0], found)


def test_a_batch_is_each_of_its_sounds():
    sounds = torch.stack([noise(3000, seed) for seed in range(3)])
    assert torch.allclose(log_mel(sounds), torch.stack([log_mel(one) for one in sounds]), atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 7, 10])
def test_frames_of_pieces_are_those_of_the_whole(frames):
    sound = noise(400 + 160 * 29)
    pieces = [sound[160 * at : 160 * (at + frames) + 240] for at in range(0, 30, frames)]
    assert torch.allclose(torch.cat([log_mel(one) for one in pieces]), log_mel(sound), atol=1e-5)


def test_a_tone_stands_in_the_band_of_its_pitch_and_silence_in_none():
    bands = [int(log_mel(tone(8000, hertz)).mean(0).argmax()) for hertz in (120, 320, 1000, 3000, 7000)]
    places = [int(mel_filters()[round(hertz / 40)].argmax()) for hertz in (120, 320, 1000, 3000, 7000)]
    assert bands == places == sorted(bands)
    assert torch.allclose(log_mel(torch.zeros(800)), torch.tensor(1e-6).log(), atol=1e-4)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (torch.zeros(399), "399 samples is shorter than a frame of 400"),
        (torch.zeros(2, 0), "0 samples is shorter"),
        (torch.zeros(16_000, dtype=torch.int16), r"torch.int16, shape \(16000,\): pass floats"),
        (torch.zeros(1, 1, 16_000), r"shape \(1, 1, 16000\): pass floats"),
        (torch.tensor(0.0), r"shape \(\): pass floats"),
    ],
)
def test_what_is_no_sound(sound, message):
    with pytest.raises(ValueError, match=message):
        log_mel(sound)


def test_gradients_reach_the_sound_whoever_came_first():
    spectrograms._constants.cache_clear()
    with torch.inference_mode():
        log_mel(noise(800))
    sound = noise(800).requires_grad_()
    log_mel(sound).sum().backward()
    assert sound.grad.isfinite().all()
    assert sound.grad.any()


# ------------------------------------------------------------------------------------------------ masks


def runs(flags: torch.Tensor) -> list[int]:
    """Return the lengths of the runs of True."""
    return [len(run) for run in "".join("x" if flag else " " for flag in flags.tolist()).split()]


@pytest.mark.parametrize(
    ("bands", "band", "stretches", "stretch"), [(2, 8, 2, 15), (1, 3, 0, 0), (0, 0, 1, 40), (3, 40, 1, 1)]
)
def test_masks_hide_at_most_what_they_say_by_the_mean(bands, band, stretches, stretch):
    most = [0, 0]
    for seed in range(30):
        frames = torch.randn(4, 100, 40, generator=generator(seed))
        found = mask_frames(
            frames, generator(seed), bands=bands, band=band, stretches=stretches, stretch=stretch
        )
        for before, after in zip(frames, found, strict=True):
            hidden = after != before
            assert torch.allclose(after[hidden], before.mean(), atol=1e-5)
            rows, columns = hidden.all(1), hidden.all(0)
            assert torch.equal(hidden, rows[:, None] | columns)
            assert columns.sum() <= bands * band
            assert rows.sum() <= stretches * min(stretch, 25) or columns.all()
            assert len(runs(columns)) <= bands
            most = [max(most[0], *runs(columns), 0), max(most[1], *runs(rows), 0)]
    assert most[0] >= min(band, 6) * bool(bands)  # the widest ones are drawn, too
    assert most[1] >= min(stretch, 20) * 0.8 * bool(stretches)


def test_short_sounds_lose_at_most_a_quarter_of_their_time():
    frames = torch.randn(64, 8, 40, generator=generator())
    found = mask_frames(frames, generator(), bands=0, stretches=1, stretch=15)
    assert (found != frames).all(2).sum(1).max() == 2
    tiny = torch.randn(5, 3, 40)
    assert torch.equal(mask_frames(tiny, generator(), bands=0), tiny)


def test_each_sound_has_widths_and_places_of_its_own():
    frames = torch.randn(40, 100, 40, generator=generator())
    hidden = mask_frames(frames, generator(), bands=1, stretches=0) != frames
    assert len(hidden.any(1).sum(1).unique()) > 4
    assert len(hidden.any(1).float().argmax(1).unique()) > 10


def test_masks_reach_the_edges():
    frames = torch.randn(400, 20, 40, generator=generator(1))
    hidden = mask_frames(frames, generator(2), bands=1, band=4, stretches=1, stretch=5) != frames
    assert hidden.any(0).all()


def test_same_generator_same_masks_and_the_frames_stay():
    frames = torch.randn(3, 50, 40, generator=generator())
    before = frames.clone()
    found = [mask_frames(frames, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(frames, before)
