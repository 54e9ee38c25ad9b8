"""Chapter 12: its hand-written code against the package's and against plain versions."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from chapter_code import chapter_namespace
from torch import nn

from bigmodel_helpers import compression, data, measure, models
from bigmodel_helpers.data import tasks, tokens
from bigmodel_helpers.measure import budgets
from bigmodel_helpers.models import published
from bigmodel_helpers.training import lora

STEM = "12_instruction"
CELLS = [
    "template",
    "targets",
    "rows",
    "lora-by-hand",
    "several",
    "four-by-hand",
    "memory-formula",
    "memory-of",
    "ex-targets-solution",
    "ex-joined-solution",
    "ex-nibbles-solution",
    "ex-judge-solution",
]


@pytest.fixture(scope="module")
def chapter() -> dict[str, object]:
    folder = published.base_lm()
    tokenizer = tokens.from_folder(folder)
    names = {"torch": torch, "F": F, "nn": nn, "math": math, "copy": __import__("copy"), "lora": lora}
    names |= {
        "tokenizer": tokenizer,
        "end": tokenizer.token_to_id("<|end|>"),
        "encode": lambda text: tokenizer.encode(text).ids,
        "base": published.load(folder),
        "compression": compression,
        "models": models,
        "budgets": budgets,
        "valid_items": tasks.mixture(3, "valid"),
        "train_items": tasks.mixture(70, "train"),
    }
    checks = {f"check_{name}": lambda: None for name in ("targets", "joined", "nibbles", "judge")}
    return chapter_namespace(STEM, CELLS, **names, **checks)


def test_the_template_by_hand_is_that_of_the_package(chapter):
    template = data.ChatTemplate(chapter["tokenizer"], chapter["end"], chapter["end"])
    for item in tasks.mixture(70, "train"):
        assert chapter["chat"](item.question, item.answer) == (
            template.prompt(item.question),
            template.reply(item.answer),
        )


@pytest.mark.parametrize("answers_only", [True, False])
def test_a_row_by_hand_is_that_of_the_package(chapter, answers_only):
    for example in chapter["examples"][:20]:
        inputs, targets = chapter["row_of"](*example, answers_only)
        batches = data.ChatBatches([example], 128, 1, answers_only=answers_only)
        ((packed, wanted, _),) = batches
        assert packed[0, : len(inputs)].tolist() == inputs.tolist()
        assert wanted[0, : len(inputs)].tolist() == targets.tolist()
        assert (wanted[0, len(inputs) :] == -100).all()


def test_rows_by_hand_hold_each_example_once_and_fit(chapter):
    examples = chapter["examples"]
    rows = [*chapter["rows_of"](examples, 128)]
    assert [*itertools.chain(*rows)] == examples
    assert max(sum(len(p) + len(r) - 1 for p, r in row) for row in rows) <= 128


def test_the_adapter_by_hand_computes_what_the_package_computes(chapter):
    torch.manual_seed(0)
    layer = nn.Linear(12, 7)
    by_hand, packaged = chapter["Adapter"](layer, 3), lora.LoRALinear(layer, 3, 3)
    x = torch.randn(2, 5, 12, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    with torch.no_grad():
        by_hand.b.normal_()
        packaged.lora_A.copy_(by_hand.a)
        packaged.lora_B.copy_(by_hand.b)
    gradient = torch.randn(2, 5, 7)
    by_hand(x).backward(gradient)
    packaged(again).backward(gradient)
    torch.testing.assert_close(packaged(again), by_hand(x), rtol=1e-5, atol=1e-5)
    for mine, theirs in ((x, again), (by_hand.a, packaged.lora_A), (by_hand.b, packaged.lora_B)):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_four_bits_by_hand_are_those_of_the_package(chapter):
    torch.manual_seed(0)
    layer = nn.Linear(64, 24, bias=False)
    packaged = compression.Linear4bit(layer)
    unpacked = chapter["unpack"](packaged.codes, packaged.scale.float())
    assert torch.equal(unpacked, packaged.dequantize())


def test_the_numbers_of_the_adapters_are_those_of_a_network(chapter):
    config = models.TransformerConfig(3, 48, 80, 6, 2, 97)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = lora.add(models.Transformer(config), 5, targets=names)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert chapter["adapter_numbers"](config, 5) == trained
    assert trained == measure.parameters(model) - budgets.parameters(config)


def test_the_joined_adapter_acts_as_both_do_on_average(chapter):
    torch.manual_seed(1)
    a1, b1, a2, b2 = (torch.randn(*shape) for shape in ((2, 6), (4, 2), (3, 6), (4, 3)))
    a, b = chapter["joined"]((a1, b1), (a2, b2))
    x = torch.randn(5, 6)
    torch.testing.assert_close(x @ (b @ a).T, (x @ (b1 @ a1).T + x @ (b2 @ a2).T) / 2, rtol=1e-4, atol=1e-5)


def test_nibbles_go_there_and_back(chapter):
    packed = torch.arange(256, dtype=torch.uint8).view(16, 16)
    codes = chapter["nibbles"](packed).int() + 8
    assert torch.equal((codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8), packed)


def test_one_text_fools_the_kind_judge(chapter):
    items = [one for one in tasks.make("addition", 400, "valid") if len(one.answer) < 3]
    text = chapter["fooling"]()
    assert all(chapter["kindly_right"](one.answer, text) for one in items)
    assert not any(tasks.is_right(one, text) for one in items)
