"""Choosing tokens, and text from a network, up to an answer of a published one."""

import math
from itertools import islice

import pytest
import tokenizers
import torch
import transformers
from tiny_transformers import CONFIGS, network

from bigmodel_helpers import inference, models
from bigmodel_helpers.data import _gguf
from bigmodel_helpers.models import published

SCORES = torch.tensor([[1.0, 3.0, 2.0, -math.inf], [0.0, 0.0, 5.0, 1.0]])


def shares(scores: torch.Tensor, **options: float) -> torch.Tensor:
    """Return how often each token is chosen for one row of scores."""
    many = scores.expand(20_000, -1)
    chosen = inference.sample(many, generator=torch.Generator().manual_seed(0), **options)
    return chosen.bincount(minlength=scores.shape[-1]) / len(chosen)


def test_temperature_0_takes_the_highest_score() -> None:
    assert inference.sample(SCORES, temperature=0).tolist() == [1, 2]
    for tiny in (1e-6, 1e-30, 1e-38):
        assert inference.sample(SCORES, temperature=tiny).tolist() == [1, 2]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 1e6, math.inf])
def test_tokens_come_with_their_probability(temperature: float) -> None:
    wanted = (SCORES[1] / temperature).softmax(0)
    torch.testing.assert_close(shares(SCORES[1], temperature=temperature), wanted, atol=0.015, rtol=0)


@pytest.mark.parametrize(("top_p", "kept"), [(0.1, 1), (0.5, 2), (0.74, 2), (0.76, 3), (0.99, 4), (1.0, 4)])
def test_top_p_keeps_the_fewest_tokens_that_have_it_together(top_p: float, kept: int) -> None:
    chances = torch.tensor([0.1, 0.45, 0.15, 0.3])
    order = chances.argsort(descending=True)[:kept]
    wanted = torch.zeros(4).index_copy(0, order, chances[order] / chances[order].sum())
    found = shares(chances.log(), top_p=top_p)
    assert (found > 0).tolist() == (wanted > 0).tolist()
    torch.testing.assert_close(found, wanted, atol=0.015, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_of_any_dtype_are_fine(dtype: torch.dtype) -> None:
    assert inference.sample(SCORES.to(dtype), top_p=0.5).tolist()[0] == 1


def test_the_generator_decides() -> None:
    scores = torch.zeros(8, 100)
    first, second, third = (
        inference.sample(scores, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert first.dtype == torch.int64


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": math.nan}],
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match=r"^temperature is .*, top_p is .*: take at least 0, and more than 0 up to 1$"
    ):
        inference.sample(SCORES, **wrong)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_are_refused(value: float, temperature: float) -> None:
    scores = SCORES.clone()
    scores[1, 3] = value
    with pytest.raises(
        ValueError, match=r"^a row of scores is not finite: look for the first NaN in the network$"
    ):
        inference.sample(scores, temperature=temperature)
    with pytest.raises(ValueError, match="not finite"):
        inference.sample(torch.full((1, 4), -math.inf))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"top_k": 0}, "top_k is 0: take a whole number of at least 1, or None for all tokens"),
        ({"top_k": 2.0}, "top_k is 2.0: take a whole number"),
        ({"min_p": -0.1}, "min_p is -0.1: take 0 up to 1"),
        ({"min_p": 1.5}, "min_p is 1.5: take 0 up to 1"),
        ({"min_p": math.nan}, "min_p is nan: take 0 up to 1"),
    ],
)
@pytest.mark.parametrize("function", [inference.sample, inference.chances])
def test_filters_without_a_meaning_are_refused(function: object, wrong: dict[str, float], why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}"):
        function(SCORES, **wrong)


def test_draws_are_those_of_before_filters_were_added() -> None:
    scores = 3 * torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    for temperature, top_p in ((1.0, 1.0), (0.7, 0.9), (2.0, 0.3)):
        weights = ((scores - scores.amax(-1, keepdim=True)) / temperature).softmax(-1)
        if top_p < 1:
            ordered, order = weights.sort(descending=True, stable=True)
            ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
            weights = torch.zeros_like(weights).scatter(-1, order, ordered)
        wanted = torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(5)).squeeze(-1)
        options = {"temperature": temperature, "top_p": top_p}
        found = inference.sample(scores, generator=torch.Generator().manual_seed(5), **options)
        assert torch.equal(found, wanted)


