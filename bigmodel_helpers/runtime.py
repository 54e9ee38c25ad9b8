"""Where and how code runs: profile, device, number format, seed, allocator, provenance. Introduced in chapter 1."""

import ctypes
import datetime
import json
import os
import platform
import random
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")
Device = torch.device | str
PROFILES = ("smoke", "laptop", "gpu")
PROVENANCE_MIME = "application/vnd.bigmodel.provenance+json"


@dataclass(frozen=True)
class Profile:
    """How much work a notebook does: ``smoke`` (CI), ``laptop`` (CPU) or ``gpu``."""

    name: str

    def pick(self, *, smoke: T, laptop: T, gpu: T) -> T:
        """Return the value meant for this profile.

        >>> runtime.get_profile("smoke").pick(smoke=1, laptop=10, gpu=100)
        1
        """
        return {"smoke": smoke, "laptop": laptop, "gpu": gpu}[self.name]


def get_profile(name: str | None = None) -> Profile:
    """Return the profile called `name`, else the one in ``BIGMODEL_PROFILE``, else one that fits the machine.

    Raises:
        ValueError: the name is not one of ``smoke``, ``laptop``, ``gpu``.
    """
    default = "gpu" if torch.accelerator.is_available() else "laptop"
    name = name or os.environ.get("BIGMODEL_PROFILE") or default
    if name not in PROFILES:
        raise ValueError(
            f"profile {name!r} does not exist: set BIGMODEL_PROFILE to one of {', '.join(PROFILES)}"
        )
    return Profile(name)


def data_folder(*parts: str) -> Path | None:
    """Return the path `parts` below the folder that ``BIGMODEL_DATA`` names, or None where it is not set.

    Introduced in chapter 4.

    Raises:
        OSError: the variable is set, and what it names does not exist, is no folder, or may not be read.
    """
    named = os.environ.get("BIGMODEL_DATA")
    if not named:
        return None
    root = Path(os.path.expanduser(named))  # noqa: PTH111 -- keeps a ~ where there is no home
    try:
        next(root.iterdir(), None)
    except OSError as error:
        raise type(error)(
            f"BIGMODEL_DATA={named!r} is no folder that can be read ({error.strerror}): correct or unset it"
        ) from None
    return root.joinpath(*parts)


def best_device() -> torch.device:
    """Return the accelerator of this machine (CUDA, MPS, ...), or the CPU where there is none."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def synchronize(device: torch.device | str) -> None:
    """Wait until all work queued on `device` is done: only then a stopwatch is right. Introduced in chapter 2."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


def cpu_has_bfloat16() -> bool:
    """Say whether this CPU multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX). Introduced in chapter 4."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def autocast_dtype(device: torch.device | str) -> torch.dtype | None:
    """Return the number format in which mixed precision pays on `device`, or None for plain float32.

    bfloat16 where the hardware multiplies it, float16 on CUDA cards before Ampere (Colab's T4), else None.
    Introduced in chapter 4.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return None


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state(device: torch.device | str) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, PyTorch and `device`, as numbers, text, tensors.

    Introduced in chapter 4.
    """
    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.device(device).type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device | str) -> None:
    """Put the generators back to what `random_state` returned on the same kind of device. Introduced in chapter 4."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "device" in state and torch.device(device).type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"], device)


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next step instead of returning it to the operating system.

    Large activations are then not faulted in again at each training step; the process stays as big as its
    largest step. Returns True where it took effect (Linux with glibc), else False. Introduced in chapter 4.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    m_trim_threshold, m_mmap_max = -1, -4
    return bool(mallopt(m_mmap_max, 0)) and bool(mallopt(m_trim_threshold, 2**31 - 1))


def device_name(device: torch.device | str | None = None) -> str:
    """Return the name of `device` as people know it, such as ``NVIDIA H200`` or ``AMD EPYC, 2 threads``."""
    device = torch.device(device) if device is not None else best_device()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} on {platform.machine()}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Provenance:
    """What a page was made with: a small table for the reader, JSON for the build."""

    facts: dict[str, str]

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.facts.items()
        )
        return {
            "text/plain": str(self),
            "text/html": f'<table class="provenance"><tbody>{rows}</tbody></table>',
            PROVENANCE_MIME: self.facts,
        }

    def __str__(self) -> str:
        return "\n".join(f"{name:9} {value}" for name, value in self.facts.items())


def provenance(profile: Profile, **extra: str) -> Provenance:
    """Collect what this run was made with: profile, device, versions, date (UTC), and what `extra` adds."""
    facts = {
        "profile": profile.name,
        "device": device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    return Provenance(
        facts
        | {name: value if isinstance(value, str) else json.dumps(value) for name, value in extra.items()}
    )
