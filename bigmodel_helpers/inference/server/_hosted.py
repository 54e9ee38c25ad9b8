"""The thread that owns an engine, between it and a server. Introduced in chapter 15."""

import json
import logging
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

import torch

from bigmodel_helpers.data.chats import ChatTemplate
from bigmodel_helpers.data.tokens import as_bytes
from bigmodel_helpers.inference._blocks import SIZE
from bigmodel_helpers.inference._requests import Full, Request
from bigmodel_helpers.inference.engine import Engine
from bigmodel_helpers.inference.grammar import Grammar, json_schema
from bigmodel_helpers.inference.server._asked import Parameters, Prompt
from bigmodel_helpers.inference.server._choosing import Choice
from bigmodel_helpers.inference.server._run import Busy, Deliver, Refused
from bigmodel_helpers.inference.server._told import Piece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEPT = 8  # grammars
LOG = logging.getLogger(__name__)


class Ticket:
    """A request of a client in the engine."""

    def __init__(self, request: Request, choice: Choice, deliver: Deliver) -> None:
        self.request, self.choice, self.deliver = request, choice, deliver
        self.prompt_tokens, self.sent, self.wanted = len(request.prompt), 0, True
        self.accepted = Future[None]()

    def cancel(self) -> None:
        """Say that nobody wants the answer; the engine's thread looks before each step."""
        self.wanted = False


