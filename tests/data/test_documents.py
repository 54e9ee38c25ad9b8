"""Documents: read from folders that these tests make up, split, rid of copies, compared."""

import hashlib
import os
import random
import sys
from pathlib import Path

import pytest
import torch

from bigmodel_helpers.data import documents, text
from bigmodel_helpers.data.documents import Documents


def made(*texts: str) -> Documents:
    return Documents(texts, tuple(f"{index}.txt" for index in range(len(texts))))


def library(root: Path) -> Path:
    for number in range(40):
        path = root / f"part{number % 3}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"<{number}>\r\nß\r".encode())
    (root / "part0" / "__init__.py").write_bytes(b"")
    for name in ("tests/a.py", "part1/site-packages/b.py", "c.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"left out")
    return root


# ------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("own", [True, False])
def test_documents_of_the_library_are_the_files_of_the_corpus_in_order_and_on_the_same_sides(tmp_path, own):
    place = library(tmp_path / "lib") if own else None
    corpus, whole = text.standard_library(place), documents.standard_library(place)
    assert isinstance(whole, Documents)
    assert whole.skipped == ()
    assert whole.names == tuple(sorted(whole.names))
    assert len(whole) == len(whole.texts) == len(whole.names) > 30
    for part, expected in zip(documents.split(whole), (corpus.train, corpus.valid), strict=True):
        assert "\n".join(part.texts).encode() == expected.numpy().tobytes()
    assert whole.source in corpus.source


def test_a_file_of_the_library_that_is_no_utf_8_is_named(tmp_path):
    root = library(tmp_path / "lib")
    (root / "part1" / "latin.py").write_bytes("# caf\u00e9\n".encode("latin-1"))
    found = documents.standard_library(root)
    assert found.skipped == ("part1/latin.py: not text in UTF-8: save it as UTF-8",)
    assert len(found) == 41
    with pytest.raises(FileNotFoundError, match=r"^.*too few \.py files: [^\n]*$"):
        documents.standard_library(tmp_path / "nowhere")


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_folder_is_read_with_its_folders_in_the_order_of_names(tmp_path):
    files = {
        "b.txt": b"b\r\nc\rd",
        "B.MD": b"# Title",
        "deep/er/a.py": b"\xef\xbb\xbfx = 1\n",
        "deep.txt": "中文 é".encode(),
        "picture.png": b"\x89PNG",
        "notes.rst": b"not asked for",
        ".hidden/a.txt": b"hidden",
        ".txt": b"hidden",
    }
    found = documents.folder(write(tmp_path / "mine", files))
    assert found.names == ("B.MD", "b.txt", "deep.txt", "deep/er/a.py")
    assert found.texts == ("# Title", "b\nc\rd", "中文 é", "x = 1\n")
    assert found.skipped == ()
    assert found.source == "text of mine"
    assert repr(found) == "Documents(4 documents, 0.0 MB, 0 skipped)"
    assert documents.folder(str(tmp_path / "mine"), [".RST"]).texts == ("not asked for",)


def test_what_cannot_be_read_is_left_out_and_named(tmp_path, monkeypatch):
    files = {
        "a.txt": b"good",
        "empty.txt": b"",
        "mark.txt": b"\xef\xbb\xbf",
        "d/latin.txt": "é".encode("latin-1"),
        "nul.txt": b"a\0b",
        "wide.txt": "ab".encode("utf-16"),
        "large.txt": b"123456789",
        "locked.txt": b"x",
    }
    real = Path.read_bytes

    def read_bytes(path):
        if path.name == "locked.txt":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(documents, "_LARGEST", 8)
    found = documents.folder(write(tmp_path, files))
    assert found.names == ("a.txt",)
    assert found.skipped == (
        "d/latin.txt: not text in UTF-8: save it as UTF-8",
        "empty.txt: an empty file: get it again",
        "large.txt: 9 bytes, too many for one document: cut it into its documents",
        "locked.txt: may not be read: change its rights",
        "mark.txt: an empty file: get it again",
        "nul.txt: not text in UTF-8: save it as UTF-8",
        "wide.txt: not text in UTF-8: save it as UTF-8",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few make links, and has no pipes")
def test_links_and_pipes_are_as_in_a_folder_of_pictures(tmp_path):
    root = write(tmp_path / "mine", {"d/a.txt": b"a"})
    write(tmp_path / "other", {"b.txt": b"b"})
    (root / "loop").symlink_to(root)
    (root / "out").symlink_to(tmp_path / "other")
    (root / "d" / "file.txt").symlink_to(tmp_path / "other" / "b.txt")
    (root / "gone.txt").symlink_to(tmp_path / "nothing")
    (root / "me.txt").symlink_to(root / "me.txt")
    os.mkfifo(root / "pipe.txt")
    found = documents.folder(root)
    assert found.names == ("d/a.txt", "d/file.txt")
    assert [line.split(":")[0] for line in found.skipped] == ["loop", "out", "pipe.txt", "gone.txt", "me.txt"]
    assert str(tmp_path) not in "".join(found.skipped)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_cannot_be_printed_are_escaped(tmp_path):
    bad = os.fsdecode(b"bad\xff\n.txt")
    write(tmp_path, {bad: b"text", f"{bad}.txt": b"\0"})
    found = documents.folder(tmp_path)
    assert found.names == (r"bad\udcff\n.txt",)
    assert found.skipped == (r"bad\udcff\n.txt.txt: not text in UTF-8: save it as UTF-8",)


def test_a_folder_without_text_is_told_in_one_line(tmp_path):
    write(tmp_path, {"x/a.txt": b"", "x/b.txt": b"\0", "y/c.rst": b"text"})
    cases = {
        tmp_path / "nowhere": (FileNotFoundError, r"nowhere' is no folder .*: check the path"),
        tmp_path / "y" / "c.rst": (NotADirectoryError, r"c\.rst' is no folder .*: check the path"),
        "": (FileNotFoundError, "'' is no folder .*: check the path"),
        "a\0b": (FileNotFoundError, r"'a.+x00b' is no folder .*: check the path"),
        tmp_path / "y": (FileNotFoundError, r"y has no text in \.txt, \.md, \.py: name other endings"),
        tmp_path / "x": (
            FileNotFoundError,
            r"has no text in .*; of 2 left out the first is a\.txt: an empty file",
        ),
    }
    for path, (kind, message) in cases.items():
        with pytest.raises(kind, match=message) as caught:
            documents.folder(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("endings", [".txt", (), ("txt",), ("*.txt",), ("",), (".",), (1,), [b".txt"]])
def test_endings_that_would_find_nothing_are_refused(tmp_path, endings):
    with pytest.raises(ValueError, match=r"^endings=.*: pass a tuple of endings with their dots"):
        documents.folder(tmp_path, endings)


def test_endings_may_be_any_iterable(tmp_path):
    write(tmp_path, {"a.txt": b"a", "b.TXT": b"b", "c.tar.gz": b"c"})
    assert documents.folder(tmp_path, iter([".txt"])).texts == ("a", "b")
    assert documents.folder(tmp_path, {".Tar.Gz"}).texts == ("c",)


def test_documents_are_texts_with_a_name_each():
    for names in ((), ("a", "b")):
        with pytest.raises(ValueError, match=rf"1 texts, {len(names)} names: give each text one"):
            Documents(("text",), names)
    for texts in ("ab", (b"a", b"b"), ["a", None]):
        with pytest.raises(ValueError, match="texts hold something else than texts: pass a tuple of str"):
            Documents(texts, ("a", "b"))


# ------------------------------------------------------------------------------------- sides


def test_the_hash_of_the_name_decides_the_side():
    whole = made(*map(str, range(3000)))
    train, valid = documents.split(whole)
    for name in whole.names:
        is_valid = hashlib.sha256(name.encode()).digest()[0] % 10 == 0
        assert (name in valid.names) is is_valid
        assert (name in train.names) is not is_valid
    assert train.source.endswith(f"; {len(train)} of 3000 documents")
    held = set()
    for share in (0.001, 0.05, 0.1, 0.25, 0.3, 0.5, 0.99):
        train, valid = documents.split(whole, share)
        assert len(train) + len(valid) == 3000
        assert abs(len(valid) / 3000 - share) < 0.03
        assert held < {*valid.names}  # the larger side holds the smaller
        held = {*valid.names}
        assert all(valid.texts[valid.names.index(name)] == name[:-4] for name in valid.names[:9])


def test_a_side_without_documents_is_refused():
    for valid, count in ((0.001, 0), (0.999, 4)):
        with pytest.raises(
            ValueError, match=rf"valid={valid} puts {count} of 4 .*: use another share or more"
        ):
            documents.split(made(*"abcd"), valid)
    for valid in (0, 1, -0.1, 10, float("nan")):
        with pytest.raises(ValueError, match=f"valid={valid} must be a share between 0 and 1"):
            documents.split(made(*"abcd"), valid)
    with pytest.raises(ValueError, match="puts 0 of 0 documents"):
        documents.split(made())


# ------------------------------------------------------------------------------------- copies


def shingles(one: str, words: int) -> set[tuple[str, ...]]:
    row = one.split()
    return {tuple(row[i : i + words]) for i in range(len(row) - words + 1)} or {tuple(row)}


def copies_by_hand(whole: Documents, shared: float, words: int) -> tuple[list[str], list[str]]:
    kept, copies = [], []
    for name, one in zip(whole.names, whole.texts, strict=True):
        mine = shingles(one, words)
        share = max((len(mine & theirs) / len(mine) for _, theirs in kept), default=0)
        if share >= shared:
            copies.append(name)
        else:
            kept.append((name, mine))
    return [name for name, _ in kept], copies


def mixture(seed: int, count: int = 60) -> Documents:
    """Texts put together from a few sentences, so that they share some; some are short or empty."""
    rng = random.Random(seed)
    sentences = [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(25)]
    return made(*("  \n".join(rng.choices(sentences, k=rng.randint(0, 8))) for _ in range(count)))


@pytest.mark.parametrize("words", [1, 2, 3, 8])
@pytest.mark.parametrize("shared", [0.1, 0.3, 0.5, 2 / 3, 0.7, 1.0])
def test_copies_are_those_that_a_comparison_of_all_pairs_finds(shared, words):
    for seed in range(8):
        whole = mixture(seed)
        kept, copies = documents.without_copies(whole, shared, words)
        assert ([*kept.names], [name for name, _, _ in copies]) == copies_by_hand(whole, shared, words)
        number = whole.names.index
        for name, earlier, share in copies:
            mine, theirs = (shingles(whole.texts[number(one)], words) for one in (name, earlier))
            assert earlier in kept.names
            assert number(earlier) < number(name)
            assert share == len(mine & theirs) / len(mine) >= shared


def test_copies_of_short_texts_are_exact_ones():
    whole = made("one two", "one two three", "one  two\n", "", " ", "two one", "ONE two")
    kept, copies = documents.without_copies(whole)
    assert copies == [("2.txt", "0.txt", 1.0), ("4.txt", "3.txt", 1.0)]
    assert kept.texts == ("one two", "one two three", "", "two one", "ONE two")
    assert kept.source.endswith("5 of 7 documents")


def test_a_copy_of_a_copy_is_compared_with_what_is_kept():
    a, b, c = "1 2 3 4", "3 4 5 6", "5 6 7 8"  # b is like a, c is like b only
    kept, copies = documents.without_copies(made(a, b, c), 0.5, words=1)
    assert kept.names == ("0.txt", "2.txt")
    assert copies == [("1.txt", "0.txt", 0.5)]


def test_a_share_that_is_just_reached_is_enough():
    first = [f"a{index}" for index in range(7)]  # 7 / 25 * 25 is a little above 7
    whole = made(" ".join(first), " ".join(first + [f"b{index}" for index in range(18)]))
    assert documents.without_copies(whole, 7 / 25, words=1)[1] == [("1.txt", "0.txt", 7 / 25)]


def test_a_license_makes_no_copies_and_no_comparison_of_all_pairs():
    license_text = " ".join(f"whereas{index}" for index in range(60))
    bodies = [" ".join(f"word{index}_{place}" for place in range(80)) for index in range(3000)]
    texts = [f"{license_text} {body}" for body in bodies]
    kept, copies = documents.without_copies(
        made(*texts, *(f"{license_text} {index}" for index in range(1000)))
    )
    assert len(kept) == 3000
    assert {earlier for _, earlier, _ in copies} == {"0.txt"}


@pytest.mark.parametrize("words", [1, 3, 8])
def test_overlap_is_the_share_of_shingles_anywhere_in_others(words):
    own, others = mixture(1), mixture(2, 5)
    theirs = set().union(*(shingles(one, words) for one in others.texts))
    expected = [len(shingles(one, words) & theirs) / len(shingles(one, words)) for one in own.texts]
    found = documents.overlap(own, others, words)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected))
    assert words == 1 or 0 < found.mean() < 1
    assert documents.overlap(own, own).eq(1).all()
    assert documents.overlap(own, made()).eq(0).all()
    assert documents.overlap(made(), own).shape == documents.overlap(made(), made()).shape == (0,)
    assert documents.without_copies(made())[1] == []


def test_shares_and_words_out_of_range_are_refused():
    whole = made("a", "b")
    for shared in (0, -1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"shared={shared} must be a share above 0 and at most 1"):
            documents.without_copies(whole, shared)
    for words in (0, -1, 2.5, "8", 1001, None):
        for call in (
            lambda n: documents.without_copies(whole, words=n),
            lambda n: documents.overlap(whole, whole, n),
        ):
            with pytest.raises(ValueError, match=f"words={words!r} must be a whole number from 1 to 1,000"):
                call(words)
