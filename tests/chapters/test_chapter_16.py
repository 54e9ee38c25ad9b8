"""Chapter 16: what is written out by hand gives what PyTorch and the package give."""

import itertools
import math

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace

from bigmodel_helpers import data, inference, models

CELLS = [
    *("imports", "setup", "puzzle-sounds", "alias", "filter", "stft", "mel", "keyword-net", "collapse"),
    *("paths", "forward", "forward-check", "ctc-library", "beam", "align", "wav2vec"),
    *(f"ex-16-{name}-solution" for name in ("alias", "shortest", "rate", "wait")),
]
CHECKS = {f"check_{name}": lambda: None for name in ("alias", "shortest", "rate", "wait")}


@pytest.fixture(scope="module")
def chapter():
    with plt.rc_context():
        return chapter_namespace("16_speech", CELLS, profile_name="smoke", **CHECKS)


@pytest.mark.parametrize(("size", "hop"), [(400, 160), (64, 1), (51, 20)])
def test_fourier_by_hand_is_that_of_torch(chapter, size, hop):
    sound = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    window = torch.hann_window(size, dtype=torch.float64)
    library = torch.stft(sound, size, hop, window=window, center=False, return_complex=True)
    torch.testing.assert_close(chapter["stft_by_hand"](sound, window, hop), library.T)


@pytest.mark.parametrize(("bands", "size", "rate"), [(40, 400, 16_000), (23, 512, 8_000)])
def test_triangles_by_hand_are_those_of_the_package(chapter, bands, size, rate):
    by_hand = chapter["mel_by_hand"](bands, size, rate).float()
    torch.testing.assert_close(by_hand, data.mel_filters(bands, size, rate))


def test_the_network_by_hand_is_that_of_the_package(chapter):
    torch.manual_seed(0)
    ours, packaged = chapter["KeywordNet"](7), models.KeywordNet(7)
    ours.load_state_dict(packaged.state_dict())
    frames = torch.randn(3, 61, 40)
    torch.testing.assert_close(ours(frames), packaged(frames))


@pytest.mark.parametrize("seed", range(8))
def test_the_forward_algorithm_gives_loss_and_gradient_of_torch(chapter, seed):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 4, (1 + seed,), generator=generator).tolist()
    scores = torch.randn(2 * len(text) + seed, 5, dtype=torch.float64, generator=generator).requires_grad_()
    ours = chapter["ctc_by_hand"](scores.log_softmax(1), text)
    theirs = chapter["of_library"](scores, text)
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(loss, scores)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*gradients)


def test_beams_by_hand_are_those_of_the_package(chapter):
    for seed in range(20):
        scores = chapter["random_scores"](12, 4, seed).log_softmax(1)
        for width in (1, 3, 50):
            found = chapter["beam_by_hand"](scores, "abc", width)
            assert max(found, key=found.get) == inference.ctc_beam(scores, "abc", width=width)


def test_the_aligned_path_reads_the_text_and_none_is_likelier(chapter):
    log_p = chapter["random_scores"](7, 1 + len(data.LETTERS), 3).log_softmax(1).float()
    letters = "–" + data.LETTERS
    for text in ("one", "ee", "e e"):
        signs = sorted({0, *(data.LETTERS.index(letter) + 1 for letter in text)})
        paths = [
            path
            for path in itertools.product(signs, repeat=7)
            if chapter["collapse"](letters[number] for number in path) == text
        ]
        found = chapter["align"](log_p, text)
        best = max(sum(float(log_p[t, sign]) for t, sign in enumerate(path)) for path in paths)
        assert tuple(found) in paths
        assert math.isclose(sum(float(log_p[t, sign]) for t, sign in enumerate(found)), best, rel_tol=1e-5)


def test_no_shorter_path_reads_the_text(chapter):
    for text in ("one", "ee", "aaa", "abab"):
        fewest = chapter["fewest_steps"](text)
        assert chapter["all_paths"](text, fewest)
        assert not chapter["all_paths"](text, fewest - 1)


def test_what_is_heard_is_where_the_spectrum_peaks(chapter):
    for frequency in (100, 3999, 4500, 7000, 12_345, 20_000):
        n = torch.arange(8000, dtype=torch.float64)
        spectrum = torch.fft.rfft(torch.cos(2 * math.pi * ((frequency * n) % 8000) / 8000)).abs()
        assert chapter["heard_as"](frequency, 8000) == int(spectrum.argmax())


def test_the_low_pass_removes_what_would_be_heard_as_another_tone(chapter):
    high = chapter["tone"](6500, 16_000)
    left = F.conv1d(high[None, None], chapter["low_pass"][None, None])[0, 0, ::2]
    assert left.square().mean() < 1e-4 * high.square().mean()