class Hosted:
    """A model as `serve` offers it: an engine, and how chats are written for it.

    A thread of its own steps the engine from the first request on; it sleeps while there is none, and `stop` ends
    it. Meanwhile nobody else may use the engine. One Hosted may have several names in a server. An adapter needs an
    engine over a network of its own, so each takes the memory of a whole model and of a cache.

    Args:
        engine: computes the answers.
        template: how chats are written as tokens; or a tokenizer, and then only texts are gone on with.
        end: the token that ends an answer; None for that of the template, where there is one.

    Raises:
        ValueError: `end` is no token of the tokenizer, or its tokens are not made of bytes.

    >>> from bigmodel_helpers.inference import server
    >>> tokenizer = tokens.train_bpe(["a chat"], 257, ["<|end|>"])
    >>> network = models.Transformer(models.TransformerConfig(1, 8, 16, 2, 1, vocabulary=257))
    >>> hosted = server.Hosted(inference.Engine(network, blocks=8), data.ChatTemplate(tokenizer, 0, 0))
    """

    def __init__(
        self, engine: Engine, template: "ChatTemplate | Tokenizer", *, end: int | None = None
    ) -> None:
        self.engine = engine
        self._template = template if isinstance(template, ChatTemplate) else None
        self._tokenizer = template.tokenizer if isinstance(template, ChatTemplate) else template
        self._end = self._template.end if self._template and end is None else end
        if self._end is not None and self._tokenizer.id_to_token(self._end) is None:
            raise ValueError(f"end is {self._end}, no token of the tokenizer: take tokenizer.token_to_id")
        self._bytes = bytes_of(self._tokenizer, engine.packed.config.vocabulary)
        self._room = len(engine.blocks) * SIZE
        if engine.packed.config.positions:
            self._room = min(self._room, engine.packed.config.positions)
        self._inbox, self._tickets = deque[Ticket](), list[Ticket]()
        self._grammars: dict[str, Grammar] = {}
        self._making = threading.Lock()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._ending = False

    def submit(self, prompt: Prompt, parameters: Parameters, deliver: Deliver) -> Ticket:
        """Accept a request of a server; it waits for the end of the running step at most."""
        ids = self._ids(prompt)
        room = self._room + 1 - len(ids)  # the last token is not computed
        most = min(parameters.most, max(room, 1)) if parameters.fewer else parameters.most
        try:
            grammar = self._grammar(parameters.schema)
            choice = Choice(parameters, len(ids), most, self._bytes, grammar)
        except ValueError as error:
            raise Refused(str(error), "response_format") from None
        ticket = Ticket(Request(ids, most, self._end, choice), choice, deliver)
        with self._lock:
            if self._ending:
                raise Busy
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive, name="engine", daemon=True)
                self._thread.start()
            self._inbox.append(ticket)
        self._wake.set()
        ticket.accepted.result()
        return ticket

    def stop(self) -> None:
        """End the thread and what runs, until the next request; for a running step it waits 2 s at most."""
        with self._lock:
            thread, self._ending = self._thread, self._thread is not None
        if thread is not None:
            self._wake.set()
            thread.join(2)

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt, add_special_tokens=False).ids
        ids = [each for each in prompt if isinstance(each, int)]
        if len(ids) == len(prompt):
            return ids
        if self._template is None:
            raise Refused("this model has no template for chats: send its text to /v1/completions", "model")
        messages = [{**each} for each in prompt if isinstance(each, dict)]
        for each in messages:
            each["role"] = "system" if each["role"] == "developer" else each["role"]
        return self._template.turns(messages)

    def _grammar(self, schema: str | None) -> Grammar | None:
        """Return the grammar of a schema, the same one for the same schema: it keeps what it found out."""
        if schema is None:
            return None
        if self._end is None:
            raise ValueError("this model has no token that ends an answer: ask for plain text")
        with self._making:
            if schema not in self._grammars:
                rule = json_schema(json.loads(schema))
                self._grammars[schema] = Grammar(rule, self._tokenizer, self._end)
                for oldest in [*self._grammars][:-KEPT]:
                    del self._grammars[oldest]
            return self._grammars[schema]

    @torch.inference_mode()
    def _drive(self) -> None:
        """Step the engine while there are requests, and sleep while there are none."""
        try:
            while True:
                self._wake.clear()
                if self._ending:  # read after clear: otherwise a stop in between is slept through
                    break
                self._look()
                if self._tickets:
                    self._step()
                else:
                    self._wake.wait()
        finally:
            with self._lock:
                for ticket in self._inbox:
                    ticket.accepted.set_exception(Busy())
                self._inbox.clear()
                for ticket in [*self._tickets]:
                    self._fail(ticket)
                self._thread, self._ending = None, False

    def _look(self) -> None:
        """Take new requests in, and those out that nobody wants."""
        while self._inbox:
            ticket = self._inbox.popleft()
            try:
                self.engine.submit(ticket.request)
            except Full:
                ticket.accepted.set_exception(Busy())
            except ValueError as error:
                ticket.accepted.set_exception(Refused(str(error)))
            except Exception as error:
                ticket.accepted.set_exception(error)
            else:
                self._tickets.append(ticket)
                ticket.accepted.set_result(None)
        for ticket in [each for each in self._tickets if not each.wanted]:
            self._drop(ticket)

    def _step(self) -> None:
        try:
            self.engine.step()
        except Exception:
            LOG.exception("a step of the engine failed, and with it all its requests")
            for ticket in [*self._tickets]:
                self._fail(ticket)
        for ticket in [*self._tickets]:
            self._deliver(ticket)

    def _deliver(self, ticket: Ticket) -> None:
        """Hand out the new tokens of a request."""
        request = ticket.request
        if request.state == "failed":
            LOG.error("a request failed", exc_info=request.error)
            self._fail(ticket)
            return
        for place in range(ticket.sent, len(request.answer)):
            token, finish = request.answer[place], None
            if token == request.end:
                finish = "stop"
            elif place + 1 == request.most:
                finish = "length"
            piece = Piece(self._bytes[token], *ticket.choice.said(place), finish)
            ticket.sent += 1
            if not ticket.deliver(piece) or finish:
                self._drop(ticket)
                return

    def _fail(self, ticket: Ticket) -> None:
        ticket.deliver(Piece(b"", finish="error"))
        self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        self._tickets.remove(ticket)
        self.engine.cancel(ticket.request)


def bytes_of(tokenizer: "Tokenizer", vocabulary: int) -> list[bytes]:
    """Return what each id adds to a text; special tokens, and ids that are no token, add nothing."""
    added = tokenizer.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special}
    known = [number for number in range(vocabulary) if tokenizer.id_to_token(number) is not None]
    pieces = dict(zip(known, as_bytes(tokenizer, known), strict=True))
    return [b"" if number in special else pieces.get(number, b"") for number in range(vocabulary)]
