"""Folders of pictures that these tests make up: read, split, near-duplicates kept together."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
    assert refused - listed == {"folder.jpg"}  # a folder within the class, empty
    assert len(found.skipped) == len(listed)
    assert str(found).endswith(f", {len(listed)} skipped, 1 other file")
    assert found.others == 1


def test_the_same_picture_in_two_classes_is_reported(folder: Path) -> None:
    picture(0).save(folder / "pear" / "zz.png")
    (line,) = image_folder(folder).conflicts
    assert "00.jpg" in line
    assert "zz.png" in line


def test_wrong_folders_and_shares_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere' is no folder .*No such file.*: check the path"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="one folder a class"):
        image_folder(folder / "apple")
    found = image_folder(folder)
    for shares in ((1.0,), (0.5, 0.6), (0.0, 1.0)):
        with pytest.raises(ValueError, match="add up to 1"):
            found.split(*shares)
    with pytest.raises(ValueError, match="'apple' is too small to be in every part, it has 20 pictures"):
        found.split(0.98, 0.01, 0.01)


def small(path: Path, seed: int, kind: str | None = None) -> None:
    """Save a small picture of its own, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, (24, 24)).save(path, kind)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder of two classes with two pictures each."""
    for seed, name in enumerate(("a/0.png", "a/1.png", "b/0.png", "b/1.png")):
        small(tmp_path / "two" / name, seed)
    return tmp_path / "two"


def test_the_content_says_what_is_a_picture(two: Path) -> None:
    """Whatever a name ends in, or in nothing: a picture is read, and what is none is named with the reason."""
    for seed, (name, kind) in enumerate(
        (
            ("x.jfif", "JPEG"),
            ("x.ppm", "PPM"),
            ("IMG_0001", "JPEG"),
            ("x.jpg_large", "JPEG"),
            ("x.JPG", "JPEG"),
        )
    ):
        small(two / "a" / name, 10 + seed, kind)
    (two / "a" / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(40))
    (two / "a" / "drawing.svg").write_text("<svg/>", encoding="utf-8")
    for name in ("Thumbs.db", "desktop.ini", "labels.JSON", "README.md", ".DS_Store", "._0.png"):
        (two / "b" / name).write_bytes(b"not a picture")
    found = image_folder(two)
    assert [file.name for file in found.files[:7]] == sorted(
        ["0.png", "1.png", "x.jfif", "x.ppm", "IMG_0001", "x.jpg_large", "x.JPG"]
    )
    assert ["film.mp4" in line for line in found.skipped] == [False, True]
    assert "drawing.svg: SVG is a drawing" in found.skipped[0]
    assert found.others == 4
    assert str(found).endswith("2 skipped, 4 other files")


def test_hidden_folders_and_those_of_systems_are_left_out(two: Path) -> None:
    for place in (".ipynb_checkpoints", ".trash/deep", "__MACOSX", "@eaDir"):
        small(two / "a" / place / "old.png", 7)
        small(two / place / "old.png", 7)
    small(two / "a" / "poodles" / "small" / "new.png", 8)
    found = image_folder(two)
    assert found.images.classes == ("a", "b")
    assert [file.name for file in found.files] == ["0.png", "1.png", "new.png", "0.png", "1.png"]
    assert found.skipped == ()


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Train", "TEST"), ("training", "valid", "test"), ("train",)]
)
def test_a_folder_of_parts_is_refused(two: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        small(tmp_path / "parts" / name / "cat" / "0.png", 1)
        small(tmp_path / "parts" / name / "dog" / "0.png", 2)
    with pytest.raises(
        ValueError, match=r"parts holds .*, which hold the classes: pass each of them by itself"
    ):
        image_folder(tmp_path / "parts")
    assert image_folder(tmp_path / "parts" / names[0]).images.classes == ("cat", "dog")


def test_a_class_may_be_called_train(two: Path) -> None:
    small(two / "train" / "steam" / "0.png", 5)
    small(two / "test" / "0.png", 6)
    assert image_folder(two).images.classes == ("a", "b", "test", "train")


@pytest.mark.parametrize("content", [None, b"not a picture"])
def test_a_class_without_a_picture_is_an_error(two: Path, content: bytes | None) -> None:
    (two / "c").mkdir()
    if content:
        (two / "c" / "0.jpg").write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r"c has no readable picture: add some or move the") as caught:
        image_folder(two)
    assert ("0.jpg: not a picture" in str(caught.value)) == bool(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, "64", 32.0, None, 10**9])
def test_wrong_sizes_are_refused(two: Path, size: object) -> None:
    with pytest.raises(ValueError, match="size must be a whole number of pixels from 1 to 4,096, not"):
        image_folder(two, size)


def test_sizes_of_numpy_are_whole_numbers(two: Path) -> None:
    assert image_folder(two, np.int64(5)).images.images.shape == (4, 3, 5, 5)


def test_files_beside_the_class_folders_are_named(two: Path) -> None:
    small(two / "lost.png", 3)
    (two / "labels.csv").write_text("a,b", encoding="utf-8")
    (line,) = image_folder(two).skipped
    assert line.endswith("lost.png: in no class folder: move it into one")


@pytest.mark.parametrize("make", [lambda root: root.mkdir(), lambda root: small(root / "a" / "0.png", 0)])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "root")
    with pytest.raises(FileNotFoundError, match=r"root has [01] class folders, need 2: one folder a class"):
        image_folder(tmp_path / "root")


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "two/a/0.png", "~nobody-of-this-name/photos"])
def test_paths_that_are_no_folder_are_refused_in_one_line(
    two: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(two.parent)
    with pytest.raises(OSError, match=r"is no folder that can be read \(.*\): check the path") as caught:
        image_folder(path)
    assert "\n" not in str(caught.value)


def test_a_tilde_is_the_home_folder(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(two.parent))
    assert len(image_folder("~/two").files) == 4
    assert "of two," in image_folder(two / "a" / "..").images.source


def forbid(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make the system refuse to list the folder, as it does to others than root where the rights are missing."""
    scandir, listdir = os.scandir, os.listdir

    def refusing(function: Callable) -> Callable:
        def listed(place: object = ".") -> object:
            if Path(os.fspath(place)) == path:
                raise PermissionError(13, "Permission denied", str(place))
            return function(place)

        return listed

    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(os, "listdir", refusing(listdir))


