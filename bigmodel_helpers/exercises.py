"""Exercises that answer: a check says "correct" and why, or gives a hint. Introduced in chapter 1."""

import functools
import linecache
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NotYetError(AssertionError):
    """An answer that does not pass yet; its text is one line with a hint, which a notebook shows by itself.

    Introduced in chapter 1.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"not yet: {self}"]


def check(means: str, *, hint: str) -> Callable[[Callable[[], None]], Callable[..., None]]:
    """Turn a function of asserts into a check that answers in words.

    The function calls what the reader wrote. Its asserts carry the hints: each has a message that says what is
    wrong, not what is right.

    Introduced in chapter 1.

    Args:
        means: what is understood now, said after "correct: ".
        hint: the second hint, which ``check_name(hint=True)`` prints.

    Raises:
        NotYetError: the answer is missing, stops with an error, or is wrong; when the check is called.

    >>> def double(x):
    ...     return x + 2
    >>> @exercises.check("twice is twice", hint="Try x = 3.")
    ... def check_double():
    ...     exercises.same(double(2), 4, "double(2)")
    ...     assert double(3) == 6, "it works for 2 alone"
    >>> check_double()
    Traceback (most recent call last):
    bigmodel_helpers.exercises.NotYetError: it works for 2 alone; a hint: check_double(hint=True)
    """

    def decorate(function: Callable[[], None]) -> Callable[..., None]:
        name = function.__name__

        @functools.wraps(function)
        def run(hint: bool = False) -> None:
            if hint:
                print(f"hint: {second}")
                return
            try:
                function()
            except Exception as error:
                raise NotYetError(f"{_said(error, function)}; a hint: {name}(hint=True)") from None
            print(f"correct: {means}")

        return run

    second = hint
    return decorate


def same(found: Any, wanted: Any, what: str, tolerance: float = 1e-4) -> None:
    """Demand that `found` equals `wanted`, in whatever type of number it comes; say how it differs.

    Introduced in chapter 1.

    Args:
        found: a number, an array, a tensor or a list of them.
        wanted: the same, right.
        what: how the text calls it.
        tolerance: largest difference, relative to the largest wanted number.

    Raises:
        NotYetError: `found` is no number, or has another shape or another value.
    """
    given, right = _numbers(found), _numbers(wanted)
    if given is None:
        raise NotYetError(
            f"{what} is {_kind(found)}: {'a number' if right.ndim == 0 else 'a tensor'} is wanted"
        )
    if given.shape != right.shape and not given.numel() == right.numel() == 1:
        which = (
            "is a tuple and "
            if isinstance(found, tuple)
            else "is a list and "
            if isinstance(found, list)
            else ""
        )
        raise NotYetError(f"{what} {which}has the shape {tuple(given.shape)}, and not {tuple(right.shape)}")
    given = given.reshape(right.shape)
    if (given.isfinite() != right.isfinite()).any():
        raise NotYetError(f"{what} is not finite where it should be, or the other way round")
    if not close(given, right, tolerance):
        raise NotYetError(f"{what} {_difference(given, right, tolerance)}")


def close(found: Any, value: Any, tolerance: float = 1e-4) -> bool:
    """Return whether both are the same numbers; for the mistakes that a check knows by their result.

    Introduced in chapter 1.

    >>> exercises.close([0.5, 1], torch.tensor([0.5, 1.0]))
    True
    """
    given, other = _numbers(found), _numbers(value)
    if given is None or given.shape != other.shape:
        return False
    finite = other[other.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(given, other, rtol=0.0, atol=tolerance * (scale or 1.0), equal_nan=True)


def _numbers(value: Any) -> Tensor | None:
    try:
        if isinstance(value, list | tuple) and value:
            return torch.stack([_numbers(part) for part in value])
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = value.astype(float)  # torch takes no view that runs backward, and no other byte order
        numbers = torch.as_tensor(value).detach().cpu()
        return None if numbers.is_complex() else numbers.to_dense().double()
    except (TypeError, ValueError, RuntimeError):
        return None


def _difference(given: Tensor, right: Tensor, tolerance: float) -> str:
    if right.numel() == 1:
        return "is too large" if float(given) > float(right) else "is too small"
    if close(given, -right, tolerance):
        return "has the wrong sign"
    if right.ndim == 2 and close(given.T, right, tolerance):
        return "is transposed"
    sizes = given.norm() / right.norm()
    if sizes > 0 and close(given / sizes, right, tolerance):
        return f"is {float(sizes):.3g} times what it should be, everywhere"
    wrong = (given - right).abs() > tolerance * right.abs().max()
    return f"differs in {int(wrong.sum())} of {wrong.numel()} places"


def _said(error: Exception, function: Callable[[], None]) -> str:
    """Return in words what went wrong when a check ran."""
    in_a_rank = getattr(error, "kind", "")  # of a WorkerError of distributed.launch
    if isinstance(error, NotImplementedError) or in_a_rank == "NotImplementedError":
        return "it is still to be written: replace the line that raises NotImplementedError"
    if isinstance(error, AssertionError) and str(error):
        return str(error).splitlines()[0]
    if in_a_rank == "timeout":
        return "time is up: the ranks wait for each other, or need too long"
    if in_a_rank:
        lines = [line for line in str(error).splitlines() if not line.startswith(("  ", "(then"))]
        return ": ".join(lines[:2])
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals is function.__globals__
    ]
    frame, line = frames[-1]
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    if frame.f_code.co_qualname.startswith(function.__qualname__):  # a comprehension in it, too
        return f"what it returns cannot be used ({text})"
    source = linecache.getline(frame.f_code.co_filename, line).strip()
    return f"`{source}` in {frame.f_code.co_name} stops with {text}"


def _kind(value: Any) -> str:
    if value is None:
        return "None (is there a return?)"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"
