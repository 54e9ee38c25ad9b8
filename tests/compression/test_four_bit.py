"""Linear layers of four bits: the weight that `quantize` gives, gradients that pass, and their size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bigmodel_helpers.compression import Linear4bit, quantize, to_four_bits
from bigmodel_helpers.models import Transformer, TransformerConfig


def layer(bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 40, bias=bias)


def test_the_weight_is_the_one_that_quantize_gives() -> None:
    linear = layer()
    rounded = quantize(linear.weight, 4, 32, scale_dtype=torch.bfloat16).dequantize()
    assert torch.equal(Linear4bit(linear).dequantize(), rounded)


@pytest.mark.parametrize("bias", [False, True])
def test_output_and_gradient_are_those_of_the_rounded_weight(bias: bool) -> None:
    linear = layer(bias)
    four = Linear4bit(linear)
    weight = four.dequantize()
    x = torch.randn(3, 5, 96, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    y = four(x)
    wanted = F.linear(again, weight, linear.bias)
    assert torch.equal(y, wanted)
    g = torch.randn_like(y)
    y.backward(g)
    wanted.backward(g)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-6, atol=1e-6)
    assert not any(one.requires_grad for one in four.parameters())


def test_a_number_takes_four_and_a_half_bits() -> None:
    four = Linear4bit(layer())
    stored = sum(buffer.nbytes for buffer in four.buffers())
    assert 8 * stored == 4.5 * 96 * 40


def test_mixed_precision_computes_in_its_format() -> None:
    four = Linear4bit(layer())
    x = torch.randn(2, 96).bfloat16().requires_grad_()
    assert four(x).dtype == torch.bfloat16
    four(x).sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_a_model_keeps_its_embedding_and_its_names() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(2, 64, 96, 2, 1, vocabulary=50, tied=True))
    head = model.lm_head.weight
    assert to_four_bits(model) is model
    assert model.lm_head.weight is head is model.embed_tokens.weight
    rounded = [name for name, one in model.named_modules() if isinstance(one, Linear4bit)]
    assert len(rounded) == 14
    assert "layers.1.mlp.down_proj" in rounded
    assert not any(one.requires_grad for one in model.parameters())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    other = to_four_bits(Transformer(model.config))
    other.load_state_dict(state)
    tokens = torch.arange(10)[None]
    assert torch.equal(other(tokens), model(tokens))


def test_mixed_precision_keeps_its_format_with_a_bias() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear4bit(layer(True))(torch.randn(2, 96).bfloat16()).dtype == torch.bfloat16


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="40 inputs has no whole groups of 32"):
        Linear4bit(nn.Linear(40, 4))
    with pytest.raises(ValueError, match="nothing to round"):
        to_four_bits(nn.Sequential(nn.ReLU()))
    with pytest.raises(TypeError, match="skip is one text"):
        to_four_bits(nn.Sequential(nn.Linear(64, 4)), skip="0")
    tied = Transformer(TransformerConfig(1, 64, 96, 2, 1, vocabulary=50, tied=True))
    for model, options, message in (
        (nn.Sequential(nn.Linear(64, 4), nn.Linear(4, 4)), {}, "^1: a layer of 4 inputs has no whole groups"),
        (nn.Linear(64, 4), {}, "a Linear by itself"),
        (tied, {"skip": ()}, r"lm_head shares its weight with embed_tokens\.weight"),
    ):
        with pytest.raises(ValueError, match=message):
            to_four_bits(model, **options)
        assert not any(isinstance(one, Linear4bit) for one in model.modules())
        assert all(one.requires_grad for one in model.parameters())
