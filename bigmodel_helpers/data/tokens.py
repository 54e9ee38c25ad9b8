"""Tokenizers: from a GGUF file, from the folder of a published model, or trained. Introduced in chapter 10.

What comes back is a `tokenizers.Tokenizer`, whose ``encode(text).ids`` and ``decode(ids)`` do the work. What spells a
special token in a text stays text, so that nobody ends a turn of a chat by typing ``<|im_end|>``; `from_gguf` says
how to get the special token itself.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigmodel_helpers.data import _gguf
from bigmodel_helpers.data._paths import expanded, mode, shown, whole_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LARGEST = 2**26  # bytes of a tokenizer.json, twice the largest known
_MOST = 2**20  # tokens: the library reserves memory for all of them, and ends the program where there is none
_DIGITS = {"smollm": True, "gpt-2": False, "default": False}  # whether each digit is a token of its own
_CONTROL, _OF_USER = 3, 4  # kinds of tokens in GGUF that are found whole


def from_gguf(path: str | Path) -> "Tokenizer":
    """Build the tokenizer that the fields of a GGUF file describe; equal to llama.cpp's.

    Special tokens come from ``tokenizer.token_to_id("<|im_end|>")``, or from a prompt of your own that is encoded
    between ``tokenizer.encode_special_tokens = False`` and ``= True``, which keeps them text. A copy or a saved file
    of the tokenizer does not keep this setting.

    ``encode`` adds no token of beginning or end. It leaves out, as llama.cpp does, a byte that the vocabulary lacks:
    SmolLM2's has no token for some control characters.

    Raises:
        ModuleNotFoundError: the package `tokenizers` is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or its tokenizer is not one of byte-level BPE with known rules for cutting text.
    """
    library = _tokenizers()
    name, fields = shown(Path(path).name), _gguf.fields(path)
    model, pre = (_field(name, fields, key, str) for key in ("ggml.model", "ggml.pre"))
    if model != "gpt2" or pre not in _DIGITS:
        known = ", ".join(_DIGITS)
        raise ValueError(
            f"{name} has a tokenizer of the kind {shown(f'{model}, {pre}')}: gpt2 with {known} can be built"
        )
    words, kinds, merges = (
        _field(name, fields, f"ggml.{key}", list) for key in ("tokens", "token_type", "merges")
    )
    if not len({*words}) == len(words) == len(kinds):
        raise ValueError(
            f"{name} has {len(words):,} tokens, {len({*words}):,} of them different, "
            f"and {len(kinds):,} kinds of tokens: get it again"
        )
    try:
        pairs = [tuple(merge.split(" ")) for merge in merges]
        bpe = library.models.BPE({word: number for number, word in enumerate(words)}, pairs)
    except Exception as error:
        raise ValueError(f"{name}: its merges and tokens do not fit ({shown(error)}): get it again") from None
    tokenizer = _byte_level(bpe, digits=_DIGITS[pre])
    for kind, add in ((_CONTROL, tokenizer.add_special_tokens), (_OF_USER, tokenizer.add_tokens)):
        add(
            [
                library.AddedToken(word, normalized=False)
                for word, each in zip(words, kinds, strict=True)
                if each == kind
            ]
        )
    return tokenizer


def from_folder(path: str | Path) -> "Tokenizer":
    """Load the ``tokenizer.json`` in the folder of a published model; texts are never cut or padded.

    Raises:
        ModuleNotFoundError: the package `tokenizers` is not installed.
        FileNotFoundError: there is no such folder, or no ``tokenizer.json`` in it.
        ValueError: it is damaged, or larger than any known.
    """
    library = _tokenizers()
    file = expanded(path) / "tokenizer.json"
    if not mode(file):
        raise FileNotFoundError(
            f"{shown(path)} is no folder with a tokenizer.json: get the whole folder of the model"
        )
    whole_file(file, "tokenizer")
    if file.stat().st_size > _LARGEST:
        raise ValueError(
            f"{file.name} has {file.stat().st_size:,} bytes, too many for what it is: get it again"
        )
    try:
        tokenizer = library.Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        tokenizer.encode("a 1")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raise ValueError(f"{file.name} is damaged or cannot be read ({shown(error)}): get it again") from None
    return tokenizer


def train_bpe(texts: Iterable[str], vocabulary: int, specials: Sequence[str] = ()) -> "Tokenizer":
    """Learn byte-level BPE in which each digit is a token of its own; the same texts give the same tokenizer.

    Ids: first `specials`, then the 256 bytes, then what was merged, the most frequent pair first.

    Args:
        texts: each is cut into words by itself. A word of 100,000 letters takes seconds, a longer one the square.
        vocabulary: how many tokens there will be, with bytes and specials.
        specials: tokens that stand for no text, such as ``"<|end|>"``.

    Raises:
        ModuleNotFoundError: the package `tokenizers` is not installed.
        TypeError: `texts` is one text.
        ValueError: `vocabulary` is smaller than 256 and the specials, or larger than the texts can fill; a special is
            empty, the sign of a byte, or there twice.

    >>> tokenizer = tokens.train_bpe(["low lower lowest"], 259)
    >>> [tokenizer.id_to_token(number) for number in (256, 257, 258)]
    ['lo', 'low', 'Ġlow']
    """
    library = _tokenizers()
    if isinstance(texts, str | bytes):
        raise TypeError("texts is one text: pass a list of texts, such as [text]")
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    if len({*specials, *alphabet} - {""}) != 256 + len(specials):
        raise ValueError(
            f"specials are {[*specials]}: each must be there once, and none empty or the sign of a byte"
        )
    least = 256 + len(specials)
    if not least <= vocabulary <= _MOST:
        raise ValueError(
            f"a vocabulary of {vocabulary} for 256 bytes and {len(specials)} specials: use {least} to {_MOST}"
        )
    tokenizer = _byte_level(library.models.BPE(), digits=True)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[*specials], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (size := tokenizer.get_vocab_size()) < vocabulary:
        raise ValueError(
            f"the texts give {size} tokens, not {vocabulary}: use a smaller vocabulary or more text"
        )
    return tokenizer


def chat_template(path: str | Path) -> str:
    """Return the chat template in a GGUF file: a program in Jinja, as text. It is read here, never run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or has no chat template.
    """
    return _field(shown(Path(path).name), _gguf.fields(path), "chat_template", str)


def as_bytes(tokenizer: "Tokenizer", ids: Iterable[int]) -> list[bytes]:
    """Return the bytes that each token of byte-level BPE stands for, also where they are a part of a character.

    Joined they are the text, and their number is what bits per byte are counted in.

    Raises:
        ValueError: an id belongs to no token, or the tokenizer does not work on bytes.

    >>> tokenizer = tokens.train_bpe(["low lower lowest"], 259)
    >>> tokens.as_bytes(tokenizer, tokenizer.encode("low é").ids)
    [b'low', b' ', b'\\xc3', b'\\xa9']
    """
    if "ByteLevel" not in str(tokenizer.decoder):
        raise ValueError("these tokens are not made of bytes: use a tokenizer of byte-level BPE")
    values = {sign: byte for byte, sign in enumerate(_signs())}
    added, ids, known = tokenizer.get_added_tokens_decoder(), [*ids], {}
    for number in {*ids}:
        token = tokenizer.id_to_token(number) if 0 <= number < 2**32 else None
        if token is None:
            raise ValueError(f"no token has the id {number}: ids are less than {tokenizer.get_vocab_size()}")
        plain = number in added or not values.keys() >= {*token}
        known[number] = token.encode() if plain else bytes(values[sign] for sign in token)
    return [known[number] for number in ids]


def _signs() -> list[str]:
    """Return the printable character that GPT-2 writes for each of the 256 bytes."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


def _byte_level(model: Any, *, digits: bool) -> "Tokenizer":
    library = _tokenizers()
    cut = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if digits:
        cut = library.pre_tokenizers.Sequence([library.pre_tokenizers.Digits(individual_digits=True), cut])
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, library.decoders.ByteLevel()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _field(name: str, fields: dict[str, Any], key: str, kind: type) -> Any:
    value = fields.get(f"tokenizer.{key}")
    if not isinstance(value, kind):
        raise ValueError(f"{name} does not say tokenizer.{key}: get a file that comes with its tokenizer")
    return value


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise ModuleNotFoundError("tokens need the package tokenizers: pip install tokenizers") from None
    return tokenizers
