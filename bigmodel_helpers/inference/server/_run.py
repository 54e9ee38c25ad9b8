"""A request on its way through an engine. Introduced in chapter 15."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from bigmodel_helpers.inference.server._asked import Asked, Parameters, Prompt
from bigmodel_helpers.inference.server._limits import Limits, Problem
from bigmodel_helpers.inference.server._told import Piece, Shown, choice, dump, head, usage

Deliver = Callable[[Piece], bool]


class Busy(Exception):  # noqa: N818
    """The engine has no place left for a request."""

    def __init__(self, seconds: int = 1) -> None:
        super().__init__(f"no place for {seconds} s")
        self.seconds = seconds


class Refused(Exception):  # noqa: N818
    """The engine cannot serve such a request; the message, one line, is shown to the client."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field  # of the request that is wrong; by default the prompt


class Handle(Protocol):
    """A request that an engine has accepted."""

    prompt_tokens: int

    def cancel(self) -> None:
        """Give the place back, from any thread, any number of times, and without waiting for a step."""


class Backend(Protocol):
    """What computes answers for a server, in a thread or a process of its own, such as `Hosted`."""

    def submit(self, prompt: Prompt, parameters: Parameters, deliver: Deliver) -> Handle:
        """Accept a request, or raise `Busy` or `Refused`; called from several threads, and never waits for long.

        `deliver` gets each token, the last with `finish`. It never waits, and returns False when nobody wants the
        answer any more: the engine then drops the request as if it were cancelled.
        """

    def stop(self) -> None:
        """End what runs, and the thread, until the next request; any number of times."""


class Mailbox:
    """The way from the thread of an engine to the event loop, for a bounded number of tokens."""

    def __init__(self, size: int) -> None:
        self.size, self.pieces = size, deque[tuple[int, Piece]]()
        self.problem: Problem | None = None
        self.loop, self.filled = asyncio.get_running_loop(), asyncio.Event()

    def deliver(self, index: int, piece: Piece) -> bool:
        """Put a token in, from any thread; False if it is closed, or full, which closes it."""
        if self.problem is None and len(self.pieces) < self.size:
            self.pieces.append((index, piece))
        else:
            self.close(
                Problem(408, "the answer was read too slowly: read on while it is sent", code="slow_reader")
            )
        try:
            self.loop.call_soon_threadsafe(self.filled.set)
        except RuntimeError:  # the server has stopped
            return False
        return self.problem is None

    def close(self, problem: Problem) -> None:
        """Take no more tokens; who reads gets those that are in, and then the problem."""
        self.problem = self.problem or problem

    async def get(self) -> tuple[int, Piece]:
        """Return the number of a choice and its next token."""
        while not self.pieces:
            if self.problem:
                raise self.problem
            self.filled.clear()
            await self.filled.wait()
        return self.pieces.popleft()


class Run:
    """The answers to one request."""

    def __init__(self, asked: Asked, limits: Limits) -> None:
        self.asked, self.handles, self.made = asked, list[Handle](), 0
        self.mailbox = Mailbox(limits.queue * asked.choices)
        self.until = self.mailbox.loop.time() + limits.answer

    def submit(self, engine: Backend) -> None:
        """Hand the request to the engine, once for each answer; runs in a thread, as reading a prompt takes time."""
        for index in range(self.asked.choices):
            parameters = self.asked.parameters
            if parameters.seed is not None:
                parameters = replace(parameters, seed=parameters.seed + index)
            deliver = partial(self.mailbox.deliver, index)
            try:
                self.handles.append(engine.submit(self.asked.prompt, parameters, deliver))
            except Busy as error:
                message = f"all places are taken: try again in {error.seconds} s"
                raise Problem(429, message, code="busy", retry_after=str(error.seconds)) from None
            except Refused as error:
                field = error.field or ("messages" if self.asked.chat else "prompt")
                raise Problem(400, " ".join(str(error).split()), field, "invalid_value") from None
            if self.mailbox.problem:  # closed meanwhile
                self.handles[-1].cancel()
                return

    def stop(self, problem: Problem) -> None:
        """End the answers with an error."""
        self.mailbox.close(problem)
        self.mailbox.filled.set()
        for handle in [*self.handles]:
            handle.cancel()

    async def parts(self) -> AsyncIterator[tuple[int, str, list[Piece], str | None]]:
        """Yield the number of an answer, what goes on in it, its tokens, and why it ends, if it does.

        Raises:
            Problem: the engine failed, the server stops, or the client reads too slowly.
        """
        answers = {index: Shown(self.asked.stops) for index in range(self.asked.choices)}
        try:
            while answers:
                async with asyncio.timeout_at(self.until):
                    index, piece = await self.mailbox.get()
                await asyncio.sleep(0)  # others have their turn, even where many tokens wait
                if index not in answers:  # it has met a stop text, but the engine did not know yet
                    continue
                self.made += 1
                if piece.finish not in (None, "stop", "length"):
                    raise Problem(500, "the model failed: try again", code="engine_failed")
                shown = answers[index].add(piece)
                if shown[2]:
                    del answers[index]
                    self.handles[index].cancel()
                yield index, *shown
        except TimeoutError:
            for index in answers:
                self.handles[index].cancel()
            for index, answer in answers.items():
                yield index, *answer.add(Piece(b"", finish="length"))

    async def whole(self) -> dict[str, Any]:
        """Return the answers when all are complete."""
        count = self.asked.choices
        texts, pieces, ends = [""] * count, [list[Piece]() for _ in range(count)], [""] * count
        async for index, text, tokens, finish in self.parts():
            texts[index] += text
            pieces[index] += tokens
            ends[index] = finish or ""
        each = zip(range(count), texts, pieces, ends, strict=True)
        choices = [choice(self.asked, *one, part=False) for one in each]
        return {**head(self.asked, False), "choices": choices, "usage": self._usage()}

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the events of a stream; a problem is the last of them."""
        asked, same, offsets = self.asked, head(self.asked, True), [0] * self.asked.choices
        if asked.usage:
            same["usage"] = None
        if asked.chat:
            for index in range(asked.choices):
                first = choice(asked, index, "", [], None, part=True)
                yield dump({**same, "choices": [{**first, "delta": {"role": "assistant", "content": ""}}]})
        try:
            async for index, text, tokens, finish in self.parts():
                if text or tokens or finish:
                    one = choice(asked, index, text, tokens, finish, part=True, offset=offsets[index])
                    offsets[index] += len(text)
                    yield dump({**same, "choices": [one]})
        except Problem as problem:
            yield dump(problem.json())
            return
        if asked.usage:
            yield dump({**same, "choices": [], "usage": self._usage()})
        yield b"[DONE]"

    def _usage(self) -> dict[str, int]:
        return usage(self.handles[0].prompt_tokens, self.made)
