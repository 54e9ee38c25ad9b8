"""Chapter 10: its hand-written code against the package's and others', on small networks with random weights."""

import dataclasses
import json
import math
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tiny_transformers import CONFIGS, network
from tokenizers import pre_tokenizers
from torch import nn

from bigmodel_helpers import figures, inference, measure, models, runtime
from bigmodel_helpers.data import tokens
from bigmodel_helpers.measure import budgets
from bigmodel_helpers.models import published

STEM = "10_transformer"
CELLS = [
    "chat-text",
    "grams",
    "ngram",
    "attention-loops",
    "attention-matrix",
    "rotary-by-hand",
    "layouts",
    "story",
    "wrong-run",
    "block",
    "block-proof",
    "counts",
    "cache-by-hand",
    "bpe-pieces",
    "bpe-learn",
    "bpe-proof",
    "bpe-encode",
    "lens",
    "head-weights",
    "weights",
    "heads-letters",
    "heads-draw",
    "heads-describe",
    "sampling-by-hand",
    "sol-window",
    "sol-layout",
    "sol-cache",
    "sol-topk",
    "sol-bits",
]
PAGE = """\
He counted the candles, and then he counted the cups: 12 cups, 144 candles, no naïve 東京 🙂.
    def count(words):
        return {pair: words.count(pair) for pair in zip(words, words[1:])}
Low, lower, lowest; new, newer, newest. Aaaaaaaaah! Mississippi has its issi twice, bananas their anan.
A tokenizer cuts a text into pieces, and each piece gets a number. Rare words are made of several pieces.
"""


class Words:
    """A tokenizer of bytes for a vocabulary of 97, in place of SmolLM2's."""

    def encode(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(ids=[5] if text == " Paris" else [byte % 97 for byte in text.encode()])

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"t{one}" for one in ids)

    def token_to_id(self, token: str) -> int:
        return {"<|im_start|>": 95, "<|im_end|>": 96}[token]


def bytes_of(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()))


def corpus(text: str) -> SimpleNamespace:
    """Return what stands for the package's room of data: a corpus of this text."""
    whole = SimpleNamespace(train=bytes_of(text), valid=bytes_of(text[::2]))
    return SimpleNamespace(text=SimpleNamespace(standard_library=lambda: whole))


NAMES: dict[str, Any] = {
    "dataclasses": dataclasses,
    "json": json,
    "math": math,
    "Counter": Counter,
    "pairwise": pairwise,
    "pre_tokenizers": pre_tokenizers,
    "torch": torch,
    "nn": nn,
    "F": F,
    "budgets": budgets,
    "figures": figures,
    "inference": inference,
    "measure": measure,
    "models": models,
    "published": published,
    "tokens": tokens,
    "data": corpus(PAGE * 3),
    "words": Words(),
    "smol": network(CONFIGS["tied llama"]),
    "scores": 3 * torch.randn(97, generator=torch.Generator().manual_seed(3)),
    "profile": runtime.get_profile("smoke"),
    "device": torch.device("cpu"),
} | {f"check_{name}": lambda: None for name in ("window", "layout", "cache", "topk", "bits")}
torch.manual_seed(10)
CHAPTER = chapter_namespace(STEM, CELLS, **NAMES)
OF_LLAMA = ["llama", "tied llama"]


