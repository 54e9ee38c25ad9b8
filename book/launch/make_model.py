"""Make a language model that answers, from nothing: the chapters of this book as one program, from top to bottom.

``make model`` trains a tokenizer and a network on the source code of Python, then on solved tasks, then by a reward;
it rounds the weights, measures all of it, and writes a report. ``--serve`` opens the page for chats. It needs the
package with ``[language]``, and no network. Each stage leaves a folder in OUT. Killed and started again, the program
goes on from its last checkpoint; what other code or other options have made is made anew.
"""

import argparse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import model_board
import model_data
import model_report
import torch
from model_sizes import PROFILES
from model_stages import Facts, digest, digest_of_files, read, stage, write
from torch import Tensor

import bigmodel_helpers
from bigmodel_helpers import data, evaluation, inference, models, runtime, training
from bigmodel_helpers.data import documents, tasks, tokens
from bigmodel_helpers.measure import budgets
from bigmodel_helpers.models import Transformer, published
from bigmodel_helpers.training import checkpoint, optim

DEVICE = runtime.best_device()
Judge = Callable[[Transformer], dict[str, float]]
DTYPE = runtime.autocast_dtype(DEVICE)
GENTLE = (
    0.2  # of the rates, for a network whose rates have decayed: at the full ones it would first get worse
)
SPECIALS = END, ASK, STOP = "<|end|>", "<|im_start|>", "<|im_end|>"


# --------------------------------------------------------------------------------- chapter 10: tokens


def tokenize(work: Path) -> Facts:
    """Part the documents in two, learn a tokenizer from those to read, and keep all as tokens."""
    train, valid = documents.split(documents.without_copies(LIBRARY)[0], valid=0.1)
    assert not {*train.names} & {*valid.names}
    tokenizer = tokens.train_bpe(train.texts, OPTIONS.vocabulary, specials=SPECIALS)
    tokenizer.save(str(work / "tokenizer.json"))
    encode, end = lambda text: tokenizer.encode(text).ids, tokenizer.token_to_id(END)
    packed = {"train": data.pack(train, encode, end), "valid": data.pack(valid, encode, end)}
    checkpoint.save(work / "tokens.safetensors", {name: vars(part) for name, part in packed.items()})
    facts = {"source": LIBRARY.source, "documents": len(train), "new_documents": len(valid)}
    facts["text_tokens"] = len(packed["train"].tokens)
    facts["bytes_per_token"] = int(packed["valid"].sizes.sum()) / len(packed["valid"].tokens)
    return facts | {"says": f"{facts['text_tokens']:,} tokens of {facts['bytes_per_token']:.2f} bytes"}


def chat_template() -> data.ChatTemplate:
    tokenizer = tokens.from_folder(OUT / "tokenize")
    return data.ChatTemplate(tokenizer, *map(tokenizer.token_to_id, (ASK, STOP)))


def packed(part: str) -> data.Packed:
    return data.Packed(**checkpoint.load(OUT / "tokenize" / "tokens.safetensors")[part])


def new_code(most: int) -> tuple[list[Tensor], Tensor]:
    """Return the first tokens of each document that is never read, and the number of their bytes."""
    valid, tokenizer = packed("valid"), chat_template().tokenizer
    rows = [row[: most + 1] for row in valid.tokens.long().tensor_split(valid.starts[1:])]
    return rows, torch.tensor([sum(map(len, tokens.as_bytes(tokenizer, row[1:].tolist()))) for row in rows])


def bits(model: Transformer, code: tuple[list[Tensor], Tensor]) -> evaluation.Estimate:
    """Return how many bits the model needs for a byte of code."""
    losses = evaluation.document_losses(model, code[0], OPTIONS.length, dtype=DTYPE)
    return evaluation.bits_per_byte(losses, code[1])


# --------------------------------------------------------------------------------- chapter 11: pretraining


