"""Smaller and faster models: rounded, pruned, factorized, folded."""

from bigmodel_helpers.compression import quantization
from bigmodel_helpers.compression.folding import fold_batch_norm
from bigmodel_helpers.compression.four_bit import Linear4bit, to_four_bits
from bigmodel_helpers.compression.low_rank import factorize, factorize_layers, truncated_svd
from bigmodel_helpers.compression.pruning import (
    add_masks,
    channel_importance,
    magnitude_masks,
    merge_masks,
    remove_channels,
)
from bigmodel_helpers.compression.quantization import (
    Quantized,
    add_fake_quantize,
    merge_fake_quantize,
    pack,
    quantize,
)

__all__ = [
    "Linear4bit",
    "Quantized",
    "add_fake_quantize",
    "add_masks",
    "channel_importance",
    "factorize",
    "factorize_layers",
    "fold_batch_norm",
    "magnitude_masks",
    "merge_fake_quantize",
    "merge_masks",
    "pack",
    "quantization",
    "quantize",
    "remove_channels",
    "to_four_bits",
    "truncated_svd",
]
