"""Training: one loop for pictures and text, on one device or many. Introduced in chapter 4.

`checkpoint` and `recipes` are modules: `training.checkpoint.load(path)`, `training.recipes.train_speednet(images)`.
"""

from bigmodel_helpers.training import checkpoint, recipes
from bigmodel_helpers.training._run import Run
from bigmodel_helpers.training.callbacks import EarlyStopping, Grow, WeightAverage
from bigmodel_helpers.training.loop import fit
from bigmodel_helpers.training.losses import count_targets, cross_entropy, distillation_loss

__all__ = [
    "EarlyStopping",
    "Grow",
    "Run",
    "WeightAverage",
    "checkpoint",
    "count_targets",
    "cross_entropy",
    "distillation_loss",
    "fit",
    "recipes",
]
