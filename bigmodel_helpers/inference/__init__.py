"""Pictures in, labels out, and what in a picture made the label; prompts in, text out.

On the command line: ``python -m bigmodel_helpers.inference photo.jpg "more/*.png"``.
"""

from bigmodel_helpers.inference._requests import Full, Request, Statistics
from bigmodel_helpers.inference.chat import answer, replies
from bigmodel_helpers.inference.engine import Engine
from bigmodel_helpers.inference.explain import grad_cam, occlusion
from bigmodel_helpers.inference.grammar import Grammar, json_schema
from bigmodel_helpers.inference.packed import Decoder, Packed
from bigmodel_helpers.inference.photos import Prediction, Predictions, classify
from bigmodel_helpers.inference.sampling import chances, generate, penalize, sample
from bigmodel_helpers.inference.speculative import (
    Counts,
    Draft,
    Lookup,
    acceptance,
    expected_tokens,
    speculate,
    verify,
)

__all__ = [
    "Counts",
    "Decoder",
    "Draft",
    "Engine",
    "Full",
    "Grammar",
    "Lookup",
    "Packed",
    "Prediction",
    "Predictions",
    "Request",
    "Statistics",
    "acceptance",
    "answer",
    "chances",
    "classify",
    "expected_tokens",
    "generate",
    "grad_cam",
    "json_schema",
    "occlusion",
    "penalize",
    "replies",
    "sample",
    "speculate",
    "verify",
]