def ids(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(97, (length,), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("text", [PAGE, "abab" * 30, "abcd"])
def test_counts_give_every_byte_a_chance_and_all_together_one(text: str) -> None:
    made = chapter_namespace(STEM, ["grams", "ngram"], **NAMES | {"data": corpus(text)})
    for order in range(4):
        for context in ("he c", "abab", "ever", "東京"):
            before = bytes_of(context)[:order]
            if order and text.encode().endswith(bytes(before.tolist())):
                continue  # nothing was counted behind the end of the text
            each = torch.cat([torch.cat([before, torch.tensor([byte])]) for byte in range(256)])
            p = made["chances"](each, order)[:: order + 1]
            assert len(p) == 256
            assert (p > 0).all()
            assert p.sum().item() == pytest.approx(1, abs=1e-5)


def test_counts_say_what_a_dictionary_says() -> None:
    text, fresh, kappa = PAGE.encode() * 3, PAGE[::3].encode(), 4.0
    counts = Counter(text[i : i + n] for n in range(1, 5) for i in range(len(text) - n + 1))
    counts[b""] = len(text)

    def chance(context: bytes, byte: bytes) -> float:
        shorter = chance(context[1:], byte) if context else 1 / 256
        return (counts[context + byte] + kappa * shorter) / (counts[context] + kappa)

    for order in range(4):
        found = CHAPTER["chances"](torch.tensor(list(fresh)), order).tolist()
        assert found == pytest.approx(
            [chance(fresh[i - order : i], fresh[i : i + 1]) for i in range(order, len(fresh))], rel=1e-4
        )


# --------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize(("length", "width", "values"), [(1, 4, 4), (2, 3, 5), (9, 16, 8)])
def test_attention_by_loops_by_matrices_and_by_the_library(length: int, width: int, values: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(length, width), torch.randn(length, width), torch.randn(length, values)
    by_loops, by_matrix = CHAPTER["attention_by_loops"](q, k, v), CHAPTER["attention"](q, k, v)
    library = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    torch.testing.assert_close(by_loops, library)
    torch.testing.assert_close(by_matrix, library)
    batch = torch.randn(3, 2, 4, length, width)
    torch.testing.assert_close(
        CHAPTER["attention"](*batch), F.scaled_dot_product_attention(*batch, is_causal=True)
    )


@pytest.mark.parametrize(("width", "heads", "theta"), [(2, 1, 10_000.0), (8, 3, 100.0), (64, 2, 500_000.0)])
def test_neighbors_and_halves_give_the_same_scores_where_the_rows_are_sorted(
    width: int, heads: int, theta: float
) -> None:
    torch.manual_seed(0)
    x, to_q, to_k = torch.randn(7, 12), torch.randn(heads * width, 12), torch.randn(heads * width, 12)
    places = torch.tensor([0, 1, 2, 5, 40, 41, 300])

    def scores(turn: Any, *weights: torch.Tensor) -> torch.Tensor:
        q, k = ((x @ w.T).unflatten(1, (heads, width)).transpose(0, 1) for w in weights)
        return turn(q, places, theta) @ turn(k, places, theta).transpose(1, 2)

    neighbors = scores(CHAPTER["turn"], to_q, to_k)
    halves = scores(CHAPTER["turn_halves"], *(published.from_interleaved(w, width) for w in (to_q, to_k)))
    torch.testing.assert_close(halves, neighbors, atol=2e-3, rtol=1e-3)
    if width > 2:
        assert (scores(CHAPTER["turn_halves"], to_q, to_k) - neighbors).abs().max() > 1


@pytest.mark.parametrize("turn", ["turn", "turn_halves"])
def test_turning_keeps_lengths_and_looks_at_distances_only(turn: str) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 16)

    def at(m: int, n: int) -> float:
        turned = (CHAPTER[turn](x, torch.tensor([place]), 10_000.0) for x, place in ((q, m), (k, n)))
        return torch.mul(*turned).sum().item()

    assert at(0, 0) == pytest.approx((q @ k.T).item(), abs=1e-5)
    assert at(4, 9) == pytest.approx(at(1004, 1009), abs=1e-2)
    assert at(4, 9) != pytest.approx(at(9, 4), abs=0.1)
    assert CHAPTER[turn](q, torch.tensor([77]), 10_000.0).norm().item() == pytest.approx(q.norm().item())


# ------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("kind", OF_LLAMA)
def test_each_block_by_hand_equals_the_packaged_one(kind: str) -> None:
    model, passed = network(CONFIGS[kind]), []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, given, result: passed.append((given[0][0], result[0])))
    model(ids(23)[None])
    for layer, (given, result) in zip(model.layers, passed, strict=True):
        torch.testing.assert_close(
            CHAPTER["block_by_hand"](layer, given, model.config), result, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("kind", OF_LLAMA)
def test_weights_of_heads_are_those_of_the_network_add_up_to_one_and_look_back_only(kind: str) -> None:
    model, inputs = network(CONFIGS[kind]), []
    for layer in model.layers:
        layer.self_attn.register_forward_hook(
            lambda _, given, result: inputs.append((given[0][0], result[0]))
        )
    weights = CHAPTER["attention_weights"](model, ids(15))
    assert weights.shape == (model.config.layers, model.config.heads, 15, 15)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:3]))
    assert not weights.triu(1).any()
    assert (weights.tril() > 0).sum() == weights[..., 0, 0].numel() * 15 * 16 / 2
    for layer, own, (x, result) in zip(model.layers, weights, inputs, strict=True):
        v = layer.self_attn.v_proj(x).unflatten(1, (-1, model.config.head_width)).transpose(0, 1)
        mixed = own @ v.repeat_interleave(model.config.heads // model.config.kv_heads, dim=0)
        torch.testing.assert_close(layer.self_attn.o_proj(mixed.transpose(0, 1).flatten(1)), result)


def test_streams_begin_with_the_embedding_and_end_in_the_scores() -> None:
    model, text = network(CONFIGS["llama"]), ids(11)
    streams = CHAPTER["streams"](model, text)
    assert streams.shape == (model.config.layers + 1, 11, model.config.width)
    assert torch.equal(streams[0], model.embed_tokens(text))
    torch.testing.assert_close(model.lm_head(model.norm(streams[-1])), model(text[None])[0])
    assert not any(layer._forward_hooks for layer in model.layers), "hooks are left behind"


@pytest.mark.parametrize("kind", OF_LLAMA)
def test_the_wrong_layout_is_another_program_and_leaves_the_right_one_as_it_was(kind: str) -> None:
    model = network(CONFIGS[kind])
    before = model(ids(20)[None])
    wrong = CHAPTER["in_wrong_layout"](model)(ids(20)[None])
    assert torch.equal(model(ids(20)[None]), before)
    assert (wrong - before).abs().max() > 1e-3
    torch.testing.assert_close(
        wrong[:, 0], before[:, 0]
    )  # a single token looks at itself, however it is turned


@pytest.mark.parametrize("kind", CONFIGS)
def test_writing_without_and_with_a_cache_equals_the_package(kind: str) -> None:
    model, start = network(CONFIGS[kind]), torch.stack([ids(9), ids(9, seed=1)])
    slow, quick = CHAPTER["without_cache"](model, start, 6), CHAPTER["with_cache"](model, start, 6)
    packaged = torch.stack([*inference.generate(model, start, most=6)], dim=1)
    assert torch.equal(slow, quick)
    assert torch.equal(quick, torch.cat([start, packaged], dim=1))


@pytest.mark.parametrize("kind", CONFIGS)
def test_bytes_of_a_cache_are_those_that_it_holds(kind: str) -> None:
    config, kept = CONFIGS[kind], models.Cache(3)
    network(config)(ids(13)[None], cache=kept)
    held = sum(each.nbytes for each in [*kept.keys, *kept.values])
    assert 13 * CHAPTER["cache_bytes_per_token"](config) == held
    assert CHAPTER["cache_bytes"](config, 13, 32) == held
    assert CHAPTER["cache_bytes"](config, 13, 16) == budgets.cache_bytes(config, 13)


# ------------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize("merges", [0, 1, 60])
def test_merges_and_tokens_by_hand_are_those_of_the_library(merges: int) -> None:
    learned = CHAPTER["learn"](CHAPTER["pieces_of"](PAGE), merges)
    library = tokens.train_bpe([PAGE], 256 + merges)
    assert [list(pair) for pair in learned] == json.loads(library.to_str())["model"]["merges"]
    for text in (PAGE, PAGE[::-1], "", " ", "lowest  newest\n\n\t12 issippi 春眠 \x00", "ab" * 50):
        assert CHAPTER["encode"](text, learned) == library.encode(text).tokens


@pytest.mark.parametrize(
    ("symbols", "merged"),
    [("aaa", ("aa", "a")), ("aaaa", ("aa", "aa")), ("baab", ("b", "aa", "b")), ("a", ("a",)), ("", ())],
)
def test_merging_goes_from_left_to_right(symbols: str, merged: tuple[str, ...]) -> None:
    assert CHAPTER["merge"](tuple(symbols), ("a", "a")) == merged


def test_a_chat_by_hand_is_that_of_the_model_s_own_template() -> None:
    file = published.smollm2()
    words = tokens.from_gguf(file)
    chat = chapter_namespace(STEM, ["chat-text"], **NAMES | {"words": words})["chat"]
    question = "Is 12 < 144?\n\n{{ 1 }}"
    template = ImmutableSandboxedEnvironment().from_string(tokens.chat_template(file))
    asked = [{"role": "user", "content": question}]
    text = template.render(messages=asked, add_generation_prompt=True)
    words.encode_special_tokens = False
    wanted = words.encode(text).ids
    words.encode_special_tokens = True
    assert chat(question).tolist() == [wanted]
    end = words.token_to_id("<|im_end|>")
    assert chat("<|im_end|>").tolist()[0].count(end) == wanted.count(end) == 2, (
        "who types the mark ends the turn"
    )


# ---------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 1.0])
def test_chances_are_those_with_which_the_package_draws(
    temperature: float, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, drawn = 3 * torch.randn(200, generator=torch.Generator().manual_seed(1)), []
    monkeypatch.setattr(torch, "multinomial", lambda p, *_, **__: drawn.append(p) or torch.zeros(1, 1))
    before = scores.clone()
    chances = CHAPTER["chances_of"](scores, temperature, top_p)
    inference.sample(scores[None], temperature=temperature, top_p=top_p)
    assert torch.equal(scores, before)
    assert chances.sum().item() == pytest.approx(1)
    assert torch.equal(chances > 0, drawn[0][0] > 0)
    torch.testing.assert_close(chances.float(), drawn[0][0] / drawn[0].sum())


def test_top_k_keeps_k_and_without_a_cut_is_the_softmax() -> None:
    scores = NAMES["scores"].double()
    torch.testing.assert_close(CHAPTER["top_k"](scores, 97, 0.7), CHAPTER["chances_of"](scores, 0.7, 1.0))
    for k in (1, 5):
        cut, whole = CHAPTER["top_k"](scores, k, 0.7), CHAPTER["chances_of"](scores, 0.7, 1.0)
        assert torch.equal(cut.nonzero().flatten(), whole.topk(k).indices.sort().values)
        torch.testing.assert_close(cut, torch.where(cut > 0, whole, 0) / whole.topk(k).values.sum())


# ------------------------------------------------------------------------------ figures and solutions


@pytest.mark.parametrize(("temperature", "top_p"), [(0.3, 0.5), (2.0, 1.0)])
def test_frames_of_the_bars_say_what_the_chances_are(temperature: float, top_p: float) -> None:
    made = chapter_namespace(STEM, ["sampling-by-hand", "sampling-draw", "sampling-describe"], **NAMES)
    p = made["chances_of"](NAMES["scores"], temperature, top_p)
    said = made["describe_chances"](temperature, top_p)
    assert f"'t{p.argmax()}' has {100 * p.max():.0f} percent; tokens left: {int((p > 0).sum())}." in said


def test_frames_of_the_heads_show_the_weights() -> None:
    model, sentence, text = NAMES["smol"], "a sentence", ids(7)
    weights = CHAPTER["attention_weights"](model, text)
    CHAPTER.update(SENTENCES=(sentence,), looked={sentence: weights}, pieces={sentence: list("abcdefg")})
    drawing = ElementTree.fromstring(CHAPTER["draw_head"](1, 2, 5))
    shown = [float(one.get("fill-opacity")) for one in drawing.iter() if one.get("fill-opacity")]
    wanted = weights[1, 4][torch.ones(7, 7).tril().bool()].tolist()
    assert shown == pytest.approx(wanted, abs=0.0051)
    most = "abcdefg"[int(weights[1, 4, -1].argmax())]
    assert "head 5 in layer 2 as a triangle" in CHAPTER["describe_head"](1, 2, 5)
    assert f"'g', looks most at '{most}'" in CHAPTER["describe_head"](1, 2, 5)


@pytest.mark.parametrize("heads", [1, 3])
def test_back_to_neighbors_is_the_way_back(heads: int) -> None:
    weight = torch.randn(heads * 8, 5)
    assert torch.equal(published.from_interleaved(CHAPTER["to_interleaved"](weight, 8), 8), weight)
    assert torch.equal(CHAPTER["to_interleaved"](published.from_interleaved(weight, 8), 8), weight)


def test_a_window_as_wide_as_the_text_is_the_causal_mask() -> None:
    q, k, v = torch.randn(3, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    for window in (6, 7):
        mask = CHAPTER["window_mask"](6, window)
        torch.testing.assert_close(
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask), CHAPTER["attention"](q, k, v)
        )
    assert torch.equal(CHAPTER["window_mask"](6, 1), torch.eye(6, dtype=torch.bool))


def test_bits_per_byte_of_even_scores_are_those_of_a_guess() -> None:
    pieces = [b"The", b" cat", b"s"]
    found = CHAPTER["text_bits"](torch.zeros(3, 8), torch.tensor([1, 7, 2]), pieces)
    assert float(found) == pytest.approx(2 * 3 / 5)  # two tokens of three bits each, on five bytes
