"""One bad entry never ends a batch, whatever it is."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from awkward_files import POSTSCRIPT, scene
from PIL import EpsImagePlugin, Image

from bigmodel_helpers.data import to_pixels
from bigmodel_helpers.inference import Prediction, Predictions, classify
from bigmodel_helpers.models.pretrained import Pretrained, load


@pytest.fixture(scope="module")
def network() -> Pretrained:
    return load("cifar6_resnet")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    scene().save(tmp_path / "a.png")
    return tmp_path / "a.png"


def damaged(file: Path) -> Image.Image:
    """An open picture whose end turns out to be missing when it is used."""
    short = file.with_name("short.bmp")
    scene().save(short)
    short.write_bytes(short.read_bytes()[:-100])
    return Image.open(short)


def closed(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture


def test_a_bad_entry_has_a_row_and_the_others_their_answers(
    network: Pretrained, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *details: started.append(details))
    (file.parent / "empty").mkdir()
    with damaged(file) as short:
        bad = [
            ("x" * 100_000 + ".jpg", "check the path"),
            ("", "an empty name"),
            ("two\nlines.jpg", "check the path"),
            ("nul\0.jpg", "check the path"),
            ("nul\0*.jpg", "no file fits the pattern"),
            ("\ud800.jpg", "check the path"),
            ("*.no-such-suffix", "no file fits the pattern"),
            ("no [such] folder/*.jpg", "write [[] for a ["),
            ("https://example.org/cat.jpg?size=3", "a URL: download it first"),
            ("~/no-such-picture.jpg", "no such file"),
            (file.parent / "empty", "an empty folder"),
            (short, "damaged"),
            (closed(file), "closed before it was read"),
            (b"", "empty"),
            (b"hello", "not a picture"),
            (POSTSCRIPT, "PostScript is a program"),
            (io.BytesIO(), "empty"),
            (io.StringIO("text"), "opened as text"),
            (torch.zeros(3, 0, 0), "no pixels"),
            (torch.full((3, 4, 4), float("nan")), "pass 0 to 1"),
            (torch.zeros(4), "shape"),
            (torch.zeros(()), "shape"),
            (Image.new("RGB", (0, 5)), "no pixels"),
            (np.zeros((3, 40, 50), np.uint8), "pass (H, W)"),
            (np.zeros((4, 4), bool), "pass uint8"),
            (np.full((4, 4, 3), 255.0), "pass 0 to 1"),
        ]
        entries = [file, *(each for entry, _ in bad for each in (entry, file))]
        table = classify(entries, network, batch_size=4)
    good, rest = table[::2], table[1::2]
    assert {one.problem for one in good} == {None}
    assert {one.labels for one in good} == {good[0].labels}
    for answer, (_, cure) in zip(rest, bad, strict=True):
        assert cure in answer.problem, answer
        assert answer.problem.isprintable()
        assert len(answer.problem) < 1000
        assert answer.labels == ()
    assert started == []
    assert len(str(table).splitlines()) == 1 + len(table)
    assert max(map(len, str(table).splitlines())) < 1500


def test_pipes_in_folders_and_lists_are_not_waited_for(network: Pretrained, file: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(file.with_name("b.png"))
    assert [one.name for one in classify(file.parent, network)] == [str(file)]
    for one in classify([file.with_name("b.png"), "/dev/zero"], network):
        assert one.problem


def test_a_folder_that_may_not_be_read(
    network: Pretrained, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    bad, good = classify([file.parent, file], network)
    assert "may not be read: change its rights" in bad.problem
    assert good.problem is None


def test_arrays_bytes_and_file_objects_are_pictures(network: Pretrained, file: Path) -> None:
    (wanted,) = classify(file, network)
    array = np.asarray(scene())
    content = file.read_bytes()
    with file.open("rb") as opened:
        for one in (array, array / 255, content, bytearray(content), io.BytesIO(content), opened, [[array]]):
            (answer,) = classify(one, network)
            assert answer.probabilities == wanted.probabilities
        named, unnamed = classify([opened, content], network)
        assert (named.name, unnamed.name) == (str(file), "image 1")
    for many in (
        np.stack([array] * 3),
        [[array, array], array],
        np.array([str(file)] * 3),
        {str(file): 1}.keys(),
    ):
        answers = classify(many, network)
        assert len(answers) in (1, 3)
        for answer in answers:
            assert answer.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
    assert [one.name for one in classify([[array, array], array], network)] == [
        "image 0",
        "image 1",
        "image 2",
    ]
    assert classify(to_pixels(scene()), network)[0].probabilities == wanted.probabilities


def test_the_home_folder(network: Pretrained, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("USERPROFILE", str(file.parent))
    for pictures in ("~/a.png", Path("~/a.png"), "~", "~/*.png", ["~/a.png"]):
        (answer,) = classify(pictures, network)
        assert answer.problem is None


ENDLESS: list = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("pictures", "place"),
    [
        (None, "pictures: a NoneType"),
        ([b"hello", None], r"pictures\[1\]: a NoneType"),
        ([b"hello", [b"hello", {"a.jpg": 1}]], r"pictures\[1\]\[1\]: a dict"),
        ({"a.jpg": 1}, "pictures: a dict"),
        ([[[0, 255], [255, 0]]], r"pictures\[0\]\[0\]\[0\]: a int"),
        (ENDLESS, r"pictures(\[0\])+: a list"),
    ],
)
def test_a_mistake_in_the_program_is_named_before_any_work(
    pictures: object, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("load", "read_image"):
        monkeypatch.setattr(f"bigmodel_helpers.inference.photos.{name}", None)
    with pytest.raises(TypeError, match=f"^{place} is no picture: pass "):
        classify(pictures, "auto")


def test_what_an_iterable_raises_comes_through(network: Pretrained) -> None:
    def pictures() -> Iterator[bytes]:
        yield b"hello"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        classify(pictures(), network)


def test_odd_names_keep_the_table_in_shape() -> None:
    names = ("a\nb", "\x1b[31mred", "\udcff", "x" * 10_000, "é")
    table = Predictions([Prediction(name, ("cat",), (1.0,)) for name in names], "a network")
    assert len(str(table).splitlines()) == 6
    assert all(line.isprintable() for line in str(table).splitlines())
    assert "\x1b" not in table._repr_html_()
    assert [row["name"] for row in table.rows()] == [*names]
    str(table).encode()
    table._repr_html_().encode()
