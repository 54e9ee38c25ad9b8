"""Language models behind OpenAI's interface, in a thread. Introduced in chapter 15."""

import asyncio
import atexit
import logging
import socket
import threading
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bigmodel_helpers.inference.server._connection import Connection
from bigmodel_helpers.inference.server._limits import Limits, Problem
from bigmodel_helpers.inference.server._run import Backend
from bigmodel_helpers.inference.server._service import Answers, Service, reply

LOG = logging.getLogger(__name__)
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
HTTP = {
    404: "there is nothing at this address: ask /v1/models, /v1/chat/completions or /v1/completions",
    405: "the address does not take this method: use one that the header allow names",
}


async def explain(request: Request, error: Exception) -> Response:
    """Answer to what went wrong, without a word about our insides."""
    if isinstance(error, HTTPException):
        with suppress(ClientDisconnect):
            await request.app.state.service.hear_out(request)
        problem = Problem(error.status_code, HTTP.get(error.status_code, "the request is wrong: check it"))
        problem.headers = dict(error.headers or {})
    elif isinstance(error, Problem):
        problem = error
    else:
        LOG.error("a request failed", exc_info=error)
        problem = Problem(500, "the server failed: try again, or look into its log", code="failed")
    return reply(problem.json(), problem.status, problem.headers)


def create_app(
    models: Mapping[str, Backend],
    *,
    key: str | None = None,
    limits: Limits | None = None,
    hosts: set[str] | None = None,
) -> Starlette:
    """Return the application that serves models; `serve` runs it.

    Args:
        models: what answers for each name, such as a `Hosted`; an adapter has a name of its own.
        key: what clients must send as a key; by default none.
        limits: how much a client may want.
        hosts: the names under which it may be called; by default any.

    Raises:
        ValueError: there is no model, a name is empty, or the key is.
    """
    if not models or not all(type(name) is str and name for name in models):
        raise ValueError(f"models are {[*models]!r:.99}: pass at least one, each with a name")
    if key == "":
        raise ValueError("the key is empty: pass None for a server without one")
    service = Service(models, key, limits or Limits(), hosts)
    routes = [
        Route("/", service.page),
        Route("/v1/models", service.list_models),
        Route("/v1/models/{name:path}", service.list_models),
        Route("/v1/chat/completions", Answers(service, chat=True), methods=["POST"]),
        Route("/v1/completions", Answers(service, chat=False), methods=["POST"]),
    ]
    handlers = dict.fromkeys((HTTPException, Problem, Exception), explain)
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # it would redirect to the host that the client names
    app.state.service = service
    return app


class Server:
    """A server in a thread; `serve` starts it. As a context manager it stops at the end.

    ``url`` is its address: a page for chats; clients take ``f"{url}/v1"`` as their base.
    """

    def __init__(self, app: Starlette, listener: socket.socket, limits: Limits) -> None:
        host, port = listener.getsockname()[:2]
        self.url = "http://" + (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        self._service: Service = app.state.service
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=partial(Connection, limits=limits),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # what matters is in our own log
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=16_384,
            )
        )
        self._ended = (
            threading.Event()
        )  # a join that Ctrl+C interrupts makes Python 3.11 think that a thread has ended
        self._thread = threading.Thread(target=self._run, args=(listener, limits), name=self.url, daemon=True)
        self._thread.start()
        while not self._uvicorn.started and not self._ended.is_set():
            time.sleep(0.005)
        if not self._uvicorn.started:
            raise RuntimeError("the server did not start: look into the log for the cause")
        atexit.register(self.stop)

    def _run(self, listener: socket.socket, limits: Limits) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            # a request waits in a thread until the running step ends; each connection has one at a time
            self._loop.set_default_executor(ThreadPoolExecutor(limits.connections, "request"))
            await self._uvicorn.serve(sockets=[listener])
            for connection in [*self._uvicorn.server_state.connections]:
                connection.transport.abort()
            await asyncio.sleep(0)  # in which the aborted connections close

        try:
            with listener:
                asyncio.run(run())
        finally:
            self._ended.set()

    def __repr__(self) -> str:
        return f"<Server {self.url}: {', '.join(self._service.models)}>"

    def stop(self) -> None:
        """Stop the server and its models: running answers end with an error, and the port is free again.

        It takes 2 s at most, unless a model is in the middle of a longer step; its thread ends after it.
        """

        def begin() -> None:
            self._service.stop()
            self._uvicorn.should_exit = True

        atexit.unregister(self.stop)
        if not self._ended.is_set():
            with suppress(RuntimeError):  # it has stopped already
                self._loop.call_soon_threadsafe(begin)
            if self._ended.wait(2):
                self._thread.join()
            for engine in self._service.models.values():
                engine.stop()

    def wait(self) -> None:
        """Return when the server has stopped."""
        while not self._ended.wait(0.2):  # on Windows Ctrl+C is noticed only between waits
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    models: Mapping[str, Backend],
    port: int = 0,
    host: str = "127.0.0.1",
    *,
    key: str | None = None,
    limits: Limits | None = None,
    hosts: set[str] | None = None,
) -> Server:
    """Start a server in a thread and return it when it answers; `Server.stop` ends it.

    Args:
        models: what answers for each name, such as a `Hosted`; an adapter has a name of its own.
        port: 0 takes a free one.
        host: the address to listen at; by default only programs of this machine reach it.
        key, limits: as in `create_app`.
        hosts: the names under which it may be called. By default, on the address that only this machine reaches,
            those of this machine, so that no page of the web can ask under another; elsewhere any.

    Raises:
        OSError: the port is taken, or the address is not one of this machine.
        ValueError: there is no model, a name is empty, the key is empty, or the port is no number of a port.

    ::

        hosted = server.Hosted(inference.Engine(model), template)
        running = server.serve({"my-model": hosted})
        print(running.url)  # open it in a browser; running.stop() ends it
    """
    if type(port) is not int or not 0 <= port < 65_536:
        raise ValueError(f"port is {port!r:.99}: take a number up to 65535; 0 takes a free one")
    if host in LOOPBACK:
        hosts = hosts or LOOPBACK
    elif key is None:
        warnings.warn(f"everybody who reaches {host} can use the models: pass key=", stacklevel=2)
    limits = limits or Limits()
    app = create_app(models, key=key, limits=limits, hosts=hosts)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        cause = f"cannot listen at {host}, port {port}: take port=0 or another host"
        raise OSError(error.errno, cause) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # so that a slow reader is noticed soon
    return Server(app, listener, limits)
