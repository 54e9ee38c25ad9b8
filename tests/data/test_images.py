"""Every awkward file is read right, or refused in one line that says why."""

from pathlib import Path

import numpy as np
import pytest
import torch
from awkward_files import ORANGE, make_all, scene
from PIL import Image

from bigmodel_helpers.data import ImageError, read_image, to_picture, to_pixels


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("awkward")
    return folder, make_all(folder)


def test_every_awkward_file_is_read_right_or_refused_in_one_line(awkward: tuple[Path, dict]) -> None:
    folder, expected = awkward
    assert len(expected) >= 30
    wrong = {}
    for name, want in expected.items():
        try:
            picture = read_image(folder / name)
        except ImageError as error:
            text = str(error)
            if not isinstance(want, str) or want not in text or "\n" in text or name not in text:
                wrong[name] = text
            continue
        near = not isinstance(want, str) and max(
            abs(a - b) for a, b in zip(picture.getpixel((0, 0)), want[1], strict=True)
        )
        if isinstance(want, str) or (picture.mode, picture.size) != ("RGB", want[0]) or near > 6:
            wrong[name] = f"{picture.mode} {picture.size} {picture.getpixel((0, 0))}, expected {want}"
    assert wrong == {}


def test_bytes_and_open_pictures_are_read_like_files(awkward: tuple[Path, dict]) -> None:
    file = awkward[0] / "exif_6.jpg"
    from_file = to_pixels(read_image(file))
    assert torch.equal(from_file, to_pixels(read_image(file.read_bytes())))
    with Image.open(file) as opened:
        assert torch.equal(from_file, to_pixels(read_image(opened)))


def test_colors_of_a_wide_profile_are_converted(tmp_path: Path) -> None:
    """A profile that swaps nothing but widens red: the same numbers mean another color in sRGB."""
    from PIL import ImageCms

    profile = ImageCms.createProfile("LAB")
    data = ImageCms.ImageCmsProfile(profile).tobytes()
    scene().save(tmp_path / "odd.jpg", icc_profile=data, quality=95)  # does not fit RGB: numbers are kept
    color = read_image(tmp_path / "odd.jpg").getpixel((0, 0))
    assert max(abs(a - b) for a, b in zip(color, ORANGE, strict=True)) <= 6


def test_background_and_limit_can_be_chosen(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", background=(1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(ImageError, match="4 x 4 pixels are too many"):
        read_image(tmp_path / "clear.png", max_pixels=15)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"background": "white"}, ValueError),
        ({"background": (0, 0, 256)}, ValueError),
        ({"background": (0, 0, 0.5)}, ValueError),
        ({"background": (0, 0, 0, 0)}, ValueError),
        ({"max_pixels": 0}, ValueError),
        ({"max_pixels": None}, TypeError),
    ],
)
def test_a_wrong_option_is_no_fault_of_the_picture(options: dict, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        read_image(scene("RGBA"), **options)
    assert not isinstance(caught.value, ImageError)


def test_tensors_become_pictures_and_back() -> None:
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_pixels(to_picture(pixels)), pixels)
    assert torch.equal(to_pixels(to_picture(pixels.float() / 255)), pixels)
    assert torch.equal(to_pixels(to_picture(pixels[:1])), pixels[:1].expand(3, -1, -1))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(5, 7), "shape"),
        (torch.zeros(7, 5, 3), "shape"),
        (torch.full((3, 4, 4), -1.0), "before normalization"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
    ],
)
def test_other_tensors_are_refused(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        to_picture(tensor)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    assert to_pixels(read_image(tmp_path / "ramp.png"))[0, 0].tolist() == list(range(256))
