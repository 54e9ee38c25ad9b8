"""The losses of whole documents: each token counts once, however the windows lie."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_transformers import CONFIGS, network
from torch import nn

from bigmodel_helpers.evaluation import bits_per_byte, document_losses, pass_at_k, perplexity
from bigmodel_helpers.models import ByteLM

LENGTHS = (2, 3, 9, 40, 17, 2, 64, 33, 8, 5)


def documents(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(97, (length,), generator=generator) for length in lengths]


def one_pass(model: nn.Module, document: torch.Tensor) -> torch.Tensor:
    """Return the loss of each token but the first."""
    with torch.no_grad():
        return F.cross_entropy(model(document[None, :-1])[0].double(), document[1:], reduction="none")


class Unigram(nn.Module):
    """Gives each token its own probability, wherever it stands, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.randn(97, generator=torch.Generator().manual_seed(2)))
        self.asked: list[torch.Tensor] = []

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.asked.append(tokens)
        return self.scores.expand(*tokens.shape, 97)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_what_fits_is_one_long_pass(kind: str, batch_size: int) -> None:
    model = network(CONFIGS[kind])
    found = document_losses(model, documents(), 63, batch_size=batch_size)
    expected = torch.stack([one_pass(model, document).sum() for document in documents()])
    assert (found.dtype, found.device.type) == (torch.float64, "cpu")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert not found.is_inference()  # one may compute with it anywhere


@pytest.mark.parametrize("length", [1, 2, 5, 8, 39, 64])
def test_each_token_counts_once(length: int) -> None:
    model = Unigram()
    expected = torch.stack([one_pass(model, document).sum() for document in documents()])
    for stride in {1, 2, length // 2, length - 1, length, None} - {0}:
        if stride is None or stride <= length:
            found = document_losses(model, documents(), length, stride=stride, batch_size=4)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert max(tokens.shape[1] for tokens in model.asked[len(LENGTHS) :]) <= length


def windows_by_hand(model: nn.Module, document: torch.Tensor, length: int, stride: int) -> float:
    total, counted = 0.0, 0
    for start in range(0, len(document), stride):
        end = min(start + length, len(document) - 1)
        if end > counted:
            total += one_pass(model, document[start : end + 1])[counted - start :].sum().item()
            counted = end
    assert counted == len(document) - 1
    return total


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 4), (8, 3), (8, 1), (7, None), (1, None), (2, 2)])
def test_a_window_repeats_what_came_before_as_context(kind: str, length: int, stride: int | None) -> None:
    model, step = network(CONFIGS[kind]), stride or max(1, length // 2)
    found = document_losses(model, documents(), length, stride=stride)
    expected = [windows_by_hand(model, document, length, step) for document in documents()]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_no_window_is_read_that_counts_nothing() -> None:
    model = Unigram()
    document_losses(model, documents((9, 10, 13, 14)), 8, stride=4, batch_size=1)
    assert sorted(tokens.shape[1] for tokens in model.asked) == [5, 5, 8, 8, 8, 8, 8, 8]


def test_documents_in_a_batch_do_not_touch_each_other() -> None:
    model = network(CONFIGS["gpt2"])
    together = document_losses(model, documents(), 20)
    alone = [document_losses(model, [document], 20).item() for document in documents()]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)
    backward = document_losses(model, documents()[::-1], 20)
    torch.testing.assert_close(backward.flip(0), together, rtol=1e-5, atol=0)


def test_a_table_of_documents_will_do() -> None:
    model, table = network(CONFIGS["llama"]), torch.arange(30).reshape(3, 10)
    torch.testing.assert_close(document_losses(model, table, 16), document_losses(model, [*table], 16))
    assert document_losses(model, iter(table), 16).shape == (3,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_formats_are_summed_without_loss(dtype: torch.dtype) -> None:
    model = network(CONFIGS["llama"])
    expected = document_losses(model, documents(), 30)
    found = document_losses(model.to(dtype), documents(), 30)
    torch.testing.assert_close(found, expected, rtol=0.05 if dtype != torch.float64 else 1e-5, atol=0)


def test_mixed_precision_is_asked_for() -> None:
    model, seen = network(CONFIGS["llama"]), []
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    found, exact = (document_losses(model, documents(), 30, dtype=dtype) for dtype in (torch.bfloat16, None))
    assert {*seen} == {torch.bfloat16, torch.float32}
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0)
    assert not torch.equal(found, exact)


class Stochastic(Unigram):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        return self.other(self.one(super().forward(tokens)))


def test_the_model_is_evaluated_and_put_back() -> None:
    model = Stochastic().train()
    model.other.eval()
    modes = [module.training for module in model.modules()]
    first, second = (document_losses(model, documents(), 16) for _ in range(2))
    assert torch.equal(first, second)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(IndexError):
        document_losses(model, [torch.tensor([1, 97])], 16)
    assert [module.training for module in model.modules()] == modes
    model.scores.sum().backward()
    assert model.scores.grad is not None


