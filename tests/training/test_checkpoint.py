import os
import stat
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tiny_run import train

from bigmodel_helpers.data import _files
from bigmodel_helpers.training import checkpoint

STATE = {
    "weights": {0: torch.randn(3, 2), "bias": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16)},
    "betas": (0.9, 0.999),
    "table": [{"loss": 0.5, "epoch": 1}, {}],
    "nothing": None,
    "flag": True,
    "text": "café",
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(7, dtype=torch.int64),
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_what_is_saved_comes_back_with_its_types(tmp_path):
    path = checkpoint.save(tmp_path / "new folder" / "a.safetensors", STATE)
    assert same(checkpoint.load(path), STATE)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]  # no partial file stays


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_and_shared_tensors_are_accepted(tmp_path, memory_format):
    kernel = torch.randn(4, 3, 3, 3).to(memory_format=memory_format)
    path = checkpoint.save(tmp_path / "a.safetensors", {"one": kernel, "same": kernel, "view": kernel[0]})
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["same"], kernel)
    assert torch.equal(loaded["view"], kernel[0])


@pytest.mark.parametrize(
    "state",
    [
        {"model": torch.nn.Linear(1, 1)},
        {"f": print},
        {(1, 2): 3},
        {"x": {None: 1}},
        {"x": torch.eye(2).to_sparse()},
        {"x": torch.empty(2, device="meta")},
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, state):
    with pytest.raises(TypeError, match="checkpoint entry"):
        checkpoint.save(tmp_path / "a.safetensors", state)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path / "a.safetensors", {"step": 1})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*a\.safetensors \(.*No space"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file_and_the_space(tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path / "a.safetensors", {"step": 1})

    def full_disk(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(_files, "save_file", full_disk)
    with pytest.raises(
        OSError,
        match=r"cannot write .*a\.safetensors .*No space.*: it needs 4\.0 MB, [\d,.]+ MB are free there",
    ):
        checkpoint.save(path, {"x": torch.zeros(1_000_000)})
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused_by_name_and_the_one_before_is_used(tmp_path, capsys, keep):
    good = checkpoint.save(checkpoint.step_path(tmp_path, 9), {"x": torch.ones(1000)})
    bad = checkpoint.save(checkpoint.step_path(tmp_path, 10), {"x": torch.zeros(1000)})
    content = bad.read_bytes()
    bad.write_bytes(content[:keep])
    with pytest.raises(checkpoint.CheckpointError, match=r"step-00000010.*truncated.*use an older"):
        checkpoint.load(bad)
    assert checkpoint.latest(tmp_path) == good
    assert checkpoint.load(good)["x"].sum() == 1000
    assert bad.name in capsys.readouterr().out


def test_foreign_files_are_refused_by_name(tmp_path):
    foreign = tmp_path / "weights.safetensors"
    save_file({"x": torch.ones(2)}, foreign)
    with pytest.raises(checkpoint.CheckpointError, match=r"weights.safetensors is no checkpoint"):
        checkpoint.load(foreign)
    pickled = tmp_path / "weights.pt"
    torch.save({"x": torch.ones(2)}, pickled)
    with pytest.raises(checkpoint.CheckpointError, match=r"weights.pt"):
        checkpoint.load(pickled)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "absent.safetensors")


NO_STATE = {
    "no state": {},
    "no JSON": {"state": "{"},
    "an unknown tensor": {"state": '{"tensor": "gone"}'},
    "an empty entry": {"state": "{}"},
    "pairs that are none": {"state": '{"dict": [1]}'},
    "too deep": {"state": '{"list": [' * 50_000},
    "no version": {"version": "", "state": '{"dict": []}'},
    "a strange version": {"version": "two", "state": '{"dict": []}'},
}


@pytest.mark.parametrize("kind", NO_STATE)
def test_a_header_that_save_did_not_write_is_refused_by_name(tmp_path, kind):
    header = {"format": checkpoint.FORMAT, "version": "2"} | NO_STATE[kind]
    save_file({"x": torch.ones(2)}, tmp_path / "odd.safetensors", header)
    with pytest.raises(checkpoint.CheckpointError, match=r"odd\.safetensors") as caught:
        checkpoint.load(tmp_path / "odd.safetensors")
    assert "\n" not in str(caught.value)


def test_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    path = checkpoint.save(tmp_path / "a.safetensors", {"step": 1})
    monkeypatch.undo()
    with pytest.raises(checkpoint.NewerVersionError, match="update bigmodel_helpers"):
        checkpoint.load(path)


def test_a_newer_version_is_not_taken_for_a_broken_file(tmp_path, monkeypatch):
    checkpoint.save(checkpoint.step_path(tmp_path, 1), {"step": 1})
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    newer = checkpoint.save(checkpoint.step_path(tmp_path, 2), {"step": 2})
    monkeypatch.undo()
    with pytest.raises(checkpoint.NewerVersionError, match="update bigmodel_helpers"):
        checkpoint.latest(tmp_path)
    with pytest.raises(checkpoint.NewerVersionError, match="update bigmodel_helpers"):
        train(checkpoints=tmp_path)
    assert newer.exists()


def test_a_file_system_that_cannot_synchronize_folders_is_good_enough(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(_files.os, "fsync", only_files)
    path = checkpoint.save(tmp_path / "a.safetensors", {"step": 1})
    assert checkpoint.load(path) == {"step": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask to speak of")
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        path = checkpoint.save(tmp_path / "a.safetensors", {"step": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_latest_of_an_empty_folder_is_none_but_only_broken_ones_are_an_error(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None
    checkpoint.step_path(tmp_path, 3).write_bytes(b"half")
    with pytest.raises(checkpoint.CheckpointError, match="none of the 1 checkpoints"):
        checkpoint.latest(tmp_path)


def test_prune_keeps_the_newest(tmp_path):
    for step in (5, 100, 20):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {"step": step})
    checkpoint.prune(tmp_path, 2)
    assert [path.stem for path in checkpoint.list_steps(tmp_path)] == ["step-00000100", "step-00000020"]
    other = tmp_path / "step-00000101.safetensors.9.partial"  # that another process is writing
    other.write_bytes(b"half")
    checkpoint.prune(tmp_path, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100.safetensors", other.name]


def test_names_that_look_alike_stay_apart(tmp_path):
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, "c": {1: torch.ones(2), "1": torch.zeros(2)}}
    assert same(checkpoint.load(checkpoint.save(tmp_path / "a.safetensors", state)), state)
