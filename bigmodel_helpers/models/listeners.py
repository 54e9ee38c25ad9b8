"""Trained networks for speech that come with the package. Introduced in chapter 16."""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from bigmodel_helpers.models.speech import KeywordNet, SpeechEncoder
from bigmodel_helpers.models.transformer_config import TransformerConfig

LISTENERS = ("keywords", "digit_strings")


def listener_card(name: str) -> dict[str, Any]:
    """Return the model card of a network for speech: data, recipe, errors, limits.

    Introduced in chapter 16.

    Raises:
        ValueError: there is no such network.

    >>> models.listener_card("digit_strings")["letters"]
    ' efghinorstuvwxz'
    """
    if name not in LISTENERS:
        raise ValueError(f"no network {name!r}: choose from {', '.join(LISTENERS)}")
    return json.loads(_file(f"{name}.json").read_text(encoding="utf-8"))


def load_listener(name: str) -> KeywordNet | SpeechEncoder:
    """Return a trained network in evaluation mode, a new one at each call. Introduced in chapter 16.

    Args:
        name: ``"keywords"`` for single words, a `KeywordNet` whose classes are `data.WORDS`; ``"digit_strings"`` for
            strings of digits, a `SpeechEncoder` whose letters are `data.LETTERS`.

    Raises:
        ValueError: there is no such network, or its file is damaged.

    >>> type(models.load_listener("keywords")).__name__
    'KeywordNet'
    """
    facts, content = listener_card(name), _file(f"{name}.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise ValueError(f"{name}.safetensors is not the file of its card: install the package again")
    model: KeywordNet | SpeechEncoder
    with torch.inference_mode(False):  # else the first call decides that nobody can train it further
        if name == "keywords":
            model = KeywordNet(len(facts["classes"]), facts["width"])
        else:
            model = SpeechEncoder(TransformerConfig(**facts["config"]))
        weights = {key: weight.float() for key, weight in load(content).items()}
        missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or any(not key.endswith("num_batches_tracked") for key in missing):
        raise ValueError(f"{name}.safetensors does not fit its architecture: install the package again")
    return model.eval()


def _file(name: str) -> Path:
    return Path(str(resources.files("bigmodel_helpers").joinpath("weights", name)))
