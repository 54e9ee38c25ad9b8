"""The language model that the package ships, and the tool that trains it."""

import hashlib
import json

import pytest
import torch

from bigmodel_helpers import data, evaluation, inference
from bigmodel_helpers.data import documents, tokens
from bigmodel_helpers.models import published
from tools.records import train_language

FOLDER = published.base_lm()


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))


def encoded(text: str) -> torch.Tensor:
    tokenizer = tokens.from_folder(FOLDER)
    return torch.tensor([tokenizer.token_to_id("<|end|>"), *tokenizer.encode(text).ids])


def test_the_card_is_that_of_the_weights(card):
    model = published.load(FOLDER)
    assert hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest() == card["sha256"]
    assert sum(parameter.numel() for parameter in model.parameters()) == card["parameters"]
    assert 1e6 <= card["parameters"] <= 4e6
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8e6
    assert model.config.vocabulary == tokens.from_folder(FOLDER).get_vocab_size()


def test_it_predicts_new_documents_as_its_card_says(card):
    _, valid = documents.split(documents.standard_library(), valid=0.1)
    short = sorted(valid.texts, key=len)[8:14]
    rows = [encoded(text) for text in short]
    losses = evaluation.document_losses(published.load(FOLDER), rows, 128)
    found = evaluation.bits_per_byte(losses, torch.tensor([len(text.encode()) for text in short]))
    assert 0.6 * card["bits_per_byte"] < found.value < 1.5 * card["bits_per_byte"]


def test_it_goes_on_with_code():
    start = encoded("import os\n\n\nclass Node:\n    def __init__(self")[None]
    made = inference.generate(published.load(FOLDER), start, most=12, temperature=0)
    text = tokens.from_folder(FOLDER).decode([int(one) for one in made])
    assert text.startswith((", ", "):")), text


def test_the_tool_writes_what_can_be_loaded(tmp_path, capsys):
    run = train_language.main(["--steps", "2", "--documents", "3", "--out", str(tmp_path / "small")])
    assert run.step == 2
    written = json.loads((tmp_path / "small" / "card.json").read_text(encoding="utf-8"))
    assert written["test_documents"] == 3
    assert "3 new documents" in capsys.readouterr().out
    loaded = published.load(tmp_path / "small").state_dict()
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight.bfloat16().float(), loaded[name]), name
    assert data.tokens.from_folder(tmp_path / "small").get_vocab_size() == train_language.VOCABULARY
