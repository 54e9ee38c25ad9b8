"""Pictures in, labels out, and what in a picture made the label; prompts in, text out.

On the command line: ``python -m bigmodel_helpers.inference photo.jpg "more/*.png"``.
"""

from bigmodel_helpers.inference.chat import answer, replies
from bigmodel_helpers.inference.explain import grad_cam, occlusion
from bigmodel_helpers.inference.photos import Prediction, Predictions, classify
from bigmodel_helpers.inference.sampling import generate, sample

__all__ = [
    "Prediction",
    "Predictions",
    "answer",
    "classify",
    "generate",
    "grad_cam",
    "occlusion",
    "replies",
    "sample",
]
