"""Training: one loop for pictures and text, on one device or many, and what goes with it.

These are modules: `checkpoint`, `lora`, `optim`, `recipes`, `transfer`, as in ``training.checkpoint.load(path)``.
"""

from bigmodel_helpers.training import checkpoint, lora, optim, recipes, transfer
from bigmodel_helpers.training._run import Run
from bigmodel_helpers.training.adapters import LowRank, add_lora, lora_modules, lora_state, merge_lora
from bigmodel_helpers.training.callbacks import EarlyStopping, Grow, KeepStatistics, WeightAverage
from bigmodel_helpers.training.loop import fit
from bigmodel_helpers.training.losses import (
    count_targets,
    cross_entropy,
    ctc_loss,
    distillation_loss,
    token_log_probs,
)
from bigmodel_helpers.training.preference import dpo_loss, log_likelihoods
from bigmodel_helpers.training.reinforcement import clipped_policy_loss, group_advantages

__all__ = [
    "EarlyStopping",
    "Grow",
    "KeepStatistics",
    "LowRank",
    "Run",
    "WeightAverage",
    "add_lora",
    "checkpoint",
    "clipped_policy_loss",
    "count_targets",
    "cross_entropy",
    "ctc_loss",
    "distillation_loss",
    "dpo_loss",
    "fit",
    "group_advantages",
    "log_likelihoods",
    "lora",
    "lora_modules",
    "lora_state",
    "merge_lora",
    "optim",
    "recipes",
    "token_log_probs",
    "transfer",
]
