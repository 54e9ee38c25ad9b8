"""Compare PyTorch with llama.cpp on GGUF files that `published.save_gguf` writes: token by token, and in speed.

Run it as ``python -m tools.records.llama_cpp``, best on a machine that does nothing else: it takes about ten minutes.
It needs Node.js: llama.cpp comes as the package node-llama-cpp from npm, 85 MB, into ``runs/llama_cpp``. It writes
``book/llama_cpp.json``. A test compares the hash in it with the file that is written today: after a change of the
exporter, run it again.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from bigmodel_helpers import inference, runtime
from bigmodel_helpers.data import tokens
from bigmodel_helpers.models import Transformer, published

ROOT = Path(__file__).parents[2]
NODE = "3.22.1"  # of node-llama-cpp
BINARIES = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "arm64"): "mac-arm64-metal",
    ("Darwin", "x86_64"): "mac-x64",
    ("Windows", "AMD64"): "win-x64",
}
COUNT = 50  # tokens that are compared after each prompt
KINDS = ("F32", "Q8_0", "Q4_1", "Q4_0")
QUANTIZED = 3  # prompts after which tokens of quantized files are compared
CODE = (
    "import os\n\n\nclass Node:\n    def __init__(self",
    "def parse(text):\n    ",
    "for i in range(10):\n",
    '"""Read a file',
    "try:\n    import",
    "        raise ValueError(",
)
PROSE = (
    "The capital of France is",
    "<|im_start|>user\nExplain in a few sentences why the sky is blue.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about snow.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n",
    "In 1969, the first",
)
ODD = (
    "",
    " ",
    "\n\n\n  \t x",
    "naïve café, 北京 and 🦊👩‍👩‍👧",
    "12345 3.14 1e-9 ١٢٣ ½",
    "don't, I'LL, we've 'tis",
    "<|im_end|> <|end|> is text",
    "a" * 300,
    "\x00\x01\x7f\u200b\ufeff",
    "def f(x):\r\n\treturn x ** 2  # e\u0301",
)
SPEED = (("Q4_0", "int4"), ("Q8_0", "int8"), ("F32", "transposed"))  # of llama.cpp, of `inference.Packed`
NEW = 64  # tokens of a run whose time is taken


