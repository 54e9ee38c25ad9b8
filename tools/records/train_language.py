"""Train the language model that the package ships, resumable, and write its weights, tokenizer and card.

Run it as ``python -m tools.records.train_language --checkpoints DIR --out bigmodel_helpers/weights/base_lm``; called
again after an interruption, it goes on from its last checkpoint.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch

from bigmodel_helpers import data, evaluation, measure, models, runtime, training
from bigmodel_helpers.data import documents, tokens
from bigmodel_helpers.models import published
from bigmodel_helpers.training import Run, optim

VOCABULARY, LENGTH, ROWS = 1024, 128, 16
SIZES = {"layers": 5, "width": 192, "hidden": 512, "heads": 6, "kv_heads": 3, "tied": True}
LIMITS = (
    "Knows the source code of Python's standard library and nothing else; answers no questions; what it writes looks "
    "like Python and seldom runs. Rows of 128 tokens: positions beyond were not trained."
)


def main(arguments: list[str] | None = None) -> Run:
    """Train, evaluate and write weights, tokenizer and card; returns the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, help="folder to save in and to go on from")
    parser.add_argument("--out", type=Path, help="folder for the weights, the tokenizer and the card")
    parser.add_argument(
        "--documents", type=int, help="train on so many documents only (a test of this script)"
    )
    options = parser.parse_args(arguments)

    library = documents.standard_library()
    train, valid = documents.split(documents.without_copies(library)[0], valid=0.1)
    if options.documents is not None:
        train, valid = (
            documents.Documents(part.texts[: options.documents], part.names[: options.documents])
            for part in (train, valid)
        )
    runtime.keep_freed_memory()
    device = runtime.best_device()
    dtype = runtime.autocast_dtype(device)
    tokenizer = tokens.train_bpe(train.texts, VOCABULARY, specials=["<|end|>"])
    end = tokenizer.token_to_id("<|end|>")
    packed, packed_valid = (
        data.pack(part, lambda text: tokenizer.encode(text).ids, end) for part in (train, valid)
    )

    torch.manual_seed(options.seed)
    model = models.Transformer(models.TransformerConfig(vocabulary=VOCABULARY, **SIZES)).to(device)
    matrices, others = optim.split_parameters(model)
    run = training.fit(
        model,
        data.PackedBatches(packed, LENGTH, ROWS, seed=options.seed, device=device),
        [
            optim.Muon(matrices, 0.02, momentum=0.95, rescale=False),
            torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.95), weight_decay=0),
        ],
        steps=options.steps,
        unit="tokens",
        schedule=optim.warmup_stable_decay(warmup=0, decay=0.4),
        dtype=dtype,
        every=max(1, options.steps // 40),
        checkpoints=options.checkpoints,
    )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(options.out / "tokenizer.json"))
        published.save(run.model, options.out, dtype=torch.bfloat16)
        write_card(options.out, run, packed, packed_valid, library.source, options.seed)
    return run


def write_card(
    folder: Path, run: Run, packed: data.Packed, valid: data.Packed, source: str, seed: int
) -> dict[str, object]:
    """Write card.json, measured on the weights that were written."""
    rows = valid.tokens.long().tensor_split(valid.starts[1:])
    losses = evaluation.document_losses(published.load(folder), rows, LENGTH)
    result = evaluation.bits_per_byte(losses, valid.sizes)
    facts = runtime.provenance(runtime.get_profile(), data=source).facts
    card = {
        "name": folder.name,
        "architecture": "bigmodel_helpers.models.Transformer, published as Llama",
        "parameters": measure.parameters(run.model),
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "data": f"{source}, without copies, nine tenths of the documents by documents.split",
        "license": "MIT, as the package; trained on text under the PSF license",
        "train_tokens": len(packed.tokens),
        "seen_tokens": run.step * ROWS * LENGTH,
        "recipe": f"chapter 11's, {run.step} steps of {ROWS} rows of {LENGTH} tokens; "
        "python -m tools.records.train_language",
        "seed": seed,
        "train_seconds": round(run.stopwatch.seconds, 1),
        "train_cpu_seconds": round(run.stopwatch.cpu_seconds, 1),
        **{key: facts[key] for key in ("device", "torch", "python", "date")},
        "test_documents": len(valid.sizes),
        "bits_per_byte": round(result.value, 4),
        "interval": [round(result.low, 4), round(result.high, 4)],
        "limits": LIMITS,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: {result} bits per byte of {len(valid.sizes)} new documents")
    return card


if __name__ == "__main__":
    main()
