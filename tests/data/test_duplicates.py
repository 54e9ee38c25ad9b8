"""Near-duplicates in folders that these tests make up: what is one, what is none, and which stay together."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance
from skimage import data as photographs
from sklearn import datasets

from bigmodel_helpers.data import ImageFolder, image_folder, perceptual_hash, synthetic, to_picture

Pictures = dict[str, Image.Image]


def read(root: Path, pictures: Pictures) -> ImageFolder:
    """Save the pictures, whose keys are class/name.suffix, below `root` and read the folder."""
    for name, picture in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name, compress_level=1)
    return image_folder(root, progress=False)


def together(found: ImageFolder, first: str, second: str) -> bool:
    """Say whether two files, as class/name, are in one group."""
    group = {
        f"{file.parent.name}/{file.name}": int(g) for file, g in zip(found.files, found.groups, strict=True)
    }
    return group[first] == group[second]


def drawn(seed: int) -> Image.Image:
    return to_picture(synthetic.shapes(1, seed=seed)[0][0]).resize((96, 64), Image.Resampling.BICUBIC)


def page(seed: int) -> Image.Image:
    """Draw a page of lines of random length."""
    lengths = np.random.default_rng(seed)
    paper = Image.new("L", (210, 297), 255)
    pen = ImageDraw.Draw(paper)
    for y in range(20, 280, 10):
        pen.rectangle((20, y, 20 + int(lengths.integers(20, 180)), y + 4), fill=30)
    return paper


def photo(name: str) -> Image.Image:
    picture = Image.fromarray(getattr(photographs, name)()).convert("RGB")
    picture.thumbnail((320, 320))
    return picture


PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "hubble_deep_field")


def scans(count: int) -> Pictures:
    """Return scikit-learn's digits, `count` of them, as 28 by 28 pixels."""
    bunch = datasets.load_digits()
    pairs = list(zip(bunch.images, bunch.target, strict=True))[:count]
    return {
        f"{label}/{index:04}.png": Image.fromarray((image * 15.9).astype(np.uint8)).resize((28, 28))
        for index, (image, label) in enumerate(pairs)
    }


# ------------------------------------------------------------------------------------------ what is none


def test_digits_of_many_hands_are_no_duplicates(tmp_path: Path) -> None:
    found = read(tmp_path, scans(600))
    assert found.conflicts == ()
    assert len(found.groups.unique()) >= 598
    ones = int((found.images.labels == 1).sum())
    parts = [int((part.labels == 1).sum()) for part in found.split(0.6, 0.2, 0.2)]
    assert parts == pytest.approx([0.6 * ones, 0.2 * ones, 0.2 * ones], abs=1)


def test_pages_of_text_are_no_duplicates(tmp_path: Path) -> None:
    found = read(tmp_path, {f"{'ab'[seed % 2]}/{seed:03}.png": page(seed) for seed in range(120)})
    assert len(found.groups.unique()) == 120
    assert found.conflicts == ()


def test_different_shapes_are_no_duplicates(tmp_path: Path) -> None:
    found = read(tmp_path, {f"{'ab'[seed % 2]}/{seed:03}.png": drawn(seed) for seed in range(60)})
    assert len(found.groups.unique()) == 60


def test_blank_pages_are_duplicates_only_where_they_are_equal(tmp_path: Path) -> None:
    """A page without contrast has a hash of noise, and any two of them are alike but for brightness."""
    speck = Image.new("L", (200, 300), 255)
    speck.putpixel((50, 60), 254)
    noise = np.random.default_rng(0).integers(250, 254, (2, 300, 200)).astype(np.uint8)
    pictures = {
        "empty/a.png": Image.new("L", (200, 300), 255),
        "empty/gray.png": Image.new("L", (200, 300), 250),
        "empty/speck.png": speck,
        "empty/noise.png": Image.fromarray(noise[0]),
        "full/black.png": Image.new("L", (200, 300), 0),
        "full/noise.png": Image.fromarray(noise[1]),
        "full/z.bmp": Image.new("RGB", (200, 300), "white"),
    }
    found = read(tmp_path, pictures)
    assert len(found.groups.unique()) == 6
    assert together(found, "empty/a.png", "full/z.bmp")
    (line,) = found.conflicts
    assert "a.png" in line
    assert "z.bmp" in line