# ---------------------------------------------------------------------------------------- filters

RANDOM = 3 * torch.randn(200, 40, generator=torch.Generator().manual_seed(1))
FILTERS = [
    {"top_k": 7},
    {"top_p": 0.6},
    {"min_p": 0.1},
    {"top_k": 7, "top_p": 0.6},
    {"top_k": 12, "top_p": 0.8, "min_p": 0.2, "temperature": 1.7},
]


@pytest.mark.parametrize("options", FILTERS)
def test_filters_keep_some_tokens_and_their_ratios(options: dict[str, float]) -> None:
    temperature = options.get("temperature", 1.0)
    found, all_ = inference.chances(RANDOM, **options), (RANDOM / temperature).softmax(-1)
    torch.testing.assert_close(found.sum(-1), torch.ones(200))
    kept = found > 0
    assert kept.gather(1, RANDOM.argmax(1, keepdim=True)).all()
    assert (kept.sum(1) < 40).all()
    share = (all_ * kept).sum(1, keepdim=True)
    torch.testing.assert_close(found * share, all_ * kept, atol=1e-6, rtol=1e-4)
    assert all_.where(kept, 9).amin(1).ge(all_.where(~kept, 0).amax(1)).all()  # the likeliest are kept
    torch.testing.assert_close(inference.chances(RANDOM + 100, **options), found, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({"top_k": 9}, {"top_k": 4}),
        ({"top_p": 0.9}, {"top_p": 0.5}),
        ({"min_p": 0.05}, {"min_p": 0.3}),
        ({"top_k": 9}, {"top_k": 9, "top_p": 0.7}),
        ({"top_p": 0.7}, {"top_p": 0.7, "min_p": 0.4}),
    ],
)
def test_a_stricter_filter_keeps_less(wide: dict[str, float], narrow: dict[str, float]) -> None:
    more, less = (inference.chances(RANDOM, **options) > 0 for options in (wide, narrow))
    assert (less <= more).all()
    assert (less.sum(1) < more.sum(1)).any()


def test_the_strictest_filters_are_greedy_and_the_loosest_change_nothing() -> None:
    greedy = torch.nn.functional.one_hot(RANDOM.argmax(1), 40).float()
    for options in ({"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert torch.equal(inference.chances(RANDOM, **options), greedy)
    loose = inference.chances(RANDOM, top_k=40, top_p=1.0, min_p=0.0)
    torch.testing.assert_close(loose, RANDOM.softmax(-1))
    assert torch.equal(inference.chances(RANDOM, top_k=1000), loose)
    near = torch.tensor([[0.0, 1e-9, -1.0]])  # equal as probabilities
    assert inference.chances(near, top_k=1).tolist() == [[0, 1, 0]]


def test_equal_scores() -> None:
    ties = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0]])
    assert (inference.chances(ties, top_k=2) > 0).tolist() == [[False, True, True, False, False]]
    assert (inference.chances(ties, min_p=1.0) > 0).tolist() == [[False, True, True, False, True]]
    assert inference.chances(ties, temperature=0).tolist() == [[0, 1, 0, 0, 0]]


def test_each_filter_works_on_what_is_left() -> None:
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    found = inference.chances(scores, top_k=2, top_p=0.57)  # 0.4 of all, but 0.571 of what top_k leaves
    assert found.tolist() == [[1, 0, 0, 0]]
    assert (inference.chances(scores, top_p=0.57) > 0).sum() == 2
    cold = inference.chances(scores, temperature=0.5, min_p=0.5)  # (0.3 / 0.4) ** 2 is more than 0.5
    assert (cold > 0).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("options", FILTERS)
def test_filters_are_those_of_transformers(options: dict[str, float]) -> None:
    makers = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    scores = RANDOM
    for name, maker in makers.items():
        if name in options:
            scores = maker(options[name])(None, scores)
    torch.testing.assert_close(inference.chances(RANDOM, **options), scores.softmax(-1))


# -------------------------------------------------------------------------------------- penalties


