"""Files in, a table out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from awkward_files import make_all
from PIL import Image

from bigmodel_helpers import data, inference
from bigmodel_helpers.inference import Prediction, Predictions, classify
from bigmodel_helpers.inference.__main__ import main
from bigmodel_helpers.models.pretrained import Pretrained, load


@pytest.fixture(scope="module")
def network() -> Pretrained:
    return load("cifar6_resnet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(5):
        pixels = torch.randint(
            0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(index)
        )
        data.to_picture(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


def test_paths_patterns_folders_pictures_and_tensors_agree(network: Pretrained, folder: Path) -> None:
    files = sorted(folder.glob("*.png"))
    pictures = [Image.open(file) for file in files]
    tensors = torch.stack([data.to_pixels(picture) for picture in pictures])
    answers = [
        classify(each, network, progress=False)
        for each in (
            files,
            str(folder / "*.png"),
            folder,
            pictures,
            tensors,
            list(tensors),
            tensors.float() / 255,
        )
    ]
    for answer in answers[1:]:
        assert [one.labels for one in answer] == [one.labels for one in answers[0]]
        assert [one.probabilities for one in answer] == [one.probabilities for one in answers[0]]
    assert [one.name for one in answers[-2]] == [f"image {i}" for i in range(5)]
    for picture in pictures:
        picture.close()


def test_batches_do_not_change_the_answer(network: Pretrained, folder: Path) -> None:
    together, apart = (classify(folder, network, batch_size=size) for size in (32, 2))
    for a, b in zip(together, apart, strict=True):
        assert a.name == b.name
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def test_probabilities_are_those_of_the_model(network: Pretrained, folder: Path) -> None:
    network.model.train()  # classify must not believe the mode it finds
    (one,) = classify(folder / "0.png", network, top=6)
    assert sum(one.probabilities) == pytest.approx(1, abs=1e-5)
    assert list(one.probabilities) == sorted(one.probabilities, reverse=True)
    with torch.inference_mode(), Image.open(folder / "0.png") as picture:
        expected = network.model.eval()(network.prepare(picture)[None]).softmax(1)[0]
    assert one.probabilities[0] == pytest.approx(float(expected.max()), abs=1e-5)
    assert one.labels[0] == network.classes[int(expected.argmax())]


def test_no_awkward_file_stops_a_batch(network: Pretrained, tmp_path: Path) -> None:
    expected = make_all(tmp_path)
    answers = classify([tmp_path / name for name in expected], network, batch_size=8)
    assert len(answers) == len(expected)
    for answer, (name, want) in zip(answers, expected.items(), strict=True):
        assert Path(answer.name).name == name
        assert (answer.problem is not None) == isinstance(want, str), answer
        if answer.problem:
            assert answer.problem.count("\n") == 0
            assert name in answer.problem
            assert answer.labels == ()


def test_the_table_reads_well() -> None:
    good = Prediction("cat.jpg", ("cat", "dog"), (0.9, 0.05))
    bad = Prediction("b.jpg", problem="b.jpg: damaged (cut short): get the file again")
    table = Predictions([good, bad], "a network")
    assert str(table).splitlines() == ["a network", "cat.jpg  cat 90.0 %, dog 5.0 %", str(bad)]
    assert table.rows()[0] == {"name": "cat.jpg", "label": "cat", "probability": 0.9, "problem": None}
    assert table.rows()[1]["label"] is None
    assert Predictions([Prediction("<b>", ("x",), (1.0,))], "s")._repr_html_().count("&lt;b&gt;") == 1


def test_wrong_calls_are_refused(network: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file fits"):
        classify(str(tmp_path / "*.jpg"), network)
    (empty,) = classify(tmp_path, network)
    assert "an empty folder" in empty.problem
    with pytest.raises(TypeError, match=r"pictures\[0\]: a int is no picture"):
        classify([3], network)
    with pytest.raises(ValueError, match="at least 1"):
        classify(tmp_path, network, top=0)
    assert len(classify([], network)) == 0


def test_progress_is_shown_on_a_terminal_only(
    network: Pretrained, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classify(folder, network)
    assert capsys.readouterr() == ("", "")


def test_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "0.png"), "--network", "cifar6_resnet", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cifar6_resnet" in lines[0]
    assert lines[1].count("%") == 2


def test_the_exit_status_says_whether_all_some_or_none_were_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, none = str(folder / "0.png"), str(folder / "gone.png"), str(folder / "*.jpg")
    for pictures, status in (([good], 0), ([good, bad], 1), ([none, good], 1), ([bad], 2), ([none], 2)):
        assert main([*pictures, "--network", "cifar6_resnet"]) == status
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1 + len(pictures)
        assert ("no file fits" in out) == (none in pictures)
        assert err == ""


@pytest.mark.parametrize("options", [["--top", "0"], ["--top", "many"], ["--network", "nothing"]])
def test_wrong_options_are_usage_errors(
    options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(folder), "--network", "cifar6_resnet", *options])
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def run_program(*pictures: object, encoding: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", inference.__name__, *map(str, pictures), "--network", "cifar6_resnet"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=100, env=environment)


def test_command_line_as_a_program(folder: Path) -> None:
    done = run_program(folder / "1.png", encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert str(folder / "1.png") in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_that_cannot_write_a_name(encoding: str, folder: Path) -> None:
    """A snowman, and on Linux a name that is no UTF-8: both rows come, one way or the other."""
    (folder / "1.png").rename(folder / "\N{SNOWMAN}.png")
    if sys.platform == "linux":
        (folder / "2.png").rename(folder / os.fsdecode(b"\xff.png"))
    done = run_program(folder, folder / "gone\N{SNOWMAN}.png", encoding=encoding)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    assert sum("%" in line for line in lines) == 5
    assert "usage" not in done.stderr
    names = ("\N{SNOWMAN}.png",) if encoding == "utf-8" else ("\\u2603.png",)
    for name in (*names, *(("\\udcff.png",) if sys.platform == "linux" else ())):
        assert any(name in line for line in lines), done.stdout
