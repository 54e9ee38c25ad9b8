"""Chapter 15: what is written out by hand gives what the package gives."""

import random

import matplotlib.pyplot as plt
import pytest
import torch
from chapter_code import chapter_namespace
from torch import nn

from bigmodel_helpers import inference, models
from bigmodel_helpers.measure import budgets

CELLS = [
    *("imports", "setup", "model", "a-card", "requests", "waste", "pool", "paged", "write-on"),
    *("batcher", "continuous", "gantt", "verify", "mistakes", "fit", "form", "may-come"),
    *(f"ex-15-{name}-solution" for name in ("readers", "filter", "stop", "drafts")),
]
CHECKS = {f"check_{name}": lambda: None for name in ("readers", "filter", "stop", "drafts")}
SHAPES = {
    "llama": {},
    "one key head": {"kv_heads": 1, "tied": True},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_width": 16},
}


@pytest.fixture(scope="module")
def chapter():
    with plt.rc_context():
        return chapter_namespace("15_serving", CELLS, profile_name="smoke", **CHECKS)


def network(**options):
    torch.manual_seed(1)
    sizes = {"layers": 2, "width": 32, "hidden": 48, "heads": 4, "kv_heads": 2, "vocabulary": 40}
    model = models.Transformer(models.TransformerConfig(**(sizes | options))).eval()
    for matrix in model.parameters():
        if matrix.ndim > 1:
            nn.init.normal_(matrix, std=0.3)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_pages_by_hand_give_each_answer_that_the_package_gives(chapter, shape):
    model, draw = network(**SHAPES[shape]), random.Random(2)
    made = [
        ([draw.randrange(40) for _ in range(draw.randint(1, 40))], draw.randint(1, 20)) for _ in range(30)
    ]
    batcher, coming = chapter["Batcher"](model, pages=9, places=4), [chapter["Request"](*one) for one in made]
    asked = [*coming]
    while coming or batcher.waiting or batcher.running:
        if coming and draw.random() < 0.5:
            batcher.waiting.append(coming.pop(0))
        chapter["step"](batcher)
    end = chapter["template"].end
    for request, (prompt, most) in zip(asked, made, strict=True):
        assert [request.answer] == inference.replies(model, [prompt], end=end, most=most)
    assert sorted(batcher.pool.free) == [*range(9)]


def test_drafts_by_hand_are_kept_as_in_the_package(chapter):
    for seed in range(50):
        torch.manual_seed(seed)
        p, q = torch.randn(4, 6).softmax(1), torch.randn(3, 6).softmax(1)
        drafts = torch.multinomial(q, 1).flatten().tolist()
        ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
        assert chapter["verify"](drafts, q, p, ours) == inference.verify(drafts, q, p, theirs)


def test_the_filter_of_the_exercise_is_that_of_the_package(chapter):
    torch.manual_seed(0)
    scores = torch.randn(5, 30)
    for least in (0.01, 0.3, 1.0):
        torch.testing.assert_close(chapter["min_p"](scores, least), inference.chances(scores, min_p=least))


def test_readers_that_fit_are_those_of_the_figure(chapter):
    config = chapter["LLAMAS"]["8B"]
    weights = budgets.parameters(config) * 2
    sizes = config.layers, config.kv_heads, config.head_width
    assert chapter["readers"](80e9, weights, *sizes, 8000) == chapter["tokens_per_second"]("8B", 16, 8000)[0]


def test_drafts_that_pay_are_those_of_the_formula_in_the_package(chapter):
    for kept, cost in ((0.8, 0.1), (0.5, 0.2), (0.9, 0.3)):
        rates = [inference.expected_tokens(kept, k) / (1 + k * cost) for k in range(13)]
        assert chapter["best_drafts"](kept, cost, 12) == rates.index(max(rates))