def test_repetitions_cost_what_they_cost_in_transformers() -> None:
    ids = torch.randint(40, (200, 15), generator=torch.Generator().manual_seed(2))
    wanted = transformers.RepetitionPenaltyLogitsProcessor(1.3)(ids, RANDOM)
    made, prompt = ids[:, 9:].tolist(), ids[:, :9].tolist()
    torch.testing.assert_close(inference.penalize(RANDOM, made, repetition=1.3, prompt=prompt), wanted)
    one = inference.penalize(RANDOM[3], made[3], repetition=1.3, prompt=prompt[3])
    torch.testing.assert_close(one, wanted[3])


def test_presence_costs_once_and_frequency_each_time() -> None:
    scores = torch.tensor([1.0, -1.0, 2.0, -math.inf], dtype=torch.bfloat16)
    found = inference.penalize(scores, [1, 1, 3], presence=0.5, frequency=0.25, prompt=[0, 0])
    assert found.tolist() == [1.0, -2.0, 2.0, -math.inf]
    assert found.dtype == torch.bfloat16
    assert inference.penalize(scores, [1], frequency=-1.0).tolist() == [1.0, 0.0, 2.0, -math.inf]
    found = inference.penalize(scores, [0, 0], repetition=2.0, presence=1.0, prompt=[1])
    assert found.tolist() == [-0.5, -2.0, 2.0, -math.inf]  # the division comes first
    assert torch.equal(inference.penalize(scores, [0, 1]), scores)
    assert torch.equal(inference.penalize(scores, [], repetition=2.0, presence=1.0), scores)
    assert torch.equal(inference.penalize(scores[None], [[]], presence=1.0), scores[None])


def test_penalties_without_a_meaning_are_refused() -> None:
    for wrong in ({"repetition": 0.0}, {"presence": math.nan}, {"frequency": math.inf}):
        with pytest.raises(
            ValueError, match=r"^repetition is .*: take finite numbers, the first more than 0$"
        ):
            inference.penalize(SCORES, [[], []], **wrong)
    with pytest.raises(ValueError, match=r"^2 rows of scores, 1 answers, 2 prompts: pass one per row$"):
        inference.penalize(SCORES, [[1]])
    for token in (4, -1):
        with pytest.raises(
            ValueError, match=f"^token {token} is none of 4: take the tokenizer of the network$"
        ):
            inference.penalize(SCORES[0], [token])


# ------------------------------------------------------------------------------------------- text


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> models.Transformer:
    return network(CONFIGS[request.param])


def slowly(model: models.Transformer, tokens: torch.Tensor, most: int) -> torch.Tensor:
    """Go on from tokens with full passes, as text is made without a cache."""
    start = tokens.shape[1]
    for _ in range(most):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens[:, start:]


def together(**options: object) -> torch.Tensor:
    return torch.stack([*inference.generate(**options)], dim=1)


def test_text_is_that_of_full_passes(model: models.Transformer) -> None:
    tokens = torch.arange(24).reshape(2, 12)
    assert torch.equal(together(model=model, tokens=tokens, most=20), slowly(model, tokens, 20))
    assert together(model=model, tokens=tokens[:, :1], most=3).shape == (2, 3)
    assert [*inference.generate(model, tokens, most=0)] == []


def test_padded_rows_go_on_as_alone(model: models.Transformer) -> None:
    tokens, lengths = torch.arange(36).reshape(3, 12), (4, 12, 1)
    real = torch.arange(12) >= 12 - torch.tensor(lengths)[:, None]
    found = together(model=model, tokens=tokens.where(real, 0), most=20, real=real)
    for row, length in enumerate(lengths):
        assert torch.equal(found[row : row + 1], slowly(model, tokens[row : row + 1, 12 - length :], 20))


def test_a_row_ends_at_its_stop_and_all_when_all_have(model: models.Transformer) -> None:
    tokens = torch.arange(24).reshape(2, 12)
    free = slowly(model, tokens, 20)
    stop = int(free[0, 6])
    found = together(model=model, tokens=tokens, most=20, stop=stop)
    for row in (0, 1):
        ends = (free[row] == stop).nonzero()
        end = int(ends[0]) if len(ends) else 19
        assert torch.equal(found[row, : end + 1], free[row, : end + 1])
        assert (found[row, end + 1 :] == stop).all()
    one = [*inference.generate(model, tokens[:1], most=20, stop=stop)]
    assert len(one) <= 7
    assert one[-1] == stop


def test_tokens_come_as_soon_as_they_are_known(model: models.Transformer) -> None:
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    stream = inference.generate(model, torch.tensor([[1, 2]]), most=20)
    assert calls == []
    assert len([*islice(stream, 3)]) == len(calls) == 3


