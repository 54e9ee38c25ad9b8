"""Connections that cannot be held for ever. Introduced in chapter 15."""

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bigmodel_helpers.inference.server._limits import Limits, Problem
from bigmodel_helpers.inference.server._told import dump


class Connection(H11Protocol):
    """uvicorn's connection with three things more: a limit of time and of number, and errors in OpenAI's format.

    uvicorn waits without end for a request that never arrives, and for a reader that never reads.
    """

    def __init__(self, *arguments: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.limits = limits
        self.arrival: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it if there are too many."""
        super().connection_made(transport)
        # asyncio does so only for a socket that knows its protocol; without it each answer waits 40 ms
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "abort": transport.abort}
        if len(self.connections) > self.limits.connections:
            self._refuse(Problem(503, "too many connections: try again in 1 s", code="busy", retry_after="1"))
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what arrives."""
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        """Limit the time from the first byte of a request (or from the connection) to its last."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self.arrival is None:
            self.arrival = self.loop.call_later(2 * self.limits.upload, self.transport.abort)

    def _unwatch(self) -> None:
        if self.arrival:
            self.arrival.cancel()
        self.arrival = None

    def on_response_complete(self) -> None:
        """Limit the time in which the client takes the rest of an answer."""
        cycle = self.cycle
        super().on_response_complete()

        def abort_if_stuck() -> None:
            if self.cycle is cycle and self.transport.get_write_buffer_size():
                self.transport.abort()

        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.limits.stall, abort_if_stuck)

    def send_400_response(self, msg: str) -> None:
        """Answer to what is not HTTP."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(Problem(400, "this is not HTTP, or its header is too long: check what sends it"))
        else:  # it came after an answer that did not wait for the whole request
            self.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        body = dump(problem.json())
        headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = f"HTTP/1.1 {problem.status} Refused\r\n{lines}connection: close\r\n\r\n"
        self.transport.write(start.encode("ascii") + body)
        self.transport.close()
