"""Pictures in, labels out, and what in a picture made the label.

On the command line: ``python -m bigmodel_helpers.inference photo.jpg "more/*.png"``.
"""

from bigmodel_helpers.inference.explain import grad_cam, occlusion
from bigmodel_helpers.inference.photos import Prediction, Predictions, classify

__all__ = ["Prediction", "Predictions", "classify", "grad_cam", "occlusion"]
