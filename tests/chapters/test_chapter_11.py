"""Chapter 11: its hand-written code against the package's, and against slow or exact versions."""

import copy
import hashlib
import itertools
import json
import math
import string
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace
from scipy import stats

from bigmodel_helpers import data, models, training
from bigmodel_helpers.data import documents
from bigmodel_helpers.training import optim

STEM = "11_pretraining"
ROOT = Path(__file__).resolve().parents[2]
CELLS = [
    "shingles",
    "loop",
    "spike-batches",
    "bf16-run",
    "samples-lines",
    "copied",
    "ex-minhash-code",
    "ex-mask-solution",
    "ex-schedule-solution",
    "ex-rounding-solution",
    "ex-minhash-solution",
]


@pytest.fixture(scope="module")
def chapter() -> dict[str, object]:
    names = {
        "torch": torch,
        "F": F,
        "itertools": itertools,
        "math": math,
        "string": string,
        "hashlib": hashlib,
    }
    names |= {"VOCABULARY": 50, "device": torch.device("cpu"), "optim": optim}
    checks = {f"check_{name}": lambda: None for name in ("mask", "schedule", "rounding", "minhash")}
    return chapter_namespace(STEM, CELLS, **names, **checks)


@pytest.mark.parametrize("words", [1, 3, 8])
def test_shingles_by_hand_find_the_copies_of_the_package(chapter, words):
    text = "the dog bit the man and the man bit the dog and then the dog ran home "
    texts = (text * 2, text + "again " + text, "quite another text", "short")
    found = documents.Documents(texts=texts, names=tuple("abcd"))
    shared = documents.without_copies(found, shared=0.4, words=words)[1]
    assert shared[0][0] == "b"
    mine, theirs = (chapter["shingles"](one, words) for one in (texts[1], texts[0]))
    assert shared[0][2] == pytest.approx(len(mine & theirs) / len(mine))


def tiny() -> models.Transformer:
    torch.manual_seed(0)
    sizes = models.TransformerConfig(2, 16, 32, 4, 2, vocabulary=50, tied=True)
    return models.Transformer(sizes)


def packed() -> data.Packed:
    letters = documents.Documents(texts=("abcde" * 40, "xyz" * 50, "hello " * 30), names=("1", "2", "3"))
    return data.pack(letters, lambda text: [ord(sign) % 49 + 1 for sign in text], end=0)


def test_the_loop_by_hand_is_fit(chapter):
    one = tiny()
    two = copy.deepcopy(one)
    optimizers = [
        [
            optim.Muon(optim.split_parameters(model)[0], 0.02, rescale=False),
            torch.optim.AdamW(optim.split_parameters(model)[1], lr=0.01),
        ]
        for model in (one, two)
    ]
    chapter["train_by_hand"](one, data.PackedBatches(packed(), 16, 4), optimizers[0], 6)
    training.fit(two, data.PackedBatches(packed(), 16, 4), optimizers[1], steps=6, progress=False)
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_garbage_comes_at_the_planted_steps_only(chapter):
    plain = [*data.PackedBatches(packed(), 16, 4)]
    spoiled = [*chapter["WithGarbage"](plain, {1, 3})]
    assert len(spoiled) == len(plain)
    for step, ((inputs, targets, _), (mine, theirs, _)) in enumerate(zip(spoiled, plain, strict=True)):
        same = torch.equal(inputs, mine) and torch.equal(targets, theirs)
        assert same == (step not in {1, 3})
        assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_rounded_weights_are_in_bfloat16_and_lose_small_steps(chapter):
    model = torch.nn.Linear(8, 8)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.rand_like(weight).add(1).bfloat16())
    for rate, least, most in ((1e-5, 0.99, 1.0), (1.0, 0.0, 0.01)):
        rounding = chapter["RoundWeights"]()
        batch = torch.ones(4, 8), torch.zeros(4, dtype=torch.int64)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        training.fit(model, [batch], optimizer, steps=1, callbacks=[rounding], progress=False)
        assert all(torch.equal(weight, weight.bfloat16().float()) for weight in model.parameters())
        assert least <= rounding.lost[-1] <= most


@pytest.mark.parametrize("text", ["", "abc", "xxabcabcyy", "no common", "abcabcabcabc"])
def test_the_longest_copy_is_that_of_all_substrings(chapter, text):
    corpus = "abcabcabd and some words in common"
    runs = (text[i:j] for i in range(len(text)) for j in range(i, len(text) + 1))
    wanted = max((len(run) for run in runs if run in corpus), default=0)
    assert chapter["longest_copy"](text, corpus) == wanted


def test_what_is_drawn_can_be_drawn(chapter):
    shown = chapter["printable"]("a$b\x15é" + "x" * 80 + "\n" * 20 + "last")
    lines = shown.split("\n")
    assert lines[0].startswith("a?b??xx")
    assert len(lines[0]) == 44
    assert len(lines) <= 14


def test_the_law_is_that_of_the_outlook():
    notebook = (ROOT / "notebooks" / f"{STEM}.ipynb").read_text(encoding="utf-8")
    fitted = json.loads((ROOT / "book" / "scaling.json").read_text(encoding="utf-8"))
    joint = fitted["fit"]["joint"]["parameters"]
    log_n, log_d, a, b = (joint[name][0] for name in ("log_nc", "log_dc", "a", "b"))
    line = f"N_C, D_C, A, B = math.exp({log_n:.3f}), math.exp({log_d:.3f}), {a:.4f}, {b:.4f}"
    assert line in notebook


def test_the_interval_is_students(chapter):
    paired = chapter_namespace(STEM, ["log-paired"], torch=torch, stats=stats)["paired"]
    mean, low, high = paired([1.0, 2.0, 4.0], [0.5, 1.0, 3.5])
    theirs = stats.ttest_rel([1.0, 2.0, 4.0], [0.5, 1.0, 3.5]).confidence_interval(0.95)
    assert mean == pytest.approx(2 / 3)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=1e-5)
