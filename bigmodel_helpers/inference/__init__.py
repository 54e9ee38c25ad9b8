"""Pictures in, labels out, and what in a picture made the label; prompts in, text out; sounds in, words out.

On the command line: ``python -m bigmodel_helpers.inference photo.jpg "more/*.png"`` and
``python -m bigmodel_helpers.inference.listen "recordings/*.wav"``. What serves a model to others,
`server`, is loaded when it is first used: it needs Starlette and uvicorn.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

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
from bigmodel_helpers.inference.speech import Utterance, classify_speech, transcribe_digits
from bigmodel_helpers.inference.transcribing import ctc_beam, ctc_greedy

if TYPE_CHECKING:
    from bigmodel_helpers.inference import listen, server

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
    "Utterance",
    "acceptance",
    "answer",
    "chances",
    "classify",
    "classify_speech",
    "ctc_beam",
    "ctc_greedy",
    "expected_tokens",
    "generate",
    "grad_cam",
    "json_schema",
    "listen",
    "occlusion",
    "penalize",
    "replies",
    "sample",
    "server",
    "speculate",
    "transcribe_digits",
    "verify",
]


def __getattr__(name: str) -> ModuleType:
    if name in ("listen", "server"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