def train(
    model: Transformer, batches: Any, work: Path, steps: int, judge: Judge | None = None, rate: float = 1.0
) -> Facts:
    """Train with the recipe of chapter 11, from the last checkpoint on; write the model and say what it took."""
    (matrices, others), code = optim.split_parameters(model), new_code(OPTIONS.length)
    run = training.fit(
        model,
        batches,
        [
            optim.Muon(matrices, 0.02 * rate, momentum=0.95, rescale=False),
            torch.optim.AdamW(others, lr=0.006 * rate, betas=(0.9, 0.95), weight_decay=0),
        ],
        steps=steps,
        unit="tokens",
        schedule=optim.warmup_stable_decay(warmup=0.05 if judge else 0, decay=0.4 if rate == 1 else 0.9),
        dtype=DTYPE,
        every=max(1, steps // 20),
        evaluate=lambda model: {"bits": bits(model, code).value} | (judge(model) if judge else {}),
        checkpoints=work / "checkpoints",
    )
    published.save(model, work)
    seen = steps * OPTIONS.rows * OPTIONS.length
    facts = {"tokens": seen, "tokens_per_second": seen / run.stopwatch.seconds, "history": run.history}
    facts["says"] = f"{seen:,} tokens, {facts['tokens_per_second']:,.0f} a second"
    return facts | {"flops": seen * budgets.training_flops(model.config, OPTIONS.length)}


def fresh() -> Transformer:
    torch.manual_seed(0)
    return Transformer(models.TransformerConfig(*OPTIONS.network, OPTIONS.vocabulary, tied=True)).to(DEVICE)


def pretrain(work: Path) -> Facts:
    """Learn to predict code."""
    batches = data.PackedBatches(packed("train"), OPTIONS.length, OPTIONS.rows, device=DEVICE)
    return train(fresh(), batches, work, OPTIONS.pretrain)


# --------------------------------------------------------------------------------- chapter 12: instruction


def solved() -> list[tasks.Item]:
    """Return the demonstrations; their sentences are from documents on the side for training."""
    return model_data.demonstrations(documents.split(LIBRARY, valid=0.1)[0].texts, OPTIONS.solved)


def lessons(items: list[tasks.Item], seed: int) -> model_data.WithReplay:
    """Return rows of chats; a quarter of each batch is code: what was learned is practiced, or it is forgotten."""
    code_rows, here = max(1, OPTIONS.rows // 4), {"seed": seed, "device": DEVICE}
    chats = model_data.conversations(items, chat_template(), OPTIONS.length)
    return model_data.WithReplay(
        data.ChatBatches(chats, OPTIONS.length, OPTIONS.rows - code_rows, **here),
        data.PackedBatches(packed("train"), OPTIONS.length, code_rows, **here),
    )


def trained(name: str) -> Transformer:
    return published.load(OUT / name).to(DEVICE).requires_grad_(True)


def answers(model: Transformer, items: list[tasks.Item], seed: int) -> list[str]:
    """Draw an answer to each question; one that does not end is empty."""
    template, chance = chat_template(), torch.Generator(DEVICE).manual_seed(seed)
    asked = [template.prompt(item.question) for item in items]
    drawn = inference.replies(model, asked, end=template.end, most=24, temperature=1.0, generator=chance)
    return [template.text(ids) if ids[-1] == template.end else "" for ids in drawn]


def judge(model: Transformer) -> dict[str, float]:
    """Return the share of right answers among those drawn, to questions of the part `valid`."""
    items = tasks.mixture(OPTIONS.items // 2, "valid")
    return {"right": sum(map(tasks.is_right, items, answers(model, items, seed=0))) / len(items)}


def instruct(work: Path) -> Facts:
    """Learn to answer, from questions with answers."""
    return train(trained("pretrain"), lessons(solved(), seed=1), work, OPTIONS.instruct, judge)


def control(work: Path) -> Facts:
    """Read the same answers for longer: what the time of the next stage would bring without a reward."""
    return train(trained("instruct"), lessons(solved(), seed=2), work, OPTIONS.control, judge, GENTLE)


# --------------------------------------------------------------------------------- chapter 13: reward


def reinforce(work: Path) -> Facts:
    """Answer other questions several times, be told right or wrong, and learn from one's own right answers."""
    known, own, model = solved(), [], trained("instruct")
    items = model_data.unsolved(OPTIONS.unsolved, known)
    for first in range(0, len(items), 500):
        if not (file := work / f"drawn-{first:06}.json").exists():
            asked = [item for item in items[first : first + 500] for _ in range(OPTIONS.group)]
            told = zip(asked, answers(model, asked, seed=first), strict=True)
            right = {
                item.question: replace(item, answer=text) for item, text in told if tasks.is_right(item, text)
            }
            write(file, {"right": [astuple(item) for item in right.values()]})
            print(f"asked {first + len(asked) // OPTIONS.group} questions, right in {len(right)}", flush=True)
        own += [tasks.Item(*item) for item in read(file)["right"]]
    talk = [item for item in known if item.task == "talk"]
    facts = train(model, lessons([*own, *talk], seed=3), work, OPTIONS.reinforce, judge, GENTLE)
    return facts | {"questions": len(items), "answered": len(own)}


# --------------------------------------------------------------------------------- chapters 8 and 15: files


def quantize(work: Path) -> Facts:
    """Write what others read: safetensors, and GGUF of 32 bits, and of 8 and 4 bits in groups of 32 weights."""
    model, tokenizer = published.load(OUT / "reinforce"), chat_template().tokenizer
    published.save(model, work / "model")
    tokenizer.save(str(work / "model" / "tokenizer.json"))
    (work / "model" / "chat_template.jinja").write_text(model_data.CHATML, encoding="utf-8")
    facts = {"context": OPTIONS.length, "chat_template": model_data.CHATML}
    for name, kind in (("model", "F32"), ("model-int8", "Q8_0"), ("model-int4", "Q4_0")):
        published.save_gguf(model, tokenizer, work / f"{name}.gguf", kind=kind, **facts)
    files = [*work.glob("*.gguf"), work / "model" / "model.safetensors"]
    return {"bytes": {file.name: file.stat().st_size for file in sorted(files)}}


# --------------------------------------------------------------------------------- chapter 9: what it was worth

BOARD = {
    "random weights": None,
    "pretrained": "pretrain",
    "instructed": "instruct",
    "instructed for longer": "control",
    "reinforced": "reinforce",
    "in 8 bits": "quantize/model-int8.gguf",
    "in 4 bits": "quantize/model-int4.gguf",
}
PAIRS = [("instructed for longer", "instructed"), ("reinforced", "instructed")]
PAIRS += [("reinforced", "instructed for longer"), ("in 8 bits", "reinforced"), ("in 4 bits", "reinforced")]


def evaluate(work: Path) -> Facts:
    """Ask all models the questions of the test, greedily and by drawing; measure their bits per byte."""
    items, seen = tasks.mixture(OPTIONS.items, "test"), solved()
    seen += model_data.unsolved(OPTIONS.unsolved, seen)
    overlap = {*map(model_board.what_is_asked, items)} & {*map(model_board.what_is_asked, seen)}
    assert not overlap, f"questions of the test were trained on: {overlap}"
    code, right, facts = new_code(OPTIONS.counted), {}, {"board": {}, "samples": {}}
    for name, source in BOARD.items():
        model = fresh() if source is None else published.load(OUT / source).to(DEVICE)
        ask = partial(inference.answer, model, chat_template(), most=48)
        right[name] = model_board.marks(ask, items, OPTIONS.draws, torch.Generator(DEVICE).manual_seed(0))
        facts["board"][name] = model_board.row(items, right[name], bits(model, code))
        facts["samples"][name] = model_board.samples(ask, items)
        print(f"  {name:22}{model_board.told(facts['board'][name])}", flush=True)
    facts["differences"] = model_board.differences(right, PAIRS)
    return facts | {"always_the_same": model_board.best_constant(seen, items)}


# --------------------------------------------------------------------------------- all of it

STAGES = (tokenize, pretrain, instruct, control, reinforce, quantize, evaluate)


def main(arguments: list[str] | None = None) -> None:
    """Make what is missing, write the report, and serve the model if that is asked for."""
    global OUT, OPTIONS, LIBRARY
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default=runtime.get_profile().name)
    parser.add_argument("--out", type=Path, default=Path("runs/model"))
    parser.add_argument("--texts", type=Path, help="learn from this folder instead of Python's library")
    parser.add_argument("--until", choices=[make.__name__ for make in STAGES], help="stop after this stage")
    parser.add_argument("--serve", action="store_true", help="open the page for chats in the end")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(arguments)

    runtime.keep_freed_memory()
    OUT, OPTIONS = given.out.absolute(), PROFILES[given.profile]
    LIBRARY = documents.folder(given.texts) if given.texts else documents.standard_library()
    few = slice(OPTIONS.documents)
    LIBRARY, facts = replace(LIBRARY, texts=LIBRARY.texts[few], names=LIBRARY.names[few]), {}
    code = digest_of_files(Path(model_data.__file__), *Path(bigmodel_helpers.__file__).parent.rglob("*.py"))
    for make in STAGES:
        facts[make.__name__] = stage(make, OUT, OPTIONS, code, digest(LIBRARY.texts))
        if make.__name__ == given.until:
            return
    model_report.publish(OUT, given.profile, asdict(OPTIONS), fresh(), facts)
    print(f"read {OUT / 'report.html'}; talk: python -m bigmodel_helpers.inference.server {OUT / 'model'}")
    if given.serve:
        from bigmodel_helpers.inference import server

        with server.serve({"model": server.load(OUT / "model")}, given.port) as running:
            print(f"{running.url}; Ctrl+C stops it", flush=True)
            with suppress(KeyboardInterrupt):
                running.wait()


if __name__ == "__main__":
    main()
