import hashlib
import platform

import pytest
import torch

from bigmodel_helpers.data import text


@pytest.fixture(scope="module")
def corpus():
    return text.standard_library()


def test_the_standard_library_is_bytes_of_python_in_two_parts(corpus):
    assert isinstance(corpus, text.Corpus)
    for part in (corpus.train, corpus.valid):
        assert part.dtype == torch.uint8
        assert part.ndim == 1
    assert len(corpus.train) > 3e6
    assert 0.05 < len(corpus.valid) / len(corpus.train) < 0.2
    both = corpus.train.numpy().tobytes() + corpus.valid.numpy().tobytes()
    assert b"def dump(obj, fp," in both  # json
    assert b"class SmallestHeapTest" not in both
    assert b"\r\n" not in both
    assert corpus.source == (
        f"source code of Python {platform.python_version()}'s standard library: "
        f"{len(corpus.train) / 1e6:.1f} MB for training, {len(corpus.valid) / 1e6:.1f} MB for validation"
    )


def test_the_corpus_is_the_same_each_time(corpus):
    again = text.standard_library()
    assert torch.equal(corpus.train, again.train)
    assert torch.equal(corpus.valid, again.valid)


def test_each_file_is_in_one_part_that_its_path_decides(tmp_path):
    for number in range(40):
        path = tmp_path / "lib" / f"part{number % 3}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"<{number}>\r\n".encode())
    for skipped in (
        "site-packages/a.py",
        "json/tests/b.py",
        "_sysconfigdata_x.py",
        "encodings/c.py",
        "d.txt",
    ):
        path = tmp_path / "lib" / skipped
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"<skipped>\n")
    corpus = text.standard_library(tmp_path / "lib")
    train, valid = (bytes(part).decode().split() for part in (corpus.train, corpus.valid))
    assert sorted([*train, *valid]) == sorted(f"<{number}>" for number in range(40))
    assert corpus.train[:5].tolist() == [*b"<0>\n\n"]
    for number in range(40):
        digest = hashlib.sha256(f"part{number % 3}/module{number}.py".encode()).digest()
        assert (f"<{number}>" in valid) == (digest[0] % 10 == 0)


def test_a_python_without_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^.*too few \.py files: .*; use one from [^\n]*$"):
        text.standard_library(tmp_path)


def test_windows_are_cut_from_the_text_and_shifted_by_one():
    numbers = torch.arange(200, dtype=torch.uint8)
    x, y = text.windows(numbers, 7, 500, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (500, 7)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)
    assert torch.equal(x, x[:, :1] + torch.arange(7))
    assert x.min() == 0  # the first and the last byte are reached
    assert y.max() == 199


def test_windows_depend_on_the_generator_only():
    numbers = torch.arange(100)
    first = text.windows(numbers, 5, 4, torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    again = text.windows(numbers, 5, 4, torch.Generator().manual_seed(3))
    assert torch.equal(first[0], again[0])
    other = text.windows(numbers, 5, 4, torch.Generator().manual_seed(4))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(("length", "batch_size", "size"), [(10, 2, 10), (0, 2, 10), (3, 0, 10)])
def test_windows_that_do_not_fit_are_refused(length, batch_size, size):
    with pytest.raises(
        ValueError, match=f"cannot cut {batch_size} windows of {length} tokens .* out of {size}"
    ):
        text.windows(torch.zeros(size, dtype=torch.uint8), length, batch_size)
    text.windows(torch.zeros(11, dtype=torch.uint8), 10, 1)


def test_windows_come_without_end_and_go_on_from_any_place():
    numbers = torch.arange(200, dtype=torch.uint8)
    stream = iter(text.Windows(numbers, 7, 5, seed=1))
    first = [next(stream) for _ in range(6)]
    assert len({tuple(x[:, 0].tolist()) for x, _ in first}) == 6
    for x, y in first:
        assert x.shape == y.shape == (5, 7)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)
    windows = text.Windows(numbers, 7, 5, seed=1)
    for x, _ in first[:3]:
        assert torch.equal(next(iter(windows))[0], x)
    resumed = text.Windows(numbers, 7, 5, seed=1)
    resumed.load_state_dict(windows.state_dict())
    torch.manual_seed(99)
    assert torch.equal(next(iter(resumed))[0], first[3][0])
    other = text.Windows(numbers, 7, 5, seed=2)
    assert not torch.equal(next(iter(other))[0], first[0][0])
    with pytest.raises(ValueError, match="the saved batches have seed=1, these 2: make them alike"):
        other.load_state_dict(windows.state_dict())
    with pytest.raises(ValueError, match="cannot cut 5 windows of 200 tokens"):
        text.Windows(numbers, 200, 5)
