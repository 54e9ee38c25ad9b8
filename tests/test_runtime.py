import json
import random
import re

import numpy as np
import pytest
import torch

from bigmodel_helpers import runtime


@pytest.fixture(autouse=True)
def no_profile_in_the_environment(monkeypatch):
    monkeypatch.delenv("BIGMODEL_PROFILE", raising=False)


def test_the_name_beats_the_environment_beats_the_machine(monkeypatch):
    assert runtime.get_profile().name == ("gpu" if torch.accelerator.is_available() else "laptop")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert runtime.get_profile().name == "gpu"
    monkeypatch.setenv("BIGMODEL_PROFILE", "smoke")
    assert runtime.get_profile().name == "smoke"
    assert runtime.get_profile("laptop").name == "laptop"


@pytest.mark.parametrize("name", runtime.PROFILES)
def test_profile_picks_the_value_of_its_name(name):
    assert runtime.Profile(name).pick(smoke="smoke", laptop="laptop", gpu="gpu") == name


def test_an_unknown_profile_is_refused_with_the_choices(monkeypatch):
    monkeypatch.setenv("BIGMODEL_PROFILE", "desktop")
    with pytest.raises(
        ValueError, match=r"'desktop' does not exist: set BIGMODEL_PROFILE to one of smoke, laptop"
    ):
        runtime.get_profile()


def test_best_device_is_the_cpu_only_where_there_is_no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert runtime.best_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert runtime.best_device() == torch.device("mps")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_old_cuda_cards_get_float16(monkeypatch, native, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert runtime.autocast_dtype("cuda") is dtype


@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_a_cpu_gets_bfloat16_only_with_the_instructions(monkeypatch, avx, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert runtime.cpu_has_bfloat16() == (avx or amx)
    assert runtime.autocast_dtype("cpu") == (torch.bfloat16 if avx or amx else None)
    assert runtime.autocast_dtype("mps") is None


def test_synchronize_waits_for_accelerators_only(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    runtime.synchronize("cpu")
    assert waited == []
    runtime.synchronize("cuda")
    assert waited == ["cuda"]


def draw():
    return random.random(), np.random.rand(), torch.rand(3).tolist(), random.gauss(0, 1), np.random.randn()


def test_seed_everything_repeats_every_generator():
    runtime.seed_everything(7)
    first = draw()
    runtime.seed_everything(7)
    assert draw() == first
    runtime.seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_random_state_comes_back_through_json_and_tensors():
    draw()  # a spare Gaussian number now waits inside the generators
    state = runtime.random_state("cpu")
    expected = draw()
    draw()
    runtime.set_random_state(state, "cpu")
    assert draw() == expected


def test_keep_freed_memory_says_whether_it_took_effect(monkeypatch):
    is_glibc = runtime.sys.platform.startswith("linux") and runtime.platform.libc_ver()[0] == "glibc"
    assert runtime.keep_freed_memory() is is_glibc
    monkeypatch.setattr(runtime.sys, "platform", "darwin")
    assert runtime.keep_freed_memory() is False


def test_device_name_is_readable():
    name = runtime.device_name("cpu")
    assert re.fullmatch(r".*\S.*, \d+ threads", name)
    assert "GPU of the test" in _cuda_name()


def _cuda_name():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of the test")
        return runtime.device_name("cuda")


def test_provenance_shows_a_table_and_carries_the_same_as_json():
    shown = runtime.provenance(runtime.get_profile("smoke"), data="<drawn> shapes", runs=3)
    assert isinstance(shown, runtime.Provenance)
    bundle = shown._repr_mimebundle_()
    facts = json.loads(json.dumps(bundle[runtime.PROVENANCE_MIME]))
    assert facts["profile"] == "smoke"
    assert facts["torch"] == torch.__version__
    assert facts["runs"] == "3"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts["date"])
    assert "&lt;drawn&gt; shapes" in bundle["text/html"]
    assert all(value in bundle["text/plain"] for value in facts.values())


def test_the_data_folder_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.delenv("BIGMODEL_DATA", raising=False)
    assert runtime.data_folder("cifar10") is None
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    assert runtime.data_folder() == tmp_path
    assert runtime.data_folder("MNIST", "raw") == tmp_path / "MNIST" / "raw"


def test_a_data_folder_that_is_named_must_be_there(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("nowhere", "file", "a\nb"):
        monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path / name))
        with pytest.raises(
            OSError, match=r"BIGMODEL_DATA='.*' is no folder .*: correct or unset it"
        ) as caught:
            runtime.data_folder("cifar10")
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("BIGMODEL_DATA", "")
    assert runtime.data_folder() is None


def test_a_data_folder_may_be_in_the_home_folder(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("BIGMODEL_DATA", "~/data")
    assert runtime.data_folder("MNIST") == tmp_path / "data" / "MNIST"
    assert runtime.data_folder() == tmp_path / "data"


def test_a_data_folder_that_may_not_be_read_is_named(monkeypatch, tmp_path):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    monkeypatch.setattr(runtime.Path, "iterdir", refuse)
    with pytest.raises(PermissionError, match=r"no folder that can be read \(Permission denied\)"):
        runtime.data_folder()