def test_bits_and_perplexity_of_a_model_that_knows_nothing() -> None:
    model = ByteLM(width=8, layers=1, heads=2, context=16)
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    texts = [torch.arange(40), torch.arange(100), torch.arange(9)]
    losses, sizes = document_losses(model, texts, 16), torch.tensor([39, 99, 8])
    assert bits_per_byte(losses, sizes).value == pytest.approx(8)
    assert perplexity(losses, sizes).value == pytest.approx(256)
    assert losses.tolist() == pytest.approx((sizes * math.log(256)).tolist())


WRONG = [
    ({"documents": []}, "no document: pass at least one"),
    ({"documents": [torch.tensor([1, 2]), torch.tensor([1])]}, "document 1 has 1 of 2 tokens"),
    ({"documents": [torch.tensor([], dtype=torch.int64)]}, "document 0 has 0 of 2 tokens"),
    ({"documents": torch.arange(9)}, "document 0 is torch.int64 of shape (): pass torch.int64 of (tokens,)"),
    ({"documents": [torch.arange(9)[None]]}, "document 0 is torch.int64 of shape (1, 9): pass"),
    ({"documents": [torch.arange(9).int()]}, "document 0 is torch.int32 of shape (9,): pass torch.int64"),
    ({"documents": [torch.zeros(9)]}, "document 0 is torch.float32 of shape (9,): pass torch.int64"),
    ({"documents": [[1, 2, 3]]}, "document 0 is a list: pass torch.int64 of (tokens,)"),
    ({"documents": ["text"]}, "document 0 is a str: pass torch.int64 of (tokens,)"),
    ({"documents": [torch.tensor([0, -100, 3])]}, "document 0 has the token -100: take the tokenizer"),
    ({"length": 0}, "length is 0: take a whole number of at least 1"),
    ({"length": -4}, "length is -4: take"),
    ({"length": 8.0}, "length is 8.0: take"),
    ({"length": "8"}, "length is '8': take"),
    ({"length": None}, "length is None: take"),
    ({"length": True}, "length is True: take"),
    ({"stride": 0}, "stride is 0: take a whole number from 1 to the length, 8"),
    ({"stride": 9}, "stride is 9: take a whole number from 1 to the length, 8"),
    ({"stride": 2.0}, "stride is 2.0: take"),
    ({"batch_size": 0}, "batch_size is 0: take a whole number of at least 1"),
    ({"batch_size": None}, "batch_size is None: take"),
    ({"dtype": torch.float32}, "dtype is torch.float32: use None, torch.bfloat16 or torch.float16"),
    ({"dtype": "bfloat16"}, "dtype is 'bfloat16': use None"),
]


@pytest.mark.parametrize(("changes", "why"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_measured_is_refused(changes: dict, why: str) -> None:
    options = {"model": Unigram(), "documents": documents(), "length": 8} | changes
    with pytest.raises(ValueError, match=r"^[^\n]{,200}$") as caught:
        document_losses(**options)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda tokens: {"logits": 0}, "a dict"),
        (lambda tokens: torch.zeros(*tokens.shape), "torch.float32 of shape (1, 8)"),
        (lambda tokens: torch.zeros(1, 97), "torch.float32 of shape (1, 97)"),
        (lambda tokens: torch.zeros(1, 97, 8), "torch.float32 of shape (1, 97, 8)"),
        (lambda tokens: torch.zeros(1, 1, 97), "torch.float32 of shape (1, 1, 97)"),
    ],
    ids=["dict", "no scores", "last token", "turned", "one token"],
)
def test_a_model_that_gives_no_scores_is_refused(answer, told: str) -> None:
    class Odd(nn.Linear):
        forward = staticmethod(answer)

    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        document_losses(Odd(1, 1), [torch.arange(9)], 8)
    assert str(caught.value) == f"the model returned {told}: pass one that returns the scores (1, 8, V)"
    with pytest.raises(ValueError, match=r"^the model has no parameters, so its device is unknown: "):
        document_losses(nn.Identity(), documents(), 8)


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_pass_at_k_is_the_share_of_sets_with_a_right_answer(count: int) -> None:
    right = torch.arange(4)[None] < count
    for k in range(1, 5):
        sets = [*itertools.combinations(right[0].tolist(), k)]
        assert pass_at_k(right, k).item() == pytest.approx(sum(map(any, sets)) / len(sets))


@pytest.mark.parametrize(
    ("right", "k", "told"),
    [
        (torch.ones(2, 4), 1, "torch.float32 .* pass torch.bool"),
        (torch.ones(4, dtype=torch.bool), 1, "pass torch.bool of .items, answers."),
        (torch.ones(2, 4, dtype=torch.bool), 5, "k is 5: take a whole number from 1 to the 4"),
        (torch.ones(2, 4, dtype=torch.bool), 0, "k is 0"),
        (torch.ones(2, 4, dtype=torch.bool), 2.0, "k is 2.0"),
    ],
    ids=["float", "vector", "too large", "zero", "a fraction"],
)
def test_pass_at_k_refuses_what_has_no_answer(right: torch.Tensor, k: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        pass_at_k(right, k)
