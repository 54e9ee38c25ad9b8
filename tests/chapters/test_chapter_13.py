"""Chapter 13: its hand-written code against the package's and against plain versions."""

import copy
import itertools
import math
from random import Random

import pytest
import torch
from chapter_code import chapter_namespace

from bigmodel_helpers import evaluation, inference, models, runtime, training
from bigmodel_helpers.data import tasks
from bigmodel_helpers.training import optim

STEM = "13_preference"
CELLS = [
    "world",
    "parts",
    "batch",
    "book",
    "draw",
    "right",
    "advantages",
    "rollout",
    "clip-equal",
    "penalty",
    "grpo-loss",
    "hole",
    "dpo-by-hand",
    "marked-book",
    "judged",
    "pairs",
    "prefer",
    "preferred",
    "leak",
    "ex-ranking-solution",
    "ex-leave-solution",
    "ex-weight-solution",
    "ex-overlap-solution",
]


@pytest.fixture(scope="module")
def chapter() -> dict[str, object]:
    torch.manual_seed(0)
    config = models.TransformerConfig(1, 32, 64, 2, 2, vocabulary=14, positions=24)
    network = models.Transformer(config)
    names = {"torch": torch, "copy": copy, "itertools": itertools, "math": math, "Random": Random}
    names |= {"training": training, "evaluation": evaluation, "inference": inference, "models": models}
    names |= {"tasks": tasks, "optim": optim, "profile": runtime.get_profile("smoke"), "device": "cpu"}
    names |= {"CONFIG": config, "BOOK_STEPS": 1, "student": network, "read": lambda *_: None}
    names |= {
        "VALID": [(1, 2)] * 30 + [(2, 1), (3, 4)],
        "sampled": lambda *_: torch.ones(1),
        "percent": float,
    }
    names |= {"pd": __import__("pandas")}
    checks = {f"check_{name}": lambda: None for name in ("ranking", "leave", "weight", "overlap")}
    return chapter_namespace(STEM, CELLS, **names, **checks)


def test_a_batch_learns_the_answers_and_nothing_else(chapter):
    prompts = [chapter["prompt_of"](3, 40), chapter["prompt_of"](17, 5)]
    answers = [chapter["answer_of"](43), chapter["answer_of"](22, marks=2)]
    inputs, targets = chapter["batch_of"](prompts, answers)
    for row, prompt, ids in zip(range(2), prompts, answers, strict=True):
        assert [*inputs[row, : len(prompt)]] == prompt
        assert targets[row][targets[row] >= 0].tolist() == ids
        assert targets[row, len(prompt) - 1] == ids[0]


def test_the_book_lies_as_often_as_it_says(chapter):
    book = chapter["Book"](0, rows=3000, wrong=0.5)
    inputs, targets = next(iter(book))
    right = 0
    for row, wanted in zip(inputs, targets, strict=True):
        a, b = chapter["shown"](row[:5].tolist()).split("+")
        right += chapter["is_right"](wanted[wanted >= 0].tolist(), int(a) + int(b))
    assert 0.46 < right / 3000 < 0.55


def test_right_is_the_sum_from_the_right_and_the_end(chapter):
    is_right, answer_of = chapter["is_right"], chapter["answer_of"]
    assert is_right(answer_of(45), 45)
    assert is_right(answer_of(45, marks=3), 45)
    assert not is_right(answer_of(54), 45)
    assert not is_right(answer_of(45)[:-1], 45)
    assert not is_right(chapter["ids_of"]("!540."), 45)


def test_pass_at_k_counts_the_sets_that_hold_a_right_one():
    right = torch.rand(9, 6, generator=torch.Generator().manual_seed(0)) < 0.3
    for k in range(1, 7):
        share = [sum(map(any, itertools.combinations(row, k))) / math.comb(6, k) for row in right.tolist()]
        found = evaluation.pass_at_k(right, k)
        torch.testing.assert_close(found, torch.tensor(share, dtype=torch.float64))


