"""The transformer of chapter 10: its sizes, its cache, padding, documents, and what it refuses."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from tiny_transformers import CONFIGS, network
from torch import nn

from bigmodel_helpers.models import Cache, Transformer, TransformerConfig

SIZES = (3, 48, 80, 6, 2, 97)


# ----------------------------------------------------------------------------------------- sizes


def test_keys_are_as_wide_as_their_heads() -> None:
    assert TransformerConfig(32, 4096, 14336, 32, 8, 128256).kv_width == 1024
    assert TransformerConfig(12, 768, 3072, 12, 12, 50257).kv_width == 768
    qwen3 = TransformerConfig(28, 1024, 3072, 16, 8, 151936, head_width=128)
    assert (qwen3.q_width, qwen3.kv_width) == (2048, 1024)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        TransformerConfig(12, 768, 3072, 12, 12, 50257).layers = 1


def test_a_configuration_shows_what_chapter_10_adds_where_it_was_set() -> None:
    assert str(TransformerConfig(*SIZES)) == (
        "TransformerConfig(layers=3, width=48, hidden=80, heads=6, kv_heads=2, vocabulary=97, positions=0, "
        "bias=False, gated=True, tied=False)"
    )
    for config in CONFIGS.values():
        assert eval(repr(config)) == config
    assert str(CONFIGS["qwen3"]).endswith("tied=False, head_width=16, qk_norm=True, eps=1e-06)")


@pytest.mark.parametrize("name", ["layers", "width", "hidden", "heads", "kv_heads", "vocabulary"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "3", None, True])
def test_a_size_is_a_positive_whole_number(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is {value!r}: take a whole number of at least 1$"):
        replace(TransformerConfig(*SIZES), **{name: value})


WRONG = [
    ({"positions": -1}, "positions is -1: take a whole number of at least 0"),
    ({"head_width": -2}, "head_width is -2: take a whole number of at least 0"),
    ({"head_width": 7}, "a head_width of 7 is odd, and rotary positions turn pairs: take an even one"),
    ({"heads": 16, "kv_heads": 16}, "a head_width of 3 is odd"),
    ({"heads": 7, "kv_heads": 7}, "a width of 48 is not divisible by 7 heads: set head_width"),
    ({"kv_heads": 4}, "6 heads cannot share 4 of keys and values: take a divisor of 6"),
    ({"kv_heads": 12}, "6 heads cannot share 12 of keys and values"),
    ({"tied": "false"}, "tied is 'false': take True or False"),
    ({"bias": 1}, "bias is 1: take True or False"),
    ({"qk_norm": None}, "qk_norm is None: take True or False"),
    ({"theta": 0}, "theta is 0: take a positive number below 1e38"),
    ({"theta": float("nan")}, "theta is nan: take a positive number below 1e38"),
    ({"theta": 10**400}, "theta is 1000"),
    ({"theta": "10000"}, "theta is '10000': take a positive number below 1e38"),
    ({"eps": -1e-5}, "eps is -1e-05: take a positive number below 1e38"),
    ({"eps": float("inf")}, "eps is inf: take a positive number below 1e38"),
    ({"vocabulary": "x" * 10_000}, "vocabulary is 'xxx"),
]


@pytest.mark.parametrize(("changes", "why"), WRONG, ids=lambda value: str(value)[:40])
def test_what_no_network_can_have_is_refused(changes: dict, why: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]{,250}$") as caught:
        TransformerConfig(
            **dict(zip(("layers", "width", "hidden", "heads", "kv_heads", "vocabulary"), SIZES, strict=True))
            | changes
        )
    assert str(caught.value).startswith(why)


def test_an_odd_head_is_fine_with_learned_positions() -> None:
    config = TransformerConfig(1, 9, 12, 3, 3, 10, positions=4)
    assert Transformer(config)(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 10)


# --------------------------------------------------------------------------------------- network


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return network(CONFIGS[request.param])


def tokens(batch: int = 3, length: int = 20) -> torch.Tensor:
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(1))


def test_it_begins_as_documented() -> None:
    torch.manual_seed(0)
    config = replace(CONFIGS["gpt2"], width=96, hidden=384, vocabulary=500)
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")) or (name.endswith("bias")):
            assert not parameter.any(), name
        elif "norm" not in name:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    assert model.lm_head.weight is model.embed_tokens.weight


def test_no_token_sees_a_later_one(model: Transformer) -> None:
    x = tokens()
    changed = x.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 97
    first, second = model(x), model(changed)
    assert torch.equal(first[:, :12], second[:, :12])
    assert (first[:, 12:] - second[:, 12:]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("parts", [[1] * 20, [7, 1, 12], [19, 1], [1, 19], [5, 5, 5, 5]])
def test_pieces_with_a_cache_are_the_whole(model: Transformer, parts: list[int]) -> None:
    x, cache = tokens(), Cache(model.config.layers)
    pieces = [model(piece, cache=cache) for piece in x.split(parts, dim=1)]
    assert len(cache) == 20
    torch.testing.assert_close(torch.cat(pieces, 1), model(x), atol=1e-5, rtol=0)


def test_a_cache_holds_keys_and_values_of_each_layer() -> None:
    cache = Cache(2)
    assert len(cache) == 0
    first, second = torch.rand(1, 2, 3, 4), torch.rand(1, 2, 5, 4)
    assert cache.append(0, first, -first)[0] is first
    keys, values = cache.append(0, second, -second)
    torch.testing.assert_close(keys, torch.cat([first, second], dim=2))
    torch.testing.assert_close(values, -keys)
    assert (len(cache), cache.keys[1]) == (8, None)


@pytest.mark.parametrize("parts", [[20], [12, 8], [15, 1, 1, 3]])
def test_padding_on_the_left_changes_nothing(model: Transformer, parts: list[int]) -> None:
    x, lengths = tokens(), (15, 9, 20)
    real = torch.arange(20) >= 20 - torch.tensor(lengths)[:, None]
    cache, place, pieces = Cache(model.config.layers), 0, []
    for piece in x.split(parts, dim=1):
        place += piece.shape[1]
        pieces.append(model(piece, real=real[:, :place], cache=cache))
    padded = torch.cat(pieces, 1)
    assert padded.isfinite().all()
    for row, length in enumerate(lengths):
        alone = model(x[row : row + 1, 20 - length :])
        torch.testing.assert_close(padded[row : row + 1, 20 - length :], alone, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------- documents

DOCUMENTS = torch.tensor([[0] * 7 + [1] + [2] * 12, [5, 5, 3, 3, 3] + [5] * 15, [-1] * 20])
PARTS = [[7, 1, 12], [2, 3, 15], [20]]  # tokens of each document: a number that comes back begins another one


def alone(model: Transformer, x: torch.Tensor) -> torch.Tensor:
    """Return the scores of rows of documents, each of which the network reads alone."""
    return torch.cat(
        [
            torch.cat([model(piece) for piece in row[None].split(parts, dim=1)], dim=1)
            for row, parts in zip(x, PARTS, strict=True)
        ]
    )


def test_a_token_sees_only_its_own_document(model: Transformer) -> None:
    model = model.requires_grad_(True)
    targets, scores, gradients = tokens().roll(-1, 1), [], []
    for read in (lambda x: model(x, documents=DOCUMENTS), lambda x: alone(model, x)):
        scores.append(read(tokens()))
        loss = nn.functional.cross_entropy(scores[-1].flatten(0, 1), targets.flatten())
        gradients.append(torch.autograd.grad(loss, [*model.parameters()]))
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=0)
    for (name, _), ours, theirs in zip(model.named_parameters(), *gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, msg=name)
        assert theirs.any() or "k_proj.bias" in name, name
    assert (scores[0] - model(tokens())).abs().amax(-1)[0, 7:].min() > 1e-3, "the test sees nothing"


def test_one_document_is_as_none(model: Transformer) -> None:
    x, last = tokens(), torch.iinfo(torch.int64).max
    for number in (0, 7, -last, last):
        same = torch.full_like(x, number)
        torch.testing.assert_close(model(x, documents=same), model(x), atol=1e-5, rtol=0)
    single = torch.arange(60).reshape(3, 20)  # one token each
    expected = model(x.reshape(60, 1)).reshape(3, 20, 97)
    torch.testing.assert_close(model(x, documents=single), expected, atol=1e-5, rtol=0)


def test_the_host_reads_no_value_of_documents(model: Transformer) -> None:
    x = torch.zeros(3, 20, dtype=torch.int64, device="meta")  # has no values
    assert model.to("meta")(x, documents=x).shape == (3, 20, 97)


def test_documents_share_the_positions_of_a_row() -> None:
    model = network(CONFIGS["gpt2"])
    two = torch.tensor([[0] * 32 + [1] * 33])
    with pytest.raises(ValueError, match=r"^65 tokens are more than 64 positions: shorten the text$"):
        model(tokens(1, 65), documents=two)


IDS = [
    (torch.zeros(3, 19, dtype=torch.int64), "torch.int64 of shape (3, 19): pass torch.int64 of (3, 20)"),
    (torch.zeros(20, dtype=torch.int64), "torch.int64 of shape (20,): pass torch.int64 of (3, 20)"),
    (torch.zeros(1, 20, dtype=torch.int64), "torch.int64 of shape (1, 20): pass torch.int64 of (3, 20)"),
    (torch.zeros(3, 20, dtype=torch.int32), "torch.int32 of shape (3, 20): pass torch.int64 of (3, 20)"),
    (torch.zeros(3, 20), "torch.float32 of shape (3, 20): pass torch.int64 of (3, 20)"),
    (torch.ones(3, 20, dtype=torch.bool), "torch.bool of shape (3, 20): pass torch.int64 of (3, 20)"),
]


@pytest.mark.parametrize(
    ("documents", "why"), IDS, ids=["tokens", "one row", "rows", "int32", "float", "bool"]
)
def test_documents_that_do_not_fit_are_refused(model: Transformer, documents: torch.Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=r"^documents is ") as caught:
        model(tokens(), documents=documents)
    assert str(caught.value) == f"documents is {why}"


def test_documents_go_with_neither_padding_nor_a_cache(model: Transformer) -> None:
    real, cache = torch.ones(3, 20, dtype=torch.bool), Cache(3)
    for others in ({"real": real}, {"cache": cache}, {"real": real, "cache": cache}):
        with pytest.raises(ValueError, match=r"^documents with real or cache: [^\n]*: [^\n]*$"):
            model(tokens(), documents=DOCUMENTS, **others)
    assert len(cache) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_stay_what_they_are(model: Transformer, dtype: torch.dtype) -> None:
    exact, scores = model(tokens()), model.to(dtype)(tokens())
    assert scores.dtype == dtype
    torch.testing.assert_close(scores.float(), exact, atol=0.2 if dtype != torch.float64 else 1e-4, rtol=0)


def test_it_learns(model: Transformer) -> None:
    model = model.requires_grad_(True)
    optimizer, x = torch.optim.AdamW(model.parameters(), lr=0.01), tokens(4, 12)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(
        parameter.grad.any() for name, parameter in model.named_parameters() if "k_proj.bias" not in name
    )
    assert losses[-1] < losses[0] / 4


REAL = [
    (torch.ones(2, 8, dtype=torch.bool), "torch.bool of shape (2, 8): pass torch.bool of (3, 8)"),
    (torch.ones(3, 7, dtype=torch.bool), "torch.bool of shape (3, 7): pass torch.bool of (3, 8)"),
    (torch.ones(8, dtype=torch.bool), "torch.bool of shape (8,): pass torch.bool of (3, 8)"),
    (torch.ones(3, 8, dtype=torch.int64), "torch.int64 of shape (3, 8): pass torch.bool of (3, 8)"),
]


@pytest.mark.parametrize(("real", "why"), REAL, ids=["rows", "tokens", "one row", "whole numbers"])
def test_a_mask_that_does_not_fit_is_refused(model: Transformer, real: torch.Tensor, why: str) -> None:
    cache = Cache(3)
    model(tokens(3, 5), cache=cache)
    with pytest.raises(ValueError, match=r"^real is ") as caught:
        model(tokens(3, 3), real=real, cache=cache)
    assert str(caught.value) == f"real is {why}"
    assert len(cache) == 5


def test_what_has_another_shape_is_refused(model: Transformer) -> None:
    with pytest.raises(ValueError, match=r"^tokens of shape \(20,\): pass \(batch, tokens\)$"):
        model(tokens()[0])
    for layers in (0, 2, 4):
        with pytest.raises(ValueError, match=rf"^a cache for {layers} layers: make one for 3$"):
            model(tokens(), cache=Cache(layers))


def test_more_tokens_than_positions_are_refused() -> None:
    model, cache = network(CONFIGS["gpt2"]), Cache(3)
    with pytest.raises(ValueError, match=r"^65 tokens are more than 64 positions: shorten the text$"):
        model(tokens(1, 65))
    model(tokens(1, 64), cache=cache)
    with pytest.raises(ValueError, match=r"^65 tokens are more"):
        model(tokens(1, 1), cache=cache)
    assert len(cache) == 64
