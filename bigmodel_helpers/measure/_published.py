"""The published runs that `planner` is held against: two tables, and how each source states its speed."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from bigmodel_helpers.measure import budgets
from bigmodel_helpers.measure._layouts import Layout, Mixture, Plan, with_experts
from bigmodel_helpers.models import TransformerConfig

Thing = TypeVar("Thing")
_READ = {int: int, float: float, str: str, bool: "True".__eq__}


@dataclass(frozen=True)
class PublishedRun:
    """A run that others measured.

    Attributes:
        source, name, evidence: who published it, what it is called, and where it says so.
        config, mixture, card, layout, batch, sequence: what was planned; ``card`` is a name in ``CARDS``.
        fitted: the constants were fitted on it.
        gib: GiB that the allocator reserved on a card, 0 where nothing is said.
        seconds: of a step, as published or worked out from tokens or FLOPs per second.
        planned: what the planner says.
    """

    source: str
    name: str
    config: TransformerConfig
    mixture: Mixture | None
    card: str
    layout: Layout
    batch: int
    sequence: int
    fitted: bool
    gib: float
    evidence: str
    seconds: float
    planned: Plan

    @property
    def ratio(self) -> float:
        """Planned seconds by published ones: above 1 where the run was faster than its plan."""
        return self.planned.seconds / self.seconds


def published_runs(plan: Callable[..., Plan]) -> list[PublishedRun]:
    """Return all runs; `plan` takes what `planner.plan` takes, but the name of the card."""
    models = {row["name"]: row for row in _rows("models")}
    return [_run(row, models[row["model"]], plan) for row in _rows("runs")]


def _run(row: dict[str, str], model: dict[str, str], plan: Callable[..., Plan]) -> PublishedRun:
    config, layout = _build(TransformerConfig, model), _build(Layout, row)
    mixture = _build(Mixture, model) if model["experts"] != "1" else None
    batch, sequence = int(row["batch"]), int(row["sequence"])
    return PublishedRun(
        source=row["source"],
        name=row["name"],
        config=config,
        mixture=mixture,
        card=row["card"],
        layout=layout,
        batch=batch,
        sequence=sequence,
        fitted=row["fitted"] == "True",
        gib=float(row["gib"] or 0),
        evidence=row["evidence"],
        seconds=_seconds(with_experts(mixture.active if mixture else 1, config), row, layout.cards),
        planned=plan(config, row["card"], layout, batch, sequence, mixture),
    )


def _rows(name: str) -> list[dict[str, str]]:
    """Return the rows of the table `name`, each with its columns by name."""
    path = Path(__file__).with_name(f"published_{name}.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _build(kind: type[Thing], row: dict[str, str]) -> Thing:
    """Return the dataclass `kind`, made from the columns that have the names of its fields."""
    return kind(**{f.name: _READ[f.type](row[f.name]) for f in fields(kind) if f.name in row})


def _seconds(active: TransformerConfig, row: dict[str, str], cards: int) -> float:
    """Return the seconds of a step from what the source states, which the column ``measure`` names.

    ``seconds`` of a step, ``tokens`` per second and card, or TFLOP per second and card: ``model`` counts them as
    Chowdhery et al. (2023) do, ``hardware`` as Narayanan et al. (2021), with the forward pass that is computed
    again. `active` is the model with the experts that one token meets.
    """
    value, sequence = float(row["value"]), int(row["sequence"])
    tokens = int(row["batch"]) * sequence
    if row["measure"] == "seconds":
        return value
    if row["measure"] == "tokens":
        return tokens / value / cards
    counted = _hardware_flops if row["measure"] == "hardware" else budgets.training_flops
    return tokens * counted(active, sequence) / (value * 1e12 * cards)


def _hardware_flops(config: TransformerConfig, sequence: int) -> float:
    layers, width = config.layers, config.width
    rest = 1 + sequence / (6 * width) + config.vocabulary / (16 * layers * width)
    return 96 * layers * width**2 * rest