def test_advantages_by_hand_are_those_of_the_package(chapter):
    rewards = torch.randn(5, 8)
    rewards[2] = 0.1
    torch.testing.assert_close(chapter["by_spread"](rewards), training.group_advantages(rewards))
    torch.testing.assert_close(
        chapter["centered"](rewards), training.group_advantages(rewards, by_spread=False)
    )


def test_the_limits_by_hand_are_those_of_the_package(chapter):
    new, old = -3 * torch.rand(2, 6, 4)
    advantages = torch.randn(6, 1)
    for clip in (0.1, 0.5):
        torch.testing.assert_close(
            chapter["clipped"](new, old, advantages, clip),
            training.clipped_policy_loss(new, old, advantages, clip),
        )


def test_the_first_step_of_grpo_goes_where_reinforce_goes(chapter):
    model = chapter["student"]
    batch, rewards = chapter["rollout"](model, [(1, 2), (30, 7)], lambda *_: torch.randn(2, 8), 0)
    advantages = chapter["by_spread"](rewards)
    with torch.no_grad():
        old = training.token_log_probs(model, batch)
    ours = chapter["grpo_loss"](model, *batch, advantages.view(-1, 1), old, old) / (batch[1] >= 0).sum()
    plain = chapter["policy_gradient_loss"](model, batch, advantages)
    for mine, theirs in zip(
        torch.autograd.grad(ours, [*model.parameters()]),
        torch.autograd.grad(plain, [*model.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_the_hasty_judge_pays_for_nothing(chapter):
    points, answer_of, shown = chapter["points"], chapter["answer_of"], chapter["shown"]
    assert points(shown(answer_of(45)), 45) == 1
    assert points(shown(answer_of(46)), 45) == 0
    assert points(".", 45) == 0.5


def test_the_judge_prefers_right_to_long_and_long_to_short(chapter):
    likes, adds, answer_of = chapter["likes_length"], chapter["adds_only"], chapter["answer_of"]
    assert likes(45, answer_of(45), answer_of(46, marks=3))
    assert likes(45, answer_of(46, marks=2), answer_of(47))
    assert not likes(45, answer_of(46), answer_of(47))
    assert adds(45, answer_of(45), answer_of(46, marks=3))
    assert not adds(45, answer_of(46, marks=2), answer_of(47))


def test_pairs_know_what_the_reference_says(chapter):
    model = chapter["student"]
    prompts, winners, losers = chapter["judgments"](model, lambda _, a, b: len(a) > len(b), 60)
    assert all(len(a) > len(b) for a, b in zip(winners, losers, strict=True))
    batches = chapter["Pairs"](model, prompts, winners, losers, rows=5)
    batch = next(iter(batches))
    assert [len(part) for part in batch] == [5] * 6
    with torch.no_grad():
        for change in chapter["changes"](model, batch):
            torch.testing.assert_close(change, torch.zeros(5), rtol=0, atol=1e-4)


def test_leaked_questions_are_not_among_the_clean_ones(chapter):
    inputs, _ = next(iter(chapter["Leaky"](0)))
    assert len(inputs) == 128 + 128 // 4
    assert {chapter["shown"](row[:6].tolist()) for row in inputs[128:]} == {"01+02="}
    assert chapter["clean"] == [(3, 4)]


def test_the_solutions_agree_with_plain_versions(chapter):
    rewards = torch.randn(4, 6)
    doubled = chapter["leave_one_out"](rewards)
    torch.testing.assert_close(doubled, (rewards - rewards.mean(1, keepdim=True)) * 6 / 5)
    losses, learned = torch.rand(3, 5), torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(chapter["mean_by_answer"](losses, learned), losses.mean())
    marks = [2, 9, 4, 4]
    assert {*chapter["pairs_of"](marks)} == {(1, 0), (1, 2), (1, 3), (2, 0), (3, 0)}
    assert chapter["share_found"](["a b c", "c b a"], "x a b c y", 3) == 0.5
