"""How the next token of one request is chosen. Introduced in chapter 15."""

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from bigmodel_helpers.inference.grammar import Grammar
from bigmodel_helpers.inference.sampling import penalize, sample
from bigmodel_helpers.inference.server._asked import Parameters

Said = tuple[float | None, list[tuple[bytes, float]]]


class Choice:
    """Draws the tokens of one answer with a generator of its own, and notes their log probabilities.

    These are the model's, before temperature, grammar and whatever else changes what is drawn.
    """

    def __init__(
        self, parameters: Parameters, prompt: int, most: int, pieces: Sequence[bytes], grammar: Grammar | None
    ) -> None:
        self.parameters, self.prompt, self.pieces = parameters, prompt, pieces
        seed = secrets.randbits(63) if parameters.seed is None else parameters.seed
        self.generator = torch.Generator().manual_seed(seed)
        self._choose = grammar.chooser(prompt, most, self._draw) if grammar else self._draw
        self._said: list[Said] = []

    def __call__(self, tokens: list[int], scores: Tensor) -> int:
        """Return the token that follows `tokens`, prompt and answer so far, given its scores, (vocabulary,)."""
        scores = scores.float().cpu()
        token = self._choose(tokens, scores)
        if self.parameters.alternatives is not None:
            self._said.append(self._look(scores.log_softmax(-1), token))
        return token

    def _draw(self, tokens: list[int], scores: Tensor) -> int:
        asked = self.parameters
        if (asked.repetition_penalty, asked.presence_penalty, asked.frequency_penalty) != (1, 0, 0):
            scores = penalize(
                scores,
                tokens[self.prompt :],
                repetition=asked.repetition_penalty,
                presence=asked.presence_penalty,
                frequency=asked.frequency_penalty,
                prompt=tokens[: self.prompt],
            )
        chosen = sample(
            scores[None],
            temperature=asked.temperature,
            top_k=asked.top_k or None,
            top_p=asked.top_p,
            min_p=asked.min_p,
            generator=self.generator,
        )
        return int(chosen)

    def said(self, place: int) -> Said:
        """Return the log probability of a token of the answer, and the likeliest with theirs, if they were asked."""
        return self._said[place] if self._said else (None, [])

    def _look(self, logs: Tensor, token: int) -> Said:
        best = logs.topk(min(self.parameters.alternatives or 0, len(logs)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return float(logs[token]), [(self.pieces[number], value) for number, value in pairs]