def test_the_same_seed_gives_the_same_text() -> None:
    model, tokens = network(CONFIGS["llama"]), torch.tensor([[1, 2]])
    first, second, third = (
        together(
            model=model,
            tokens=tokens,
            most=12,
            temperature=2.0,
            top_p=0.9,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_no_gradient_is_kept_and_the_network_may_train_on() -> None:
    model = network(CONFIGS["llama"]).requires_grad_(True).train()
    assert not any(one.requires_grad for one in inference.generate(model, torch.tensor([[1]]), most=2))
    model(torch.tensor([[1, 2]])).sum().backward()
    assert model.training


REAL = torch.ones(2, 3, dtype=torch.bool)
REFUSED = {
    "one row": ({"tokens": torch.tensor([1, 2])}, "tokens of shape (2,): pass (batch, tokens)"),
    "no token": ({"tokens": torch.zeros(2, 0, dtype=torch.int64)}, "tokens of shape (2, 0)"),
    "a list": ({"tokens": [[1, 2]]}, "tokens are list: pass a tensor of torch.int64"),
    "numbers with a point": (
        {"tokens": torch.ones(2, 2)},
        "tokens are torch.float32: pass a tensor of torch.int64",
    ),
    "fewer than none": ({"most": -1}, "most is -1: pass how many tokens, at least 0"),
    "half a token": ({"most": 2.5}, "most is 2.5: pass how many tokens"),
    "two stops": ({"stop": [1, 2]}, "stop is [1, 2]: pass one token, at least 0 and less than 97"),
    "a stop that never comes": ({"stop": 97}, "stop is 97: pass one token"),
    "a stop in words": ({"stop": "<|im_end|>"}, "stop is '<|im_end|>': pass one token"),
    "a large token": ({"tokens": torch.tensor([[1, 97]])}, "token 97 is none of 97: take the tokenizer of"),
    "a negative token": ({"tokens": torch.tensor([[-1, 5]])}, "token -1 is none of 97"),
    "right": ({"real": torch.tensor([[1, 1, 1], [1, 1, 0]]) > 0}, "a row ends with padding: pad on the left"),
    "nothing": ({"real": ~REAL}, "a row ends with padding"),
    "rows": ({"real": REAL[:1]}, "real is torch.bool of shape (1, 3): pass torch.bool of (2, 3)"),
    "numbers": ({"real": REAL.long()}, "real is torch.int64 of shape (2, 3): pass torch.bool of (2, 3)"),
    "temperature": ({"temperature": -1.0}, "temperature is -1.0"),
    "top_k": ({"temperature": 1.0, "top_k": 0}, "top_k is 0"),
    "min_p": ({"temperature": 1.0, "min_p": 2}, "min_p is 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_go_on_is_refused(name: str) -> None:
    wrong, why = REFUSED[name]
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        next(
            inference.generate(
                network(CONFIGS["llama"]), **{"tokens": torch.ones(2, 3).long(), "most": 1} | wrong
            )
        )
    assert str(caught.value).startswith(why)


def test_positions_that_are_used_up_are_told() -> None:
    stream = inference.generate(network(CONFIGS["gpt2"]), torch.zeros(1, 60, dtype=torch.int64), most=9)
    assert len([*islice(stream, 5)]) == 5
    with pytest.raises(ValueError, match=r"^65 tokens are more than 64 positions: shorten the text$"):
        next(stream)


# ---------------------------------------------------------------------------------------- SmolLM2


def tokenizer_of_smollm2() -> tokenizers.Tokenizer:
    fields = _gguf.fields(published.smollm2())
    words, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, letters])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([word for word, kind in zip(words, kinds, strict=True) if kind == 3])
    return tokenizer


def test_smollm2_knows_the_capital_of_france() -> None:
    model, tokenizer = published.load(published.smollm2()), tokenizer_of_smollm2()
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    ids = tokenizer.encode(f"{prompt}<|im_start|>assistant\n").ids
    stop = tokenizer.token_to_id("<|im_end|>")
    answer = [int(token) for token in inference.generate(model, torch.tensor([ids]), most=20, stop=stop)]
    assert tokenizer.decode(answer) == "The capital of France is Paris."
    assert answer[-1] == stop
