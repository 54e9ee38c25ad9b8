"""Folders of pictures that these tests make up: read, split, near-duplicates kept together."""

from pathlib import Path

import pytest
import torch
from awkward_files import make_all
from PIL import Image, ImageEnhance

from bigmodel_helpers.data import (
    ImageFolder,
    image_folder,
    synthetic,
    to_picture,
)
from bigmodel_helpers.data.folders import _square


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    pixels, _ = synthetic.shapes(1, seed=seed)
    return to_picture(pixels[0]).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, name in enumerate(("apple", "pear", "plum")):
        (tmp_path / name).mkdir()
        for index in range(20):
            picture(100 * label + index).save(tmp_path / name / f"{index:02}.jpg", quality=92)
    return tmp_path


def test_a_folder_is_read(folder: Path) -> None:
    found = image_folder(folder, size=48)
    assert isinstance(found, ImageFolder)
    assert found.images.images.shape == (60, 3, 48, 48)
    assert found.images.classes == ("apple", "pear", "plum")
    assert found.images.labels.bincount().tolist() == [20, 20, 20]
    assert found.files[0] == folder / "apple" / "00.jpg"
    assert found.skipped == found.conflicts == ()
    assert "60 pictures (apple 20, pear 20, plum 20)" in str(found)
    assert str(folder.parent) not in found.images.source


def test_splits_are_stratified_seeded_and_complete(folder: Path) -> None:
    found = image_folder(folder)
    train, valid, test = found.split(0.6, 0.2, 0.2, seed=1)
    for part, count in ((train, 12), (valid, 4), (test, 4)):
        assert part.labels.bincount().tolist() == [count] * 3
    everything = torch.cat([part.images for part in (train, valid, test)])
    assert sorted(map(int, everything.flatten(1).sum(1))) == sorted(
        map(int, found.images.images.flatten(1).sum(1))
    )
    assert torch.equal(found.split(0.6, 0.2, 0.2, seed=1)[0].images, train.images)
    assert not torch.equal(found.split(0.6, 0.2, 0.2, seed=2)[0].images, train.images)


def test_near_duplicates_never_part(folder: Path) -> None:
    """Resized, recompressed and brighter copies land where their original lies, whatever the seed."""
    for index in range(10):
        copy = ImageEnhance.Brightness(picture(index)).enhance(1.1).resize((70, 47))
        copy.save(folder / "apple" / f"copy_{index:02}.jpg", quality=60)
    found = image_folder(folder)
    names = {
        file.name: int(group)
        for file, group in zip(found.files, found.groups, strict=True)
        if "apple" in str(file)
    }
    assert all(names[f"copy_{i:02}.jpg"] == names[f"{i:02}.jpg"] for i in range(10))
    assert len(found.groups.unique()) >= 58
    for seed in range(5):
        sums = [
            {int(image.int().sum()) for image in part.images} for part in found.split(0.5, 0.5, seed=seed)
        ]
        for i in range(10):
            original, copy = (
                int(found.images.images[found.files.index(folder / "apple" / name)].int().sum())
                for name in (f"{i:02}.jpg", f"copy_{i:02}.jpg")
            )
            assert any({original, copy} <= part for part in sums)


def test_unreadable_files_are_listed_and_others_ignored(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "apple" / "odd"
    odd.mkdir()
    expected = make_all(odd)
    (folder / "pear" / "notes.txt").write_text("not looked at", encoding="utf-8")
    found = image_folder(folder)
    refused = {
        name for name, want in expected.items() if isinstance(want, str) and name not in ("missing.jpg",)
    }
    listed = {name for name in refused if any(name in line for line in found.skipped)}
    assert refused - listed == {"drawing.svg", "document.pdf"}  # no pictures by their names
    assert len(found.skipped) == len(listed)
    assert f"{len(listed)} skipped" in str(found)


def test_the_same_picture_in_two_classes_is_reported(folder: Path) -> None:
    picture(0).save(folder / "pear" / "zz.png")
    (line,) = image_folder(folder).conflicts
    assert "00.jpg" in line
    assert "zz.png" in line


def test_wrong_folders_and_shares_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="one folder a class"):
        image_folder(folder / "apple")
    found = image_folder(folder)
    for shares in ((1.0,), (0.5, 0.6), (0.0, 1.0)):
        with pytest.raises(ValueError, match="add up to 1"):
            found.split(*shares)
    with pytest.raises(ValueError, match="'apple' is too small"):
        found.split(0.98, 0.01, 0.01)


def test_the_middle_square_keeps_proportions() -> None:
    wide = Image.new("RGB", (90, 30), "black")
    wide.paste("white", (30, 0, 60, 30))
    assert _square(wide, 10).getextrema() == ((255, 255),) * 3
