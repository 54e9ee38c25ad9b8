"""The board of make_model.py: what each model answers to the questions of the test, with intervals."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from bigmodel_helpers import evaluation
from bigmodel_helpers.data import tasks

Ask = Callable[..., list[str]]  # questions -> texts
PROBES = ("Hello", "What is the capital of France?")  # asked of each model, beside questions of the test


def marks(ask: Ask, items: list[tasks.Item], draws: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return whether the likeliest answer to each question is right, and the share of right ones when drawn, (N,)."""
    questions = [item.question for item in items]
    told = [ask(questions), *(ask(questions, temperature=1.0, generator=generator) for _ in range(draws))]
    right = torch.tensor([[*map(tasks.is_right, items, texts)] for texts in told]).T
    return {"greedy": right[:, 0], "drawn": evaluation.pass_at_k(right[:, 1:], 1)}


def row(items: list[tasks.Item], right: dict[str, Tensor], bits: evaluation.Estimate) -> dict[str, Any]:
    """Return a row of the board: numbers with 95 % intervals over questions or documents, and the share by task."""
    greedy, tested = evaluation.Proportion(int(right["greedy"].sum()), len(items)), {}
    for task in tasks.TASKS:
        tested[task] = right["greedy"][[item.task == task for item in items]].double().mean().item()
    drawn = astuple(evaluation.bootstrap(torch.mean, right["drawn"]))
    return {
        "bits": astuple(bits),
        "greedy": (greedy.value, *greedy.interval()),
        "drawn": drawn,
        "by_task": tested,
    }


def told(row: dict[str, Any]) -> str:
    """Write the middle of a row."""
    greedy, drawn = (100 * row[name][0] for name in ("greedy", "drawn"))
    return f"{greedy:5.1f} % right, {drawn:5.1f} % when drawn, {row['bits'][0]:.3f} bits per byte"


def samples(ask: Ask, items: list[tasks.Item]) -> dict[str, str]:
    """Return the likeliest answers to the first question of each task, and to those of `PROBES`."""
    questions = [*(item.question for item in items[: len(tasks.TASKS)]), *PROBES]
    return dict(zip(questions, ask(questions), strict=True))


def differences(right: dict[str, dict[str, Tensor]], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return what one model is ahead of another on the same questions, with intervals."""
    return {
        f"{name} minus {other}, {how}": astuple(
            evaluation.mean_difference(right[name][how], right[other][how])
        )
        for name, other in pairs
        for how in ("greedy", "drawn")
    }


def best_constant(seen: list[tasks.Item], asked: list[tasks.Item]) -> float:
    """Return the share of right answers of one who always gives the most frequent answer of the task."""
    counts = {task: Counter(item.answer for item in seen if item.task == task) for task in tasks.TASKS}
    return sum(tasks.is_right(item, counts[item.task].most_common(1)[0][0]) for item in asked) / len(asked)


def what_is_asked(item: tasks.Item) -> frozenset[str]:
    """Return what an item shares with its mirror images: 3 + 5 with 5 + 3, km in m with m in km."""
    return frozenset(re.findall(r"\w+|[-+*/]", f"{item.question} {item.answer}"))
