"""Models to serve, from what is on the disk. Introduced in chapter 15."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bigmodel_helpers.data import _gguf, tokens
from bigmodel_helpers.data._paths import expanded, mode, shown
from bigmodel_helpers.data.chats import ChatTemplate
from bigmodel_helpers.inference.engine import Engine
from bigmodel_helpers.inference.packed import Packed
from bigmodel_helpers.inference.server._adapters import merge_adapter
from bigmodel_helpers.inference.server._hosted import Hosted
from bigmodel_helpers.models import published
from bigmodel_helpers.models._safetensors import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHIPPED = {"smollm2": published.smollm2, "base_lm": published.base_lm}
# The program in Jinja that writes ChatML, with or without a first turn of the system.
CHATML = re.compile(
    r"{% for message in messages %}"
    r"(?:{% if loop\.first and messages\[0\]\['role'\] != 'system' %}"
    r"{{ '<\|im_start\|>system\n(?P<system>[^'{}\\]*)<\|im_end\|>\n' }}{% endif %})?"
    r"{{ ?'<\|im_start\|>' \+ message\['role'\] \+ '\n' \+ message\['content'\] \+ '<\|im_end\|>' \+ '\n' ?}}"
    r"{% endfor %}{% if add_generation_prompt %}{{ '<\|im_start\|>assistant\n' }}{% endif %}"
)
BOOK, CHAT = "<|end|>", ("<|im_start|>", "<|im_end|>")


def load(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    pack: str = "plain",
    device: torch.device | str = "cpu",
    system: str | None = None,
    **sizes: int,
) -> Hosted:
    """Load a model with its tokenizer and its template for chats, ready to be served.

    Nothing in a file is run, not even the template: it is compared with the two programs that write ChatML. A model
    of this book, which has the token ``<|end|>`` and no template, gets that of chapter 12. One with another template
    goes on with texts, and does not chat; a warning says so.

    Args:
        model: ``"smollm2"``, ``"base_lm"``, a ``.gguf`` file, or a folder as `published.save` writes it, with its
            ``tokenizer.json``.
        adapter: a folder as `lora.save` or peft writes it, to be merged into the weights, which take the
            memory of a whole model.
        dtype: of weights and cache.
        pack: how matrices are stored, see `Packed`.
        device: where it computes.
        system: what the system says first in a chat that does not begin with it; None for what the model's template
            says, "" for nothing, as in chapter 12.
        sizes: of the `Engine`, such as ``blocks=512``.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged or does not fit the others, or an argument is out of range.
    """
    path = SHIPPED[model]() if isinstance(model, str) and model in SHIPPED else expanded(model)
    if not mode(path):
        known = ", ".join(SHIPPED)
        raise FileNotFoundError(
            f"{shown(model)} is not there: pass a folder, a .gguf file, or one of {known}"
        )
    gguf = path.suffix.lower() == ".gguf"
    network = published.load(path, dtype=dtype)
    tokenizer = tokens.from_gguf(path) if gguf else tokens.from_folder(path)
    if adapter is not None:
        merge_adapter(network, adapter)
    packed = Packed(network.to(device), pack)
    del network
    engine, program = Engine(packed, **sizes), _gguf_program(path) if gguf else _folder_program(path)
    template = template_of(tokenizer, program)
    if template is not None:
        return Hosted(engine, template if system is None else replace(template, system=system or None))
    warnings.warn(
        f"the template for chats of {shown(path.name)} cannot be written here: only /v1/completions answers",
        stacklevel=2,
    )
    return Hosted(engine, tokenizer, end=_end(path, gguf, tokenizer))


def template_of(tokenizer: "Tokenizer", program: str | None) -> ChatTemplate | None:
    """Return the template that does what a program in Jinja would do; None for an unknown one."""
    start, end = map(tokenizer.token_to_id, CHAT)
    match = CHATML.fullmatch((program or "").replace("\\n", "\n").strip())
    if match and start is not None and end is not None:
        return ChatTemplate(tokenizer, start, end, match["system"])
    own = tokenizer.token_to_id(BOOK)
    return ChatTemplate(tokenizer, own, own) if program is None and own is not None else None


def _gguf_program(path: Path) -> str | None:
    program = _gguf.fields(path).get("tokenizer.chat_template")
    return program if isinstance(program, str) else None


def _folder_program(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if mode(file):
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(2**16)
    program = _table(folder / "tokenizer_config.json").get("chat_template")
    return program if program is None or isinstance(program, str) else "several"


def _table(file: Path) -> Mapping[str, Any]:
    return read_json(file) if mode(file) else {}


def _end(path: Path, gguf: bool, tokenizer: "Tokenizer") -> int | None:
    """Return the token that ends a text, as the files name it; None where they name none."""
    if gguf:
        end = _gguf.fields(path).get("tokenizer.ggml.eos_token_id")
    else:
        own = (_table(path / name).get("eos_token_id") for name in ("generation_config.json", "config.json"))
        end = next((one for one in own if one is not None), None)
        end = end[0] if isinstance(end, list) and end else end
    known = type(end) is int and 0 <= end < 2**32 and tokenizer.id_to_token(end) is not None
    return end if known else None