class Llama:
    """llama.cpp with a GGUF file, in a process of its own.

    Args:
        folder: where `install` put the package.
        file: the GGUF file.
        threads: that compute.
        cache: the kind of number of keys and values; llama.cpp's default is F16.
        program: that runs the script.
    """

    def __init__(
        self, folder: Path, file: Path, threads: int = 1, cache: str = "F32", program: str = "node"
    ) -> None:
        command = [program, "llama_cpp.mjs", str(file), str(threads), "1024", cache]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=folder, encoding="utf-8", **pipes)

    def ask(self, about: str, **question: Any) -> dict[str, Any]:
        """Return the answer to one question."""
        print(json.dumps({"about": about} | question), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("llama.cpp ended without an answer: read its message above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def install(folder: Path) -> None:
    """Install the package from npm into `folder` if it is not there, and put our script beside it."""
    binary = BINARIES[platform.system(), platform.machine()]
    folder.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_suffix(".mjs")
    (folder / script.name).write_bytes(script.read_bytes())
    if (folder / "node_modules" / "@node-llama-cpp" / binary).is_dir():
        return
    (folder / "package.json").write_text("{}\n", encoding="utf-8")
    packages = [f"node-llama-cpp@{NODE}", f"@node-llama-cpp/{binary}@{NODE}"]
    npm = "npm.cmd" if sys.platform == "win32" else "npm"
    subprocess.run([npm, "install", "--omit=optional", "--ignore-scripts", *packages], cwd=folder, check=True)


def encoded(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the ids of a prompt of ours, in which a special token is one; base_lm begins each text with one."""
    tokenizer.encode_special_tokens = False
    ids = tokenizer.encode(prompt).ids
    tokenizer.encode_special_tokens = True
    start = tokenizer.token_to_id("<|end|>")
    return ids if start is None else [start, *ids]


def first_difference(ours: list[int], theirs: list[int]) -> int:
    """Return how many tokens are the same before the first that differs."""
    pairs = zip(ours, theirs, strict=True)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(ours))


def greedy(model: Transformer, llama: Llama, prompts: list[list[int]]) -> list[int]:
    """Return, for each prompt, how many of `COUNT` tokens are the same before the first that differs."""
    return [
        first_difference(
            [int(one) for one in inference.generate(model, torch.tensor([ids]), most=COUNT)],
            llama.ask("greedy", ids=ids, count=COUNT)["ids"],
        )
        for ids in prompts
    ]


@torch.inference_mode()
def forced(model: Transformer, llama: Llama, ids: list[int]) -> dict[str, float]:
    """Compare both after each token of one text: the share of equal top tokens, and the loss in nats per token."""
    scores, found = model(torch.tensor([ids]))[0], llama.ask("forced", ids=ids)
    equal = scores.argmax(-1) == torch.tensor(found["top"])
    loss = F.cross_entropy(scores[:-1], torch.tensor(ids[1:])).item()
    return {
        "top_equal": equal.float().mean().item(),
        "loss_torch": loss,
        "loss_llama_cpp": statistics.fmean(found["losses"]),
    }


def compare(
    open_llama: Callable[..., Llama],
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: tuple[str, ...],
    text: str,
) -> dict[str, Any]:
    """Write a model in each kind, and compare what both sides make of the same file."""
    ids, kinds = [encoded(tokenizer, prompt) for prompt in prompts], {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.gguf")
        for kind in KINDS:
            published.save_gguf(model, tokenizer, file, kind=kind)
            if kind == "F32":
                sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            loaded = published.load(file)
            with closing(open_llama(file)) as llama:
                some = ids if kind == "F32" else ids[:QUANTIZED]
                kinds[kind] = {"bytes": file.stat().st_size, "equal": greedy(loaded, llama, some)}
                kinds[kind] |= forced(loaded, llama, encoded(tokenizer, text))
                if kind == "F32":
                    same = [llama.ask("tokens", text=odd)["ids"] == tokenizer.encode(odd).ids for odd in ODD]
    return {"sha256": sha256, "texts": len(same), "texts_equal": sum(same), "kinds": kinds}


def seconds_of(decoder: inference.Decoder, ids: list[int]) -> tuple[float, float]:
    """Return the seconds from the first new token to the last, by the clock and of the processor."""
    times = [(time.perf_counter(), time.process_time()) for _ in decoder.generate(ids, most=NEW)]
    return times[-1][0] - times[0][0], times[-1][1] - times[0][1]


def race(
    open_llama: Callable[..., Llama], model: Transformer, tokenizer: Tokenizer, pairs: int
) -> Iterator[dict[str, Any]]:
    """Yield how fast both write one answer at batch 1, in runs by turns; neither works while the other does."""
    ids = encoded(tokenizer, PROSE[1])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.gguf")
        for kind, pack in SPEED:
            published.save_gguf(model, tokenizer, file, kind=kind)
            ours = inference.Packed(model if kind == "F32" else deepcopy(model).bfloat16(), pack)
            for threads in sorted({1, min(2, os.cpu_count() or 1)}):
                torch.set_num_threads(threads)
                decoder, load, runs = inference.Decoder(ours), psutil.getloadavg()[0], []
                with closing(open_llama(file, threads, "F16")) as llama:
                    for _ in range(pairs + 1):
                        mine = seconds_of(decoder, ids)
                        other = llama.ask("greedy", ids=ids, count=NEW)
                        runs.append((mine, (other["seconds"], other["cpu_seconds"])))
                yield {"kind": kind, "pack": pack, "threads": threads, "load": load} | speeds(
                    runs[1:], threads
                )


def speeds(runs: list[tuple[tuple[float, float], tuple[float, float]]], threads: int) -> dict[str, Any]:
    """Return tokens per second of both, and our part of llama.cpp's speed: median, lowest, highest of the pairs.

    By the processor's seconds, too, where there is one thread: these hardly see what else runs on the machine. More
    threads spend some of them waiting for each other.
    """

    def part(clock: int) -> list[float]:
        parts = [theirs[clock] / mine[clock] for mine, theirs in runs]
        return [statistics.median(parts), min(parts), max(parts)]

    mine, theirs = (statistics.median((NEW - 1) / run[side][0] for run in runs) for side in (0, 1))
    found = {"pairs": len(runs), "torch": mine, "llama_cpp": theirs, "ratio": part(0)}
    return found | ({"cpu_ratio": part(1)} if threads == 1 else {})


def main(arguments: list[str] | None = None) -> None:
    """Compare both models, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/llama_cpp"), help="for the package of npm")
    parser.add_argument("--record", type=Path, default=Path("book/llama_cpp.json"))
    parser.add_argument("--pairs", type=int, default=7, help="runs of each side whose time is taken")
    parser.add_argument("--part", choices=("models", "speed"), help="of the record that is there; else all")
    options = parser.parse_args(arguments)
    install(options.folder)

    def open_llama(file: Path, *others: Any) -> Llama:
        return Llama(options.folder, file, *others)

    record = facts()
    torch.set_num_threads(1)
    smol, words = published.load(published.smollm2()), tokens.from_gguf(published.smollm2())
    if options.part and options.record.exists():
        record = json.loads(options.record.read_text(encoding="utf-8")) | record
    if options.part != "speed":
        base, base_words = published.load(published.base_lm()), tokens.from_folder(published.base_lm())
        code = (ROOT / "bigmodel_helpers" / "models" / "transformer.py").read_text(encoding="utf-8")[:300]
        prose = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")[:1500]
        record["models"] = {
            "base_lm": compare(open_llama, base, base_words, CODE, code),
            "smollm2": compare(open_llama, smol, words, PROSE, prose),
        }
    if options.part != "models":
        record["speed"] = [*race(open_llama, smol, words, options.pairs)]
    options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")


def facts() -> dict[str, Any]:
    """Return what made the record."""
    return {
        "title": "PyTorch and llama.cpp on the same files",
        "command": "python -m tools.records.llama_cpp",
        "device": runtime.device_name("cpu"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gguf": version("gguf"),
        "node_llama_cpp": NODE,
        "date": datetime.now(UTC).date().isoformat(),
        "tokens": COUNT,
    }


if __name__ == "__main__":
    main()
