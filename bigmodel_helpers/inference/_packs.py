"""What `Packed` computes with: products with stored matrices, normalizations, and attention."""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product: TypeAlias = Callable[[Tensor], Tensor]
HALF = 65_504  # the largest number of fp16
GROUP = 32  # weights that share scale and offset in int4; both kernels want a multiple of it in a row


def plain(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Keep the matrix as it is."""
    return lambda x: F.linear(x, weight, bias)


def transposed(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Store a matrix with more rows than columns by columns; others are faster as they are."""
    if weight.shape[0] < weight.shape[1]:
        return plain(weight, bias)
    columns = weight.t().contiguous()
    if bias is None:
        return lambda x: torch.mm(x, columns)
    return lambda x: torch.addmm(bias, x, columns)


def onednn(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Store the matrix in the layout of oneDNN."""
    _suits("onednn", weight, torch.float32)
    if not torch.backends.mkldnn.is_available():
        raise ValueError("this PyTorch was built without oneDNN: take another pack, such as plain")
    reorder = _operator("onednn", torch.ops.mkldnn, "_reorder_linear_weight")
    linear = _operator("onednn", torch.ops.mkldnn, "_linear_pointwise")
    packed = reorder(weight.contiguous(), 16)
    return lambda x: linear(x, packed, bias, "none", [], "")


def fp16(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Round the matrix to 16 bits; inputs, sums, bias and results stay in fp32."""
    _suits("fp16", weight, torch.float32)
    _has_fbgemm("fp16")
    pack = _operator("fp16", torch.ops.quantized, "linear_prepack_fp16")
    multiply = _operator("fp16", torch.ops.quantized, "linear_dynamic_fp16")
    largest = float(torch.stack(weight.aminmax()).abs().amax())
    if not largest <= HALF:  # the kernel would cut it off, in the network, too, and make a number of nan
        raise ValueError(f"fp16 holds numbers up to {HALF:,}, and a weight is {largest:g}: take plain")
    packed = pack(weight, bias)
    return lambda x: multiply(x, packed)


def int8(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Round to 8 bits, with one scale per row."""
    _suits("int8", weight, torch.bfloat16)
    _divides("int8", weight, rows=1)  # with other sizes the kernel reads past the end
    multiply = _operator("int8", torch, "_weight_int8pack_mm")
    scale = (weight.float().abs().amax(1).clamp(min=1e-8) / 127).to(weight.dtype)
    whole = (weight.float() / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)

    def product(x: Tensor) -> Tensor:
        y = multiply(x, whole, scale)
        return y if bias is None else y + bias

    return product


def int4(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Round to 4 bits, with a scale and an offset for each group of a row."""
    _suits("int4", weight, torch.bfloat16)
    _divides("int4", weight, rows=16)
    pack = _operator("int4", torch, "_convert_weight_to_int4pack_for_cpu")
    multiply = _operator("int4", torch, "_weight_int4pack_mm_for_cpu")
    groups = weight.float().unflatten(1, (-1, GROUP))
    least, most = groups.amin(2), groups.amax(2)
    scale = ((most - least) / 15).clamp(min=1e-8)
    both = torch.stack([scale, least + 8 * scale], dim=2).to(weight.dtype)  # level 8 is the offset
    scale, offset = both.float().split(1, dim=2)
    levels = ((groups - offset) / scale + 8).round().clamp(0, 15)
    packed = pack(levels.flatten(1).to(torch.int32), 2)
    both = both.transpose(0, 1).contiguous()

    def product(x: Tensor) -> Tensor:
        y = multiply(x, packed, GROUP, both)
        return y if bias is None else y + bias

    return product


def _suits(name: str, weight: Tensor, dtype: torch.dtype) -> None:
    """Raise a ValueError where the pack is slow or missing for the dtype or the device of a matrix."""
    if weight.device.type != "cpu":
        raise ValueError(f"{name} computes on a CPU, and the network is on {weight.device}: take plain")
    if weight.dtype != dtype:
        raise ValueError(
            f"{name} needs {dtype}, and the network is {weight.dtype}: call model.to({dtype}) first"
        )


def _has_fbgemm(name: str) -> None:
    """Raise a ValueError where PyTorch does not multiply with fbgemm, which wants a CPU of x86 with AVX2."""
    quantized = torch.backends.quantized
    if quantized.engine in ("x86", "fbgemm"):
        return
    cure = "take another pack, such as plain"
    if "fbgemm" in quantized.supported_engines:
        cure = "set torch.backends.quantized.engine = 'fbgemm' first"
    raise ValueError(f"{name} needs fbgemm, and PyTorch multiplies with {quantized.engine} here: {cure}")


def _divides(name: str, weight: Tensor, rows: int) -> None:
    """Raise a ValueError where the kernel cannot divide a matrix into its blocks."""
    if weight.shape[0] % rows or weight.shape[1] % GROUP:
        raise ValueError(
            f"{name} cannot pack {weight.shape[0]} x {weight.shape[1]}: it divides rows by {rows} and columns by "
            f"{GROUP}: take plain"
        )


def _operator(name: str, where: object, operator: str) -> Callable[..., Tensor]:
    """Return a private operator of PyTorch, which may be missing in another version."""
    found = getattr(where, operator, None)
    if found is None:
        raise ValueError(
            f"{name} needs {operator}, which PyTorch {torch.__version__} lacks: take another pack"
        )
    return found


PACKS: dict[str, Callable[[Tensor, Tensor | None], Product]] = {
    "plain": plain,
    "transposed": transposed,
    "onednn": onednn,
    "fp16": fp16,
    "int8": int8,
    "int4": int4,
}


def normalization(norm: nn.LayerNorm | nn.RMSNorm) -> Product:
    """Return what a normalization computes."""
    shape, weight, eps = norm.normalized_shape, norm.weight.detach(), norm.eps
    if isinstance(norm, nn.RMSNorm):
        return lambda x: F.rms_norm(x, shape, weight, eps)
    bias = norm.bias.detach()
    return lambda x: F.layer_norm(x, shape, weight, bias, eps)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return what queries attend to; the queries that share a head of keys are rows of one product.

    Args:
        query: (texts, tokens, heads, head_width).
        key, value: (texts, kv_heads, seen, head_width).
        mask: (texts, 1, heads / kv_heads * tokens, seen), the same for all queries of a token; None for no mask.

    Returns:
        (texts * tokens, heads * head_width).
    """
    texts, tokens = query.shape[:2]
    rows = query.unflatten(2, (key.shape[1], -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    y = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask)
    return y.unflatten(2, (-1, tokens)).permute(0, 3, 1, 2, 4).reshape(texts * tokens, -1)
