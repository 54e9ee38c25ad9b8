"""Networks that listen: which word it was, and what was said, letter by letter. Introduced in chapter 16."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigmodel_helpers.models.transformer import Block, Cache, _rotary
from bigmodel_helpers.models.transformer_config import TransformerConfig

MEAN, SPREAD = -6.0, 4.0  # of log-mel frames, about; what the networks take away and divide by


class KeywordNet(nn.Module):
    """Convolutions over time, then a mean over time: log-mel frames in, scores of words out.

    The bands of pitch are the channels of the input, so the network knows which band is which; the mean lets a word
    stand anywhere. Introduced in chapter 16. About 240,000 parameters.

    >>> models.KeywordNet(classes=20)(torch.zeros(2, 98, 40)).shape
    torch.Size([2, 20])
    """

    def __init__(self, classes: int, width: int = 96, mels: int = 40) -> None:
        super().__init__()
        layers, inputs = [], mels
        for outputs, kernel, stride in ((width, 5, 2), (width, 5, 2), (2 * width, 3, 2), (2 * width, 3, 1)):
            layers += [nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)]
            layers += [nn.BatchNorm1d(outputs), nn.ReLU()]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the scores of the words.

        Args:
            frames: float (batch, frames, mels), as `data.log_mel` makes them.

        Returns:
            (batch, classes).
        """
        x = ((frames - MEAN) / SPREAD).transpose(1, 2)
        return self.head(self.features(x).mean(2))


@dataclass
class Listening:
    """What a `SpeechEncoder` keeps of the sound so far, to go on with the next piece. Introduced in chapter 16.

    Attributes:
        cache: keys and values of the steps so far.
        frames: the last frames, which the first convolution needs again; None at the beginning.
        hidden: the last output of the first convolution, which the second one needs again.
    """

    cache: Cache
    frames: Tensor | None = field(default=None)
    hidden: Tensor | None = field(default=None)


class SpeechEncoder(nn.Module):
    """Two convolutions, then blocks of a transformer: log-mel frames in, scores of letters out, for CTC.

    A step of the output stands for two frames, 20 ms. A convolution sees no later frame than its step. Attention
    sees the whole sound, or with `chunk` all that came before and its own chunk, so that a sound can be read while it
    is spoken (Zhang et al. 2020). Introduced in chapter 16.

    Args:
        config: sizes of the blocks; `vocabulary` counts the letters and the blank, which is number 0.
        mels: numbers of a frame.

    >>> config = models.TransformerConfig(2, 32, 64, 2, 2, vocabulary=16)
    >>> models.SpeechEncoder(config)(torch.zeros(3, 98, 40)).shape
    torch.Size([3, 49, 16])
    """

    def __init__(self, config: TransformerConfig, mels: int = 40) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(mels, config.width, 3)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.eps)
        self.head = nn.Linear(config.width, config.vocabulary)
        for block in self.layers:
            nn.init.zeros_(block.self_attn.o_proj.weight)
            nn.init.zeros_(block.mlp.down_proj.weight)

    def forward(self, frames: Tensor, lengths: Tensor | None = None, *, chunk: int | None = None) -> Tensor:
        """Return the scores of the letters at each step of whole sounds.

        Args:
            frames: float (batch, frames, mels); an odd last frame is dropped.
            lengths: int64 (batch,), steps of each sound; what stands after them is padding. None: all are whole.
            chunk: steps that are read at once; None for the whole sound.

        Returns:
            (batch, frames // 2, vocabulary).

        Raises:
            ValueError: `frames` has another shape, `chunk` is below 1.
        """
        if frames.ndim != 3 or frames.shape[1] < 2:
            raise ValueError(f"frames of shape {tuple(frames.shape)}: pass (batch, at least 2 frames, mels)")
        if chunk is not None and chunk < 1:
            raise ValueError(f"a chunk of {chunk} steps: take 1 or more, or None")
        x = self._convolve(frames[:, : frames.shape[1] // 2 * 2], None)
        places = torch.arange(x.shape[1], device=x.device)
        last = places if chunk is None else places // chunk
        seen = (
            torch.ones_like(places[:, None] + places, dtype=torch.bool)
            if chunk is None
            else last <= last[:, None]
        )
        mask = seen[None, None]
        if lengths is not None:
            real = (places < lengths.to(x.device)[:, None])[:, None, None]
            mask = mask & real | torch.eye(len(places), dtype=torch.bool, device=x.device)
        return self._blocks(x, places, mask, None)

    def stream(self, frames: Tensor, so_far: Listening | None = None) -> tuple[Tensor, Listening]:
        """Return the scores of the next chunk of one sound, and what is needed to go on.

        Equal to `forward` on the whole sound with this `chunk`, if all pieces but the last have the same length.

        Args:
            frames: float (1, 2 * chunk, mels), the next frames.
            so_far: what the last call returned; None at the beginning.

        Returns:
            scores (1, chunk, vocabulary), and a `Listening`.
        """
        if frames.ndim != 3 or frames.shape[1] < 2 or frames.shape[1] % 2:
            raise ValueError(
                f"frames of shape {tuple(frames.shape)}: pass (1, an even number of frames, mels)"
            )
        state = Listening(Cache(self.config.layers))
        if so_far is not None:  # what was given stays as it is
            state.cache.keys, state.cache.values = [*so_far.cache.keys], [*so_far.cache.values]
            state.frames, state.hidden = so_far.frames, so_far.hidden
        x = self._convolve(frames, state)
        before = len(state.cache)
        places = torch.arange(before, before + x.shape[1], device=x.device)
        mask = torch.ones(1, 1, x.shape[1], before + x.shape[1], dtype=torch.bool, device=x.device)
        return self._blocks(x, places, mask, state.cache), state

    def _convolve(self, frames: Tensor, state: Listening | None) -> Tensor:
        """Return (batch, frames // 2, width); what stands before the first frame is zero, or comes from `state`."""
        x = ((frames - MEAN) / SPREAD).transpose(1, 2)
        before = x.new_zeros(len(x), x.shape[1], 2) if state is None or state.frames is None else state.frames
        x = torch.cat([before, x], 2)
        y = F.gelu(self.conv1(x))
        last = y.new_zeros(len(y), y.shape[1], 1) if state is None or state.hidden is None else state.hidden
        if state is not None:
            state.frames, state.hidden = x[:, :, -2:], y[:, :, -1:]
        return F.gelu(self.conv2(torch.cat([last, y], 2))).transpose(1, 2)

    def _blocks(self, x: Tensor, places: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        turn = _rotary(places[None], self.config.head_width, self.config.theta)
        for block in self.layers:
            x = block(x, turn, mask, cache)
        return self.head(self.norm(x))
