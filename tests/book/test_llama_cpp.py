"""The record of PyTorch against llama.cpp, and the program that makes it; without Node.js."""

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rooms import ROOT

from bigmodel_helpers import inference
from bigmodel_helpers.data import tokens
from bigmodel_helpers.models import published
from tools.records import llama_cpp

RECORD = ROOT / "book" / "llama_cpp.json"
BITS = {"F32": 32, "Q8_0": 8.5, "Q4_1": 5, "Q4_0": 4.5}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_greedy_tokens_are_equal_in_fp32(record: dict[str, Any]) -> None:
    assert record["tokens"] >= 50
    for name in ("base_lm", "smollm2"):
        equal = record["models"][name]["kinds"]["F32"]["equal"]
        assert len(equal) >= 5
        assert {*equal} == {record["tokens"]}, name


def test_both_cut_texts_into_the_same_tokens(record: dict[str, Any]) -> None:
    for name, found in record["models"].items():
        assert found["texts_equal"] == found["texts"] == len(llama_cpp.ODD), name


def test_both_compute_the_same_from_each_kind_of_file(record: dict[str, Any]) -> None:
    """Tokens may differ where two are close: llama.cpp also rounds what it multiplies with quantized weights."""
    for found in record["models"].values():
        assert [*found["kinds"]] == [*BITS]
        for kind, row in found["kinds"].items():
            assert row["loss_llama_cpp"] == pytest.approx(row["loss_torch"], rel=0.03), kind
            assert 0.9 <= row["top_equal"] <= 1, kind
            size = 32 * row["bytes"] / found["kinds"]["F32"]["bytes"]
            assert size == pytest.approx(BITS[kind], rel=0.05), kind


def test_speeds_are_whole(record: dict[str, Any]) -> None:
    assert {(row["kind"], row["pack"]) for row in record["speed"]} == {*llama_cpp.SPEED}
    for row in record["speed"]:
        middle, low, high = row["ratio"]
        assert row["pairs"] >= 5
        assert 0 < low <= middle <= high
        assert ("cpu_ratio" in row) == (row["threads"] == 1)
        assert row["load"] >= 0


def test_the_record_is_of_what_is_written_today(tmp_path: Path, record: dict[str, Any]) -> None:
    words = tokens.from_folder(published.base_lm())
    published.save_gguf(published.load(published.base_lm()), words, tmp_path / "model.gguf")
    today = hashlib.sha256((tmp_path / "model.gguf").read_bytes()).hexdigest()
    assert record["models"]["base_lm"]["sha256"] == today, f"make it again: {record['command']}"


# ------------------------------------------------------------------------------------------- program


class Torch:
    """Answers as llama.cpp would, from the file; the token at `wrong` is another one."""

    def __init__(self, file: Path, *_: Any, wrong: int = -1) -> None:
        self.model, self.words, self.wrong = published.load(file), tokens.from_gguf(file), wrong

    def ask(self, about: str, **question: Any) -> dict[str, Any]:
        if about == "tokens":
            return {"ids": self.words.encode(question["text"]).ids}
        ids = torch.tensor([question["ids"]])
        if about == "greedy":
            made = [int(one) for one in inference.generate(self.model, ids, most=question["count"])]
            return {
                "ids": [one + (place == self.wrong) for place, one in enumerate(made)],
                "seconds": 2.0,
                "cpu_seconds": 1.0,
            }
        chances = self.model(ids)[0].softmax(-1)
        losses = [-math.log(chances[place, one]) for place, one in enumerate(question["ids"][1:])]
        return {"top": chances.argmax(-1).tolist(), "losses": losses}

    def close(self) -> None:
        pass


def test_a_comparison_finds_what_is_equal_and_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "KINDS", ("F32", "Q8_0"))
    monkeypatch.setattr(llama_cpp, "COUNT", 4)
    model, words = published.load(published.base_lm()), tokens.from_folder(published.base_lm())
    opened = []

    def open_llama(file: Path) -> Torch:
        opened.append(Torch(file, wrong=len(opened) * 3 - 1))
        return opened[-1]

    found = llama_cpp.compare(open_llama, model, words, ("import ", "def f("), "for i in range(10):")
    kinds = found["kinds"]
    assert [kinds[kind]["equal"] for kind in kinds] == [[4, 4], [2, 2]]
    assert found["texts"] == found["texts_equal"] == 10
    assert all(row["top_equal"] == 1 for row in kinds.values())
    for row in kinds.values():
        assert row["loss_torch"] == pytest.approx(row["loss_llama_cpp"], rel=1e-5)
    assert kinds["F32"]["loss_torch"] != kinds["Q8_0"]["loss_torch"]


def test_the_ratio_is_ours_to_theirs() -> None:
    runs = [((2.0, 1.0), (1.0, 1.0)), ((4.0, 2.0), (1.0, 1.0)), ((1.0, 1.0), (1.0, 2.0))]
    told = {"pairs": 3, "torch": 31.5, "llama_cpp": 63, "ratio": [0.5, 0.25, 1.0]}
    assert llama_cpp.speeds(runs, 2) == told
    assert llama_cpp.speeds(runs, 1) == told | {"cpu_ratio": [1.0, 0.5, 2.0]}


def test_a_process_answers_line_by_line(tmp_path: Path) -> None:
    echo = "import sys\nfor line in sys.stdin:\n    print(exit() if 'fail' in line else line.strip(), flush=True)\n"
    (tmp_path / "llama_cpp.mjs").write_text(echo, encoding="utf-8")
    llama = llama_cpp.Llama(tmp_path, Path("a.gguf"), program=sys.executable)
    assert llama.ask("tokens", text="é\n") == {"about": "tokens", "text": "é\n"}
    with pytest.raises(RuntimeError, match="ended without an answer"):
        llama.ask("fail")
    llama.close()


def test_what_is_installed_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(llama_cpp.subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(llama_cpp.platform, "system", lambda: "Linux")
    monkeypatch.setattr(llama_cpp.platform, "machine", lambda: "x86_64")
    llama_cpp.install(tmp_path / "new")
    assert commands[0][1:] == [
        *("install", "--omit=optional", "--ignore-scripts"),
        *("node-llama-cpp@3.22.1", "@node-llama-cpp/linux-x64@3.22.1"),
    ]
    (tmp_path / "new" / "node_modules" / "@node-llama-cpp" / "linux-x64").mkdir(parents=True)
    llama_cpp.install(tmp_path / "new")
    assert len(commands) == 1
    assert (tmp_path / "new" / "llama_cpp.mjs").read_bytes().startswith(b"// Answers questions")


def test_a_token_that_differs_first_is_counted_from_the_start() -> None:
    assert llama_cpp.first_difference([1, 2, 3], [1, 2, 3]) == 3
    assert llama_cpp.first_difference([1, 2, 3], [1, 9, 3]) == 1
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        llama_cpp.first_difference([1, 2], [1])
