"""``python -m bigmodel_helpers.inference.server MODEL``: a language model behind OpenAI's interface."""

import argparse
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import torch

from bigmodel_helpers.inference.server import load, serve

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(arguments: list[str] | None = None) -> int:
    """Serve a language model until Ctrl+C: a page for chats, and OpenAI's interface below /v1.

    The key that clients must send, if any, is taken from BIGMODEL_KEY: in a command other users would see it.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    name = options.name or Path(options.model).resolve().name.removesuffix(".gguf")
    adapters = dict(each.partition("=")[::2] for each in options.adapter)
    if not all(adapters.values()) or name in adapters or len(adapters) < len(options.adapter):
        parser.error("--adapter wants NAME=FOLDER, with a name of its own for each")
    same = {"dtype": DTYPES[options.dtype], "pack": options.pack, "blocks": options.blocks}
    same |= {"device": options.device, "system": options.system}
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            folders = {name: None, **adapters}
            models = {each: load(options.model, adapter=folder, **same) for each, folder in folders.items()}
            server = serve(models, options.port, options.host, key=os.environ.get("BIGMODEL_KEY") or None)
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
        parser.error(str(error))
    for text in dict.fromkeys(str(each.message) for each in told):
        print(f"warning: {text}", file=sys.stderr)
    with server, suppress(KeyboardInterrupt):
        print(f"{server.url} serves {', '.join(models)}; Ctrl+C stops it", flush=True)
        server.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bigmodel_helpers.inference.server", description=main.__doc__
    )
    parser.add_argument("model", help="a folder, a .gguf file, smollm2 or base_lm")
    parser.add_argument("--name", help="of the model; by default that of its file or folder")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a LoRA adapter, as a model more",
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="by default only this machine reaches it")
    parser.add_argument("--blocks", type=int, default=256, help="of 16 tokens, in the cache of each model")
    parser.add_argument("--pack", default="plain", help="how matrices are stored: plain, fp16, int8 ...")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument(
        "--system", help='what the system says first; "" for nothing; by default as published'
    )
    parser.add_argument("--device", default="cpu", help="such as cuda or mps")
    return parser


if __name__ == "__main__":
    sys.exit(main())
