"""The devices that a test runs on: always the CPU, and the accelerator of the machine where there is one."""

import os
import shutil
import sys

import torch

from bigmodel_helpers.runtime import best_device


def devices() -> list[str]:
    """Return "cpu" and, on a machine with CUDA or MPS, "cuda" or "mps": parameters of a test, so that none skips."""
    best = best_device().type
    return ["cpu", best] if best in ("cuda", "mps") else ["cpu"]


def has_compiler() -> bool:
    """Say whether `torch.compile` finds its C++ compiler: the one in ``CXX``, or the usual one of the platform."""
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX", usual)) is not None


def mixed_dtype(device: str) -> torch.dtype:
    """Return the format to test mixed precision in: bfloat16, which every CPU computes, or float16 on old cards."""
    old = device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if old else torch.bfloat16
