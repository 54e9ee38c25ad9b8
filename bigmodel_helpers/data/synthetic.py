"""A stand-in for CIFAR-10 where there is no network: ten classes of drawn shapes.

Only additions, multiplications, divisions and square roots of float32 numbers are used, and the raw output of
a generator whose stream is fixed: the same seed gives the same bytes on every machine.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: The names of the shapes, by label.
CLASSES = ("arrow", "crescent", "cross", "disc", "drop", "heart", "ring", "square", "star", "triangle")
CHUNK = 100  # images drawn at once: they stay in the processor's cache
Array = NDArray[np.float32]


def shapes(n: int, seed: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Draw `n` images of ten shapes in random pose, size, color and texture, partly hidden, on clutter.

    Introduced in chapter 4. The classes are `CLASSES`, each with n / 10 images (rounded), in random order.

    Args:
        n: number of images, at least 1.
        seed: a whole number of at least 0; training and test sets need different ones.
        size: height and width in pixels, at least 8.

    Returns:
        images uint8 (n, 3, size, size) and labels int64 (n,).

    Raises:
        ValueError: an argument is out of its range.

    >>> images, labels = synthetic.shapes(20, seed=0)
    >>> images.shape, labels.bincount().tolist()
    (torch.Size([20, 3, 32, 32]), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    if n < 1 or seed < 0 or size < 8:
        raise ValueError(f"cannot draw n={n}, seed={seed}, size={size}: use n >= 1, seed >= 0, size >= 8")
    bits = np.random.PCG64(seed)
    images = np.empty((n, 3, size, size), dtype=np.uint8)
    labels = np.empty(n, dtype=np.int64)
    order = bits.random_raw(n).argsort(kind="stable")  # a random permutation
    for label in range(len(CLASSES)):
        places = order[label :: len(CLASSES)]
        labels[places] = label
        for start in range(0, len(places), CHUNK):
            chunk = places[start : start + CHUNK]
            images[chunk] = _draw(label, len(chunk), size, bits)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _uniform(bits: np.random.PCG64, low: float, high: float, *shape: int) -> Array:
    """Return float32 numbers between `low` and `high`."""
    raw = bits.random_raw(int(np.prod(shape))) >> np.uint64(40)  # 24 bits: exact in float32
    return (raw.astype(np.float32) * np.float32(2**-24 * (high - low)) + np.float32(low)).reshape(shape)


def _axes(bits: np.random.PCG64, n: int, reach: float = 1) -> tuple[Array, Array]:
    """Return random turns as (cosine, sine), each (n, 1, 1), up to 90 degrees each way with a `reach` of 1.

    The half-angle formulas need no cosine, which is not the same to the last bit on every machine.
    """
    t = _uniform(bits, -reach, reach, n, 1, 1)  # the tangent of half the angle
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def _wave(phase: Array) -> Array:
    """Return a triangle wave between -1 and 1 with period 1."""
    return 4 * np.abs(phase - np.floor(phase) - np.float32(0.5)) - 1


def _draw(label: int, n: int, size: int, bits: np.random.PCG64) -> NDArray[np.uint8]:
    """Draw `n` images of one class, uint8 (n, 3, size, size)."""
    grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(32 / size)  # in 32nds
    x, y = grid[None, None, :], grid[None, :, None]

    def number(low: float, high: float) -> Array:
        return _uniform(bits, low, high, n, 1, 1)

    def color() -> Array:
        return _uniform(bits, 0, 1, n, 3, 1, 1)

    def texture(strength: float) -> Array:
        c, s = _axes(bits, n)
        period, kind = number(3, 9), number(0, 1)
        stripes = _wave((c * x + s * y) / period + number(0, 1))
        checks = stripes * _wave((c * y - s * x) / period)
        return np.where(kind < 0.5, stripes, checks) * number(0, strength)

    def paint(canvas: Array, distance: Array, tint: Array) -> None:
        cover = np.clip(np.float32(0.5) - distance * np.float32(size / 32), 0, 1)[:, None]
        canvas += cover * (tint - canvas)

    def bar(length: tuple[float, float], width: tuple[float, float]) -> Array:
        c, s = _axes(bits, n)
        dx, dy = x - number(0, 32), y - number(0, 32)
        along, across = np.abs(c * dx + s * dy), np.abs(c * dy - s * dx)
        return np.maximum(along - number(*length), across - number(*width))

    c, s = _axes(bits, n)
    ramp = (c * (x - 16) + s * (y - 16)) / 32 + np.float32(0.5)
    first = np.float32(0.7) * color()
    canvas = first + ramp[:, None] * (np.float32(0.7) * color() - first) + texture(0.2)[:, None]
    for _ in range(2):
        paint(canvas, bar((1, 5), (1, 3)), color())
        radius = number(1, 4)
        dx, dy = x - number(0, 32), y - number(0, 32)
        paint(canvas, np.sqrt(dx * dx + dy * dy) - radius, color())

    scale = number(8, 13)
    margin = np.float32(0.8) * scale
    dx = (x - margin - number(0, 1) * (32 - 2 * margin)) / scale
    dy = (y - margin - number(0, 1) * (32 - 2 * margin)) / scale
    c, s = _axes(bits, n, 0.35)
    u, v = c * dx + s * dy, c * dy - s * dx
    stretch = number(0.8, 1.25)
    u, v = u * stretch + v * number(-0.25, 0.25), v / stretch
    tint = first + np.float32(0.1) + np.float32(0.6) * color()
    paint(canvas, _distance(label, u, v) * scale, tint + texture(0.2)[:, None])

    paint(canvas, bar((4, 16), (0.5, 1.5)), color())
    canvas += number(0.02, 0.1)[:, None] * _uniform(bits, -1, 1, n, 3, size, size)
    return (np.clip(canvas, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


def _distance(label: int, x: Array, y: Array) -> Array:
    """Return about how far each point is outside of the shape, whose radius is about 1; negative inside."""
    f = np.float32
    right, down = np.abs(x), np.abs(y)
    radius = np.sqrt(x * x + y * y)
    match CLASSES[label]:
        case "arrow":
            shaft = np.maximum(right - f(0.2), np.abs(y - f(0.35)) - f(0.6))
            head = np.maximum(y + f(0.1), f(0.82) * right - f(0.58) * (y + 1))
            return np.minimum(shaft, head)
        case "crescent":
            hole = np.sqrt((x - f(0.45)) ** 2 + y * y)
            return np.maximum(radius - f(0.95), f(0.75) - hole)
        case "cross":
            wide = np.maximum(right - f(0.95), down - f(0.3))
            return np.minimum(wide, np.maximum(down - f(0.95), right - f(0.3)))
        case "disc":
            return radius - f(0.8)
        case "drop":
            bowl = np.sqrt(x * x + (y - f(0.3)) ** 2) - f(0.6)
            return np.minimum(bowl, np.maximum(f(0.887) * right - f(0.4615) * (y + 1), y - f(0.023)))
        case "heart":
            tip = f(0.7071) * np.maximum(np.abs(x + y), np.abs(x - y)) - f(0.55)
            lobe = np.sqrt((right - f(0.39)) ** 2 + (y + f(0.39)) ** 2) - f(0.55)
            return np.minimum(tip, lobe)
        case "ring":
            return np.abs(radius - f(0.7)) - f(0.22)
        case "square":
            return np.maximum(right, down) - f(0.72)
        case "star":
            largest = np.full_like(x, -9)
            second = largest.copy()  # inside of at least four of the five lines that draw a star
            for nx, ny in ((0, 1), (0.951, 0.309), (0.588, -0.809), (-0.588, -0.809), (-0.951, 0.309)):
                side = f(nx) * x + f(ny) * y - f(0.33)
                second = np.maximum(second, np.minimum(largest, side))
                largest = np.maximum(largest, side)
            return second
        case "triangle":
            return np.maximum(y, f(0.866) * right - f(0.5) * y) - f(0.5)
    raise AssertionError(label)
