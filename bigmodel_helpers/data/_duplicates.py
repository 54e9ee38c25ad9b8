"""Near-duplicates: pictures that a person would call the same one. Introduced in chapter 6.

A pair is found by its hashes and confirmed by its pixels. How much must agree depends on how much there is to see.
Photographs have fine detail nearly everywhere: there the patterns must agree on the whole. Drawings, text and digits
are plain or smooth, and different ones agree in most places: there no place may differ. The limits were measured:
they part copies from different pictures among photographs, CIFAR-10, handwritten digits and pages of text.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BITS = 8  # a candidate differs in at most so many bits of its hash
PATTERN = 0.6  # two detailed pictures are alike if their patterns agree so much, from -1 to 1
PLACES = 0.12  # others are alike if no place differs by more than this part of the contrast
CONTRAST = 12  # with fewer gray levels between its darkest and brightest place, a picture is flat


class Look(NamedTuple):
    """What is kept of a picture to compare it with others: 6 kB."""

    exact: bytes  # the same for pictures with the same pixels only
    bits: Tensor  # bool (63,), its perceptual hash
    places: Tensor  # float32 (432,), the colors of 12 x 12 places, stretched to 0 to 1
    patterns: Tensor  # float32 (16, 64), the gray pattern of each sixteenth, of mean 0 and length 1
    busy: Tensor  # float32 (16,), 1 where a sixteenth has a pattern, 0 where it is plain
    detailed: bool  # it has fine detail nearly everywhere
    flat: bool  # it has next to no contrast: its hash is noise


def perceptual_hash(picture: Image.Image) -> Tensor:
    """Return 63 bits, bool, that copies share: signs of the slowest waves in a 32x32 gray copy of the picture.

    Each bit says whether a coefficient of the cosine transform is above the median of all. Copies that were resized,
    recompressed or made a little brighter differ in few bits, other photographs in about half of them. Drawings,
    digits and blank pages can share a hash without being alike: compare their pixels, too.
    """
    gray = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    waves = np.cos(np.pi * np.outer(np.arange(8), np.arange(32) + 0.5) / 32)  # (8, 32), the slowest first
    slowest = (waves @ gray @ waves.T).flatten()[1:]  # without the mean
    return torch.from_numpy(slowest > np.median(slowest))


def look(picture: Image.Image) -> Look:
    """Return what `near_duplicates` needs of an RGB picture."""
    exact = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).digest()
    small = np.array(picture.resize((12, 12), Image.Resampling.BILINEAR), dtype=np.float32)
    contrast = np.ptp(small)
    places = torch.from_numpy((small - small.min()) / max(contrast, 1)).flatten()
    gray = np.array(picture.convert("L").resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
    gray /= max(np.ptp(gray), 1)
    blocks = torch.from_numpy(gray.reshape(4, 8, 4, 8).swapaxes(1, 2).reshape(16, 64))
    spread = blocks.std(dim=1, keepdim=True, correction=0)
    patterns = (blocks - blocks.mean(dim=1, keepdim=True)) / (8 * (spread**2 + 0.01**2).sqrt())
    busy = (spread[:, 0] > 0.02).float()
    flat = bool(contrast < CONTRAST)
    return Look(exact, perceptual_hash(picture), places, patterns, busy, _is_detailed(gray), flat)


def _is_detailed(gray: np.ndarray) -> bool:
    """Say whether a gray copy (32, 32), stretched to 0 to 1, is rarely plain and not smooth."""
    plain = gray.reshape(16, 2, 16, 2).std(axis=(1, 3)) < 0.01
    steps = [np.diff(turned) for turned in (gray, gray.T)]
    smooth = [np.vdot(step[:, 1:], step[:, :-1]) / max(np.vdot(step, step), 1e-9) for step in steps]
    return bool(plain.mean() < 0.3 and np.mean(smooth) < 0.7)


def near_duplicates(looks: Sequence[Look]) -> tuple[Tensor, Tensor]:
    """Find the near-duplicates among pictures, equal ones included.

    Returns:
        int64 (N,), for each picture the one that stands for its group: it looks like that one, or is equal to one
        that does; and int64 (P, 2), the pairs that look the same, the earlier first. Of equal pictures only the
        first is paired with others.
    """
    everyone, first = torch.arange(len(looks)), {}
    original = torch.tensor([first.setdefault(one.exact, index) for index, one in enumerate(looks)])
    copies = (original != everyone).nonzero().flatten()
    unique = (original == everyone).nonzero().flatten()
    alike = unique[_alike_pairs([looks[index] for index in unique.tolist()])]
    pairs = torch.cat([alike, torch.stack([original[copies], copies], dim=1)])
    return _stars(alike, len(looks))[original], pairs


def _alike_pairs(looks: Sequence[Look]) -> Tensor:
    """Return int64 (P, 2): the pairs that look the same, the earlier first."""
    places, patterns, busy = (torch.stack([one[field] for one in looks]) for field in (2, 3, 4))
    detailed, flat = (torch.tensor([one[field] for one in looks]) for field in (5, 6))
    signs = torch.stack([one.bits for one in looks]) * 2.0 - 1
    signs[flat] = 0  # agrees with nothing
    found = []
    for start in range(0, len(looks), 256):
        agreeing = signs[start : start + 256] @ signs.T  # bits that agree minus bits that do not
        near = (agreeing >= signs.shape[1] - 2 * BITS).triu(start + 1)
        for some in (near.nonzero() + torch.tensor([start, 0])).split(4096):
            one, other = some.T
            agreement = (patterns[one] * patterns[other]).sum(dim=2)
            weight = torch.maximum(busy[one], busy[other])
            pattern = (agreement * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
            farthest = (places[one] - places[other]).abs().amax(dim=1)
            both = detailed[one] & detailed[other]
            found.append(some[torch.where(both, pattern >= PATTERN, farthest <= PLACES)])
    return torch.cat(found)


def _stars(pairs: Tensor, n: int) -> Tensor:
    """Group `n` pictures so that each member is paired with the one that stands for its group, int64 (n,).

    The picture with most pairs comes first. A chain, in which each picture looks like the next, is cut.
    """
    both = torch.cat([pairs, pairs.flip(1)])
    both = both[both[:, 0].argsort(stable=True)]
    counts = both[:, 0].bincount(minlength=n)
    neighbors = both[:, 1].split(counts.tolist())
    group = torch.full((n,), -1)
    for center in counts.argsort(descending=True, stable=True).tolist():
        if group[center] < 0:
            near = neighbors[center]
            group[near[group[near] < 0]] = center
            group[center] = center
    return group
