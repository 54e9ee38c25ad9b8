"""Train the two networks for speech that the package ships, and write their weights and cards.

Run it as ``python -m tools.records.train_speech keywords --out bigmodel_helpers/weights``, or with ``digit_strings``.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bigmodel_helpers import data, evaluation, inference, models, runtime, training
from bigmodel_helpers.training import optim

CHANGES = data.SoundChanges()
SIZES = {
    "layers": 3,
    "width": 96,
    "hidden": 256,
    "heads": 4,
    "kv_heads": 4,
    "vocabulary": 1 + len(data.LETTERS),
}
CHUNKS = (None, 32, 16, 8, 4)  # steps that are read at once; one of them is drawn for each batch
LIMITS = (
    "Trained on synthetic voices only: a person is understood less well, a child or a strong accent probably worse "
    "still. Other words than those of its list become one of them."
)
STEPS = {"keywords": 3000, "digit_strings": 3000}


def keywords(steps: int, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train the network for single words; return it and what its card says of it."""
    train, test = (data.load_speech(part).keep(lambda text, _: " " not in text) for part in ("train", "test"))
    model = models.KeywordNet(len(data.WORDS))
    run = training.fit(
        model,
        data.keyword_batches(train, data.WORDS, CHANGES, seed=seed),
        torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01),
        steps=steps,
        loss=partial(training.cross_entropy, label_smoothing=0.05),
        schedule=optim.triangle(0.2),
        unit="words",
        every=max(1, steps // 10),
    )
    model.half().float()  # tested as it is written
    with torch.inference_mode():
        scores = model.eval()(data.log_mel(data.pad_sounds(test.sounds, 16_000)))
    labels = torch.tensor([data.WORDS.index(text) for text in test.texts])
    digits = labels < len(data.DIGITS)
    among_digits = scores[digits, : len(data.DIGITS)].argmax(1) == labels[digits]
    shares = per_voice((scores.argmax(1) == labels).double(), test.voices)
    accuracy = evaluation.bootstrap(torch.mean, shares)
    right = {
        "test_accuracy": accuracy.value,
        "test_interval": [accuracy.low, accuracy.high],
        "test_accuracy_digits": among_digits.double().mean().item(),
    }
    facts = {"width": 96, "classes": data.WORDS, "test_sounds": len(test)}
    return model, seconds(run) | facts | right


def per_voice(right: Tensor, voices: Sequence[str]) -> Tensor:
    """Return the share of right answers of each voice, (voices,)."""
    names = sorted({*voices})
    return torch.stack([right[[voice == name for voice in voices]].mean() for name in names])


def seconds(run: training.Run) -> dict[str, float]:
    """Return how long a run took."""
    watch = run.stopwatch
    return {"train_seconds": round(watch.seconds, 1), "train_cpu_seconds": round(watch.cpu_seconds, 1)}


def digit_strings(steps: int, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train the network for strings of digits; return it and what its card says of it."""
    train, test = data.load_speech("train"), data.load_speech("test").keep(lambda text, _: " " in text)
    config, chance = models.TransformerConfig(**SIZES), random.Random(seed)
    model = models.SpeechEncoder(config)
    run = training.fit(
        model,
        data.string_batches(train, CHANGES, seed=seed),
        torch.optim.AdamW(model.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=0.01),
        steps=steps,
        loss=lambda model, batch: training.ctc_loss(model, batch, chunk=chance.choice(CHUNKS)),
        count=lambda batch: len(batch[1]),
        schedule=optim.triangle(0.1),
        clip_norm=1.0,
        unit="strings",
        every=max(1, steps // 10),
    )
    model.half().float()  # tested as it is written
    with torch.inference_mode():
        scores = [model.eval()(data.log_mel(sound)[None])[0] for sound in test.sounds]
    heard = [inference.ctc_beam(one, data.LETTERS, words=data.DIGITS, width=8) for one in scores]
    errors = evaluation.error_rate(heard, test.texts, voices=test.voices)
    facts = {"config": SIZES, "chunks": CHUNKS, "letters": data.LETTERS, "test_strings": len(test)}
    facts |= seconds(run)
    return model, facts | {"test_word_error_rate": errors.value, "test_interval": [errors.low, errors.high]}


def main(arguments: list[str] | None = None) -> None:
    """Train one of the networks and write its weights and its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=STEPS)
    parser.add_argument("--steps", type=int, help="fewer, for a test of this script")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    steps = options.steps or STEPS[options.name]
    runtime.seed_everything(options.seed)
    runtime.keep_freed_memory()
    make = {"keywords": keywords, "digit_strings": digit_strings}[options.name]
    model, facts = make(steps, options.seed)
    weights = {
        name: weight.half().contiguous()
        for name, weight in model.state_dict().items()
        if weight.is_floating_point()
    }
    made = runtime.provenance(runtime.get_profile(), data="spoken words").facts
    file = options.out / f"{options.name}.safetensors"
    save_file(weights, file)
    card = {
        "name": options.name,
        "architecture": f"bigmodel_helpers.models.speech.{type(model).__name__}",
        **facts,
        "input": "16,000 samples per second, bigmodel_helpers.data.log_mel",
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "data": "spoken words of the package, part train, changed at random",
        "recipe": f"tools/records/train_speech.py {options.name}, {steps} steps",
        "changes": asdict(CHANGES),
        "seed": options.seed,
        **{key: made[key] for key in ("device", "torch", "python", "date")},
        "limits": LIMITS,
    }
    text = json.dumps(card, indent=1, ensure_ascii=False)
    (options.out / f"{options.name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
