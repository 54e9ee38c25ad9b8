"""What a server tells a client: the text of tokens, up to a stop, in OpenAI's JSON. Introduced in chapter 15."""

import codecs
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from bigmodel_helpers.inference.server._asked import Asked


class Piece(NamedTuple):
    """One token of an answer."""

    text: bytes  # may be a part of a character; empty for the token that ends an answer
    logprob: float | None = None
    alternatives: Sequence[tuple[bytes, float]] = ()  # the likeliest first
    finish: str | None = None  # of the last token: "stop" or "length", or "error" if the engine failed


class Shown:
    """What of an answer can be shown: whole characters, and nothing from the first stop text on.

    What may become a stop text is held back. Of two stop texts, the one that is complete first counts, so that the
    result does not depend on where tokens begin and end.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops, self.held, self.sent = stops, "", 0
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.pieces: list[tuple[int, Piece]] = []

    def add(self, piece: Piece) -> tuple[str, list[Piece], str | None]:
        """Return the text that can be shown now, its tokens, and why the answer ends, if it does."""
        if piece.text:
            self.pieces.append((self.sent + len(self.held), piece))
        self.held += self.decoder.decode(piece.text)
        cut, finish = self._stop(), piece.finish
        if cut is not None:
            ready, finish = cut, "stop"
        else:
            ready = len(self.held) - (0 if finish else self._beginning())
        text, self.held = self.held[:ready], self.held[ready:]
        self.sent += len(text)
        last = finish is not None and cut is None
        tokens = [each for start, each in self.pieces if last or start < self.sent]
        self.pieces = self.pieces[len(tokens) :]
        return text, tokens, finish

    def _stop(self) -> int | None:
        """Where the first stop text begins."""
        found = [(self.held.find(stop), stop) for stop in self.stops if stop in self.held]
        return min(((at + len(stop), at) for at, stop in found), default=(0, None))[1]

    def _beginning(self) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        longest = min(len(self.held), max(map(len, self.stops), default=1) - 1)
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if any(s.startswith(self.held[-size:]) for s in self.stops)), 0)


def dump(value: Any) -> bytes:
    """Write JSON in ASCII, which has no character that could break an event or an encoding."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def event(value: Any) -> bytes:
    """Write an event of a stream."""
    return b"data: " + (value if isinstance(value, bytes) else dump(value)) + b"\n\n"


def head(asked: Asked, streaming: bool) -> dict[str, Any]:
    """Return what all parts of an answer have in common."""
    kind = ("chat.completion.chunk" if streaming else "chat.completion") if asked.chat else "text_completion"
    name = ("chatcmpl-" if asked.chat else "cmpl-") + secrets.token_hex(12)
    return {"id": name, "object": kind, "created": int(time.time()), "model": asked.model}


def choice(
    asked: Asked,
    index: int,
    text: str,
    pieces: Sequence[Piece],
    finish: str | None,
    *,
    part: bool,
    offset: int = 0,
) -> dict[str, Any]:
    """Return one answer, or the next part of it."""
    logprobs = None
    if asked.parameters.alternatives is not None and (pieces or not part):
        logprobs = _chat_logprobs(pieces) if asked.chat else _plain_logprobs(pieces, offset)
    if not asked.chat:
        content: dict[str, Any] = {"text": text}
    elif part:
        content = {"delta": {"content": text} if text or pieces else {}}
    else:
        content = {"message": {"role": "assistant", "content": text, "refusal": None}}
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}


def usage(prompt: int, answers: int) -> dict[str, int]:
    """Return how many tokens were read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


def _finite(logprob: float | None) -> float:
    """JSON has no infinity; OpenAI writes -9999 for a token that could not be."""
    return logprob if logprob is not None and logprob > -9999 else -9999.0


def _entry(text: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": text.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": [*text]}


def _chat_logprobs(pieces: Iterable[Piece]) -> dict[str, Any]:
    content = [
        {**_entry(one.text, one.logprob), "top_logprobs": [_entry(*each) for each in one.alternatives]}
        for one in pieces
    ]
    return {"content": content, "refusal": None}


def _plain_logprobs(pieces: Sequence[Piece], offset: int) -> dict[str, Any]:
    tokens = [one.text.decode("utf-8", "replace") for one in pieces]
    return {
        "tokens": tokens,
        "token_logprobs": [_finite(one.logprob) for one in pieces],
        "top_logprobs": [
            {text.decode("utf-8", "replace"): _finite(logprob) for text, logprob in one.alternatives}
            for one in pieces
        ],
        "text_offset": [*accumulate(map(len, tokens), initial=offset)][: len(tokens)],
    }