def test_colors_count_in_drawings(tmp_path: Path) -> None:
    """Red and green of the same gray: alike to the hash, which is gray, and yet two signs."""
    pictures = {}
    for name, color in (("stop", (200, 0, 0)), ("go", (0, 102, 0))):
        sign = Image.new("RGB", (60, 60), "white")
        ImageDraw.Draw(sign).ellipse((15, 10, 45, 40), fill=color)
        pictures[f"{name}/sign.png"] = sign
    assert (perceptual_hash(pictures["stop/sign.png"]) != perceptual_hash(pictures["go/sign.png"])).sum() <= 8
    assert read(tmp_path, pictures).conflicts == ()


# ------------------------------------------------------------------------------------------ what is one


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def copy(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return copy


def trimmed(share: float) -> Callable[[Image.Image], Image.Image]:
    def copy(picture: Image.Image) -> Image.Image:
        x, y = round(picture.width * share), round(picture.height * share)
        return picture.crop((x, y, picture.width - x, picture.height - y))

    return copy


COPIES = {
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "a third, other proportions": lambda picture: picture.resize(
        (picture.width // 3, picture.height // 3 + 5)
    ),
    "twice the size": lambda picture: picture.resize((picture.width * 2, picture.height * 2)),
    "JPEG 90": jpeg(90),
    "JPEG 50": jpeg(50),
    "a bit brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.1),
    "a bit darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.8),
    "less contrast": lambda picture: ImageEnhance.Contrast(picture).enhance(0.8),
    "a margin of 1 % cut off": trimmed(0.01),
    "smaller, brighter, JPEG 60": lambda picture: jpeg(60)(
        ImageEnhance.Brightness(picture)
        .enhance(1.1)
        .resize((picture.width * 7 // 10, picture.height * 7 // 10))
    ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_photographs_are_found(tmp_path: Path, kind: str) -> None:
    originals = {name: photo(name) for name in PHOTOS}
    pictures = {f"mine/{name}.png": picture for name, picture in originals.items()}
    pictures |= {f"yours/{name}.png": COPIES[kind](picture) for name, picture in originals.items()}
    found = read(tmp_path, pictures)
    assert [name for name in PHOTOS if not together(found, f"mine/{name}.png", f"yours/{name}.png")] == []
    assert len(found.groups.unique()) == len(found.conflicts) == len(PHOTOS)


@pytest.mark.parametrize("kind", ["half the size", "JPEG 50", "a bit brighter"])
def test_copies_of_pages_and_digits_are_found(tmp_path: Path, kind: str) -> None:
    originals = {f"{seed}.png": page(seed).convert("RGB") for seed in range(10)}
    originals |= {f"digit{index}.png": scan.convert("RGB") for index, scan in enumerate(scans(10).values())}
    pictures = {f"mine/{name}": picture for name, picture in originals.items()}
    pictures |= {f"yours/{name}": COPIES[kind](picture) for name, picture in originals.items()}
    found = read(tmp_path, pictures)
    assert [name for name in originals if not together(found, f"mine/{name}", f"yours/{name}")] == []
    assert len(found.groups.unique()) == len(originals)


def test_hashes_of_copies_are_near_and_of_others_far() -> None:
    first, other = drawn(1), drawn(2)
    copy = first.resize((640, 480))
    assert (perceptual_hash(first) != perceptual_hash(copy)).sum() <= 8
    assert (perceptual_hash(first) != perceptual_hash(other)).sum() > 15


# ------------------------------------------------------------------------------------------ groups


def panorama(count: int, step: int) -> list[Image.Image]:
    """Return views of one photograph, each `step` pixels to the right of the one before."""
    wide = Image.fromarray(photographs.astronaut())
    return [wide.crop((x, 100, x + 300, 400)) for x in range(0, count * step, step)]


def test_groups_do_not_grow_by_chaining(tmp_path: Path) -> None:
    """Each view looks like its neighbors, the first does not look like the last: no group holds them all."""
    views = panorama(24, 4)
    found = read(tmp_path, {f"{'ab'[i % 2]}/{i:02}.png": view for i, view in enumerate(views)})
    place = torch.tensor([int(file.stem) for file in found.files])
    assert ((place - place[found.groups]).abs() <= 4).all(), "a member is far from the one that stands for it"
    assert (found.groups == found.groups[found.groups]).all()
    sizes = Counter(found.groups.tolist())
    assert 2 < max(sizes.values()) <= 9
    assert len(sizes) >= 4


def test_the_copy_of_a_copy_joins_their_original(tmp_path: Path) -> None:
    """The first and the last view look alike to nobody; the middle one, which both are like, stands for all."""
    left, middle, right = panorama(3, 6)
    found = read(tmp_path, {"a/1.png": left, "a/2.png": middle, "b/3.png": right})
    pair = read(tmp_path / "ends", {"a/1.png": left, "b/3.png": right})
    assert pair.conflicts == ()
    assert found.groups.tolist() == [1, 1, 1]
    (line,) = found.conflicts  # names the two that are alike, not the first of the group
    assert "2.png" in line
    assert "3.png" in line
    assert "1.png" not in line


def test_many_copies_of_one_picture_are_one_group(tmp_path: Path) -> None:
    equal = {f"{'ab'[i % 2]}/{i:03}.png": Image.new("RGB", (8, 8), "red") for i in range(40)}
    found = read(tmp_path, {**equal, "a/other.png": drawn(0)})
    assert sorted(found.groups.unique(return_counts=True)[1].tolist()) == [1, 40]
    assert len(found.conflicts) == 20
    assert "39 near-duplicates" in str(found)


# ------------------------------------------------------------------------------------------ splits


def side(found: ImageFolder, parts: tuple, name: str) -> int:
    """Return the part that holds the file."""
    index = [file.name for file in found.files].index(name)
    (part,) = [
        number
        for number, part in enumerate(parts)
        if any(torch.equal(image, found.images.images[index]) for image in part.images)
    ]
    return part


def test_near_duplicates_of_other_classes_stay_on_one_side(tmp_path: Path) -> None:
    pictures = {f"{'ab'[seed % 2]}/{seed:02}.png": drawn(seed) for seed in range(40)}
    for seed in range(6):
        pictures[f"{'ba'[seed % 2]}/copy_{seed:02}.png"] = drawn(seed).resize((70, 47))
    found = read(tmp_path, pictures)
    assert len(found.conflicts) == 6
    for seed in range(4):
        parts = found.split(0.5, 0.3, 0.2, seed=seed)
        for index in range(6):
            assert side(found, parts, f"{index:02}.png") == side(found, parts, f"copy_{index:02}.png")
        for part, share in zip(parts, (0.5, 0.3, 0.2), strict=True):  # 23 of each class
            assert (part.labels.bincount() - 23 * share).abs().max() <= 1.2


def test_a_split_says_whether_pictures_or_different_pictures_are_lacking(tmp_path: Path) -> None:
    pictures = {f"a/{seed:02}.png": drawn(seed) for seed in range(12)}
    pictures |= {f"b/{seed}.png": drawn(50 + seed) for seed in range(2)}
    few = read(tmp_path / "few", pictures)
    with pytest.raises(ValueError, match=r"'b' is too small .* 2 pictures: add pictures") as caught:
        few.split(0.6, 0.2, 0.2)
    assert "\n" not in str(caught.value)
    sides = [(60 + 3 * i, 40 + 2 * i) for i in range(6)]
    pictures |= {f"b/{seed} {w}.png": drawn(50 + seed).resize((w, h)) for seed in range(2) for w, h in sides}
    copied = read(tmp_path / "copied", pictures)
    with pytest.raises(
        ValueError, match=r"14 pictures of class 'b' .* 2 different .*: add different"
    ) as caught:
        copied.split(0.6, 0.2, 0.2)
    assert "\n" not in str(caught.value)
    assert [len(part) for part in copied.split(0.5, 0.5)] == [13, 13]