def test_folders_that_may_not_be_read_are_named(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(two / "a" / "private" / "0.png", 9)
    with monkeypatch.context() as patch:
        forbid(patch, two / "a" / "private")
        found = image_folder(two)
    (line,) = found.skipped
    assert "private: a folder that may not be read (Permission denied): change its rights" in line
    with monkeypatch.context() as patch:
        forbid(patch, two / "a")
        with pytest.raises(FileNotFoundError, match=r"a has no readable picture.*may not be read"):
            image_folder(two)
    forbid(monkeypatch, two)
    with pytest.raises(PermissionError, match=r"two' is no folder that can be read \(Permission denied\)"):
        image_folder(two)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few make links, and has no pipes")
def test_links_loops_and_pipes_are_no_trap(two: Path, tmp_path: Path) -> None:
    """A pipe would be waited for, a loop be followed; a linked class or file is read."""
    (two / "a" / "loop").symlink_to(two / "a")
    (two / "a" / "nowhere.png").symlink_to(tmp_path / "nothing")
    (two / "a" / "me.png").symlink_to(two / "a" / "me.png")
    os.mkfifo(two / "a" / "pipe.png")
    small(tmp_path / "elsewhere" / "0.png", 12)
    (two / "c").symlink_to(tmp_path / "elsewhere")
    (two / "b" / "2.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    found = image_folder(two)
    assert found.images.labels.tolist() == [0, 0, 1, 1, 1, 2]
    said = "\n".join(found.skipped)
    for part in (
        "loop: a link to a folder, not followed",
        "pipe.png: a pipe",
        "nowhere.png: no such file",
        "me.png",
    ):
        assert part in said
    assert len(found.skipped) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any byte in a name")
def test_names_of_any_bytes_stay_on_one_line_of_text(two: Path) -> None:
    for seed, name in enumerate((b"caf\xe9", b"line\nbreak", b"<b>bold", "é".encode())):
        small(Path(os.fsdecode(os.fsencode(two) + b"/" + name)) / "0.png", 20 + seed)
    bad = Path(os.fsdecode(os.fsencode(two / "a") + b"/bad\xff\n.png"))
    bad.write_bytes(b"not a picture")
    for name in ("A.png", "a.png"):
        small(two / "a" / name, 30)
    found = image_folder(two)
    assert found.images.classes == ("<b>bold", "a", "b", "caf\\udce9", "line\\nbreak", "é")
    assert len(found.files) == 10  # names that differ in capitals only are two files
    for text in (str(found), found.images.source, *found.skipped, *found.images.classes):
        assert text.encode().decode().isprintable()
    assert "bad\\udcff\\n.png: not a picture" in found.skipped[0]


def test_the_middle_square_keeps_proportions() -> None:
    wide = Image.new("RGB", (90, 30), "black")
    wide.paste("white", (30, 0, 60, 30))
    assert _square(wide, 10).getextrema() == ((255, 255),) * 3
