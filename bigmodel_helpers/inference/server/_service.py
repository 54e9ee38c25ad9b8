"""What a server does with a request: who may ask, what is read, how it is answered. Introduced in chapter 15."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from bigmodel_helpers.inference.server._asked import read
from bigmodel_helpers.inference.server._limits import Limits, Problem, show
from bigmodel_helpers.inference.server._run import Backend, Run
from bigmodel_helpers.inference.server._told import dump, event

PAGE = Path(__file__).with_name("chat.html")
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
Result = TypeVar("Result")


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer in JSON."""
    return Response(dump(value), status, headers, "application/json")


async def connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of the work, which ends early if the client leaves."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def stopping() -> Problem:
    """Make the error of a server that stops."""
    return Problem(503, "the server stops: ask another one", code="stopping")


def check_kind(request: Request) -> None:
    """Raise a `Problem` unless a request says that it is JSON."""
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "the body is not declared as JSON: send content-type: application/json")
    if headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "the body is compressed: send it as it is")


class Service:
    """The models that are served, and the answers that are on their way."""

    def __init__(
        self, models: Mapping[str, Backend], key: str | None, limits: Limits, hosts: set[str] | None
    ) -> None:
        self.models, self.key, self.limits, self.hosts = dict(models), key, limits, hosts
        self.runs: set[Run] = set()
        self.stopping, self.created = False, int(time.time())

    def check(self, request: Request) -> None:
        """Raise a `Problem` unless the request comes from where it may, with the right key."""
        host = request.headers.get("host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self.hosts is not None and name.lower() not in self.hosts:
            raise Problem(
                421, f"the host {show(name)} is not served here: pass hosts= to serve", code="wrong_host"
            )
        given = request.headers.get("authorization", "").encode("latin-1")
        if self.key is not None and not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
            message = "the key is missing or wrong: send the header authorization: Bearer KEY"
            raise Problem(401, message, code="invalid_api_key", www_authenticate="Bearer")
        if self.stopping:
            raise stopping()

    def engine(self, name: str) -> Backend:
        """Return the engine of a model."""
        if name not in self.models:
            known = ", ".join(show(each) for each in self.models)
            raise Problem(
                404, f"the model {show(name)} is unknown: take one of {known}", "model", "model_not_found"
            )
        return self.models[name]

    def card(self, name: str) -> dict[str, Any]:
        """Describe a model."""
        return {"id": name, "object": "model", "created": self.created, "owned_by": "this-server"}

    async def list_models(self, request: Request) -> Response:
        """Answer with all models, or with the one that the address names."""
        self.check(request)
        name = request.path_params.get("name")
        if name is not None:
            self.engine(name)
            return reply(self.card(name))
        return reply({"object": "list", "data": [self.card(each) for each in self.models]})

    async def page(self, request: Request) -> Response:
        """Answer with the page for chats, which asks for the key itself."""
        return HTMLResponse(await asyncio.to_thread(PAGE.read_bytes), headers=PAGE_HEADERS)

    async def hear_out(self, request: Request) -> None:
        """Read what is sent by a client that is refused; it would see a reset otherwise, and not the answer."""
        if "expect" not in request.headers:  # who asks first does not send
            with suppress(Problem):
                await self.body(request)

    async def body(self, request: Request) -> bytes:
        """Read a request, never more than is allowed."""
        headers, most = request.headers, self.limits.body
        large = Problem(413, f"the request is larger than {most} bytes: send a shorter one", code="too_large")
        told = headers.get("content-length", "0")
        told = int(told) if len(told) < 18 else 10**18
        if told > 10 * most or (told > most and "expect" in headers):
            raise large
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(self.limits.upload):
                async for part in request.stream():  # who still sends would see a reset, and not the answer
                    size += len(part)
                    if size > 10 * most:
                        raise large
                    if size <= most:
                        body += part
        except TimeoutError:
            late = Problem(408, f"the body took longer than {self.limits.upload:g} s: send it faster")
            raise (large if max(size, told) > most else late) from None
        if size > most:
            raise large
        return bytes(body)

    async def begin(self, request: Request, chat: bool) -> Run:
        """Understand a request and hand it to the engine."""
        try:
            self.check(request)
            check_kind(request)
        except Problem:
            await self.hear_out(request)
            raise
        body = await self.body(request)
        asked = await asyncio.to_thread(read, body, chat, self.limits)
        engine, run = self.engine(asked.model), Run(asked, self.limits)
        self.runs.add(run)
        try:
            await asyncio.to_thread(run.submit, engine)
        except BaseException:
            self.end(run)
            raise
        return run

    def end(self, run: Run) -> None:
        """Give the places of a request back."""
        self.runs.discard(run)
        run.stop(Problem(499, "the client has left"))

    def stop(self) -> None:
        """End all answers and accept no more."""
        self.stopping = True
        for run in self.runs:
            run.stop(stopping())


class Answers:
    """The address that answers: it reads, computes and writes, and ends all of it when the client leaves."""

    def __init__(self, service: Service, chat: bool) -> None:
        self.service, self.chat = service, chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer to one request."""
        with suppress(ClientDisconnect):
            run = await self.service.begin(Request(scope, receive), self.chat)
            try:
                if not run.asked.stream:
                    await reply(await connected(receive, run.whole()))(scope, receive, send)
                elif not await connected(receive, self._write(run.chunks(), send)):
                    scope["state"].get("abort", lambda: None)()  # a proper end would wait for the client
            finally:
                self.service.end(run)

    async def _write(self, chunks: AsyncIterator[bytes], send: Send) -> bool:
        """Send the events of a stream; False if the client does not read them."""
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for chunk in chunks:
            try:
                async with asyncio.timeout(self.service.limits.stall):
                    await send({"type": "http.response.body", "body": event(chunk), "more_body": True})
            except TimeoutError:
                return False
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True
