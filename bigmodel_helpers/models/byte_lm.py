"""A small language model over bytes, made of PyTorch's own layers. Introduced in chapter 8."""

import torch.nn.functional as F
from torch import Tensor, nn


class ByteLM(nn.Module):
    """Predicts the next byte of a text: a transformer whose tokens see only what came before.

    Chapter 10 builds such a model by hand. The output layer has weights of its own: tied to the embedding, it
    would save 256 * width of them, but one of the two could not be pruned or quantized without the other.

    Args:
        width: numbers per token inside the model; a multiple of `heads`.
        layers: transformer blocks, each normalized before attention and before its MLP.
        heads: attention heads.
        context: the longest input, in bytes.

    Input: int64 (B, T), bytes 0 to 255, T at most `context`. Output: logits (B, T, 256) for the byte after each.

    >>> models.ByteLM(width=32, layers=1)(torch.zeros(2, 8, dtype=torch.int64)).shape
    torch.Size([2, 8, 256])
    """

    mask: Tensor

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 4, context: int = 128) -> None:
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.position = nn.Embedding(context, width)
        # A function of ours as activation keeps PyTorch from its fast path for inference, which reads weights
        # past the layers: hooks, FLOP counters and layers put in their place would be missed.
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation=_gelu, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)
        self.register_buffer(
            "mask", nn.Transformer.generate_square_subsequent_mask(context), persistent=False
        )
        for name, weight in self.named_parameters():  # nn.TransformerEncoder copies one block: draw anew
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.5 * width**-0.5)
            if name.endswith(("out_proj.weight", "linear2.weight")):  # their sums grow with the depth
                nn.init.normal_(weight, std=0.5 * (width * 2 * layers) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > len(self.mask):
            raise ValueError(f"{length} bytes do not fit a context of {len(self.mask)}: cut the input")
        x = self.token(tokens) + self.position.weight[:length]
        x = self.blocks(x, mask=self.mask[:length, :length], is_causal=True)
        return self.head(x)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x)
