"""The digits: scikit-learn's, MNIST's files, and damaged files, which are never passed over."""

import gzip
import struct
import sys
from pathlib import Path

import pytest
import torch
from sklearn import datasets

from bigmodel_helpers import data
from bigmodel_helpers.data import digits


def idx(tensor: torch.Tensor) -> bytes:
    return struct.pack(f">HBB{tensor.ndim}I", 0, 8, tensor.ndim, *tensor.shape) + bytes(
        tensor.flatten().tolist()
    )


def made_up(folder: Path, packed: bool = False, place: str = "MNIST/raw") -> dict[str, torch.Tensor]:
    """Write four small files as MNIST has them; return what is in them."""
    generator = torch.Generator().manual_seed(0)
    raw = folder / place
    raw.mkdir(parents=True, exist_ok=True)
    content = {}
    for part, n in (("train", 12), ("t10k", 5)):
        images = torch.randint(0, 256, (n, 6, 4), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 10, (n,), generator=generator, dtype=torch.uint8)
        content |= {f"{part}-images-idx3-ubyte": images, f"{part}-labels-idx1-ubyte": labels}
    for name, tensor in content.items():
        content_bytes = gzip.compress(idx(tensor)) if packed else idx(tensor)
        (raw / (name + ".gz" * packed)).write_bytes(content_bytes)
    return content


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIGMODEL_DATA", raising=False)


def test_digits_are_those_of_scikit_learn() -> None:
    train, test = data.load_digits()
    assert (len(train), len(test)) == (1437, 360)
    assert isinstance(train, data.ImageSet)
    assert train.classes == tuple("0123456789")
    bundle = datasets.load_digits()
    assert torch.equal((test.images[:, 0] / 255 * 16).round().double(), torch.from_numpy(bundle.images[::5]))
    assert test.labels.tolist() == bundle.target[::5].tolist()
    assert train.labels.tolist() == [d for i, d in enumerate(bundle.target) if i % 5]
    assert (train.images.dtype, train.images.shape[1:]) == (torch.uint8, (1, 8, 8))
    assert "scikit-learn" in train.source
    assert set(test.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files_are_read_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    content = made_up(tmp_path, packed)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    for part, found in zip(("train", "t10k"), data.load_digits(), strict=True):
        assert torch.equal(found.images[:, 0], content[f"{part}-images-idx3-ubyte"])
        assert torch.equal(found.labels, content[f"{part}-labels-idx1-ubyte"].long())
        assert found.source.startswith("MNIST")


def test_data_folder_without_mnist_gives_the_other_digits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    assert "scikit-learn" in data.load_digits()[0].source


@pytest.mark.parametrize("place", ["MNIST", "mnist/raw", "mnist", "."])
@pytest.mark.parametrize("empty_raw", [False, True])
def test_mnist_files_are_found_where_people_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, empty_raw: bool
) -> None:
    made_up(tmp_path, place=place)
    if empty_raw:
        (tmp_path / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    train, test = data.load_digits()
    assert (len(train), len(test)) == (12, 5)
    assert train.source.startswith("MNIST")


def test_mnist_files_with_a_dot_in_their_names_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(tmp_path)
    for file in (tmp_path / "MNIST" / "raw").iterdir():
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    assert len(data.load_digits()[0]) == 12


@pytest.mark.parametrize("place", ["MNIST", "MNIST/raw", "MNIST/processed"])
def test_a_folder_for_mnist_without_its_files_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / place).mkdir(parents=True)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"MNIST has no train-images-idx3-ubyte: add it or move the"):
        data.load_digits()


def test_a_data_folder_that_does_not_exist_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(
        FileNotFoundError, match=r"BIGMODEL_DATA=.*nowhere' is no folder .*: correct or unset it"
    ):
        data.load_digits()


@pytest.mark.parametrize("packed", [False, True])
def test_files_that_may_not_be_read_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    made_up(tmp_path, packed)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))

    def refuse(path: object, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(
        PermissionError, match=r"train-images-idx3-ubyte(\.gz)? may not be read: change its rights"
    ):
        data.load_digits()


def test_folders_that_may_not_be_looked_into_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(tmp_path)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(
        PermissionError, match=r"raw.train-.* may not be read: change the rights of its folder"
    ):
        data.load_digits()


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_not_trusted_about_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    made_up(tmp_path, packed)
    monkeypatch.setattr(digits, "_LARGEST", 100)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"holds more than 100 bytes, which MNIST never does"):
        data.load_digits()


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (IMAGES, lambda data: data[:-1], "should hold 288 bytes of data and holds 287"),
        (IMAGES, lambda data: data + b"x", "holds 289"),
        (IMAGES, lambda data: data[:7], "ends within its header"),
        (IMAGES, lambda data: b"", "is no idx file"),
        (IMAGES, lambda data: b"\0\0\x08\xff" + b"\xff" * 1020, "is no idx file"),
        (IMAGES, lambda data: b"PK" + data[2:], "begins with 504b0803"),
        (IMAGES, lambda data: idx(torch.zeros(12, 24, dtype=torch.uint8)), "one label per image"),
        (LABELS, lambda data: idx(torch.zeros(11, dtype=torch.uint8)), "one label per image"),
        (LABELS, lambda data: idx(torch.full((12,), 11, dtype=torch.uint8)), "has the label 11"),
        (LABELS, lambda data: idx(torch.zeros(0, dtype=torch.uint8)), "should hold 0 bytes"),
        (LABELS, lambda data: None, f"raw has no {LABELS}: add it"),
        (LABELS, lambda data: b"\0\0\x08\x04" + b"\x80\0\0\0" * 4, "should hold"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: object, complaint: str
) -> None:
    made_up(tmp_path)
    path = tmp_path / "MNIST" / "raw" / name
    changed = change(path.read_bytes())
    path.unlink() if changed is None else path.write_bytes(changed)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=complaint) as caught:
        data.load_digits()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-20], lambda raw: b"no gzip", lambda raw: raw[:12] + b"\xff" * 30]
)
def test_damaged_gzip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object) -> None:
    made_up(tmp_path, packed=True)
    path = tmp_path / "MNIST" / "raw" / f"{LABELS}.gz"
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte.gz is damaged"):
        data.load_digits()


def test_missing_scikit_learn_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install scikit-learn"):
        data.load_digits()
