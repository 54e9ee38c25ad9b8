"""The training loop and what goes with it: checkpoints, optimizers, fine-tuning, recipes."""

from bigmodel_helpers.training import checkpoint, optim, recipes, transfer
from bigmodel_helpers.training.adapters import LowRank, add_lora, lora_modules, lora_state, merge_lora
from bigmodel_helpers.training.distillation import TaughtBatches, distillation_loss
from bigmodel_helpers.training.loop import Run, fit

__all__ = [
    "LowRank",
    "Run",
    "TaughtBatches",
    "add_lora",
    "checkpoint",
    "distillation_loss",
    "fit",
    "lora_modules",
    "lora_state",
    "merge_lora",
    "optim",
    "recipes",
    "transfer",
]
