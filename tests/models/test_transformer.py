"""The sizes of a transformer, as data."""

from dataclasses import FrozenInstanceError

import pytest

from bigmodel_helpers.models import TransformerConfig


def test_keys_are_as_wide_as_their_heads() -> None:
    assert TransformerConfig(32, 4096, 14336, 32, 8, 128256).kv_width == 1024
    assert TransformerConfig(12, 768, 3072, 12, 12, 50257).kv_width == 768


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        TransformerConfig(12, 768, 3072, 12, 12, 50257).layers = 1
