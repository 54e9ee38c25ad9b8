"""For the tests of the server: an engine without a model, servers that leave nothing, and clients of all kinds."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from random import Random
from typing import Any, NamedTuple

import openai
import pytest

from bigmodel_helpers.inference.server import Server, serve
from bigmodel_helpers.inference.server._asked import Parameters, Prompt
from bigmodel_helpers.inference.server._run import Busy, Deliver, Refused
from bigmodel_helpers.inference.server._told import Piece

HELLO = [{"role": "user", "content": "hello"}]
LEAKS = re.compile(
    r'/home|/tmp|/usr|\.py|Traceback|File "|line \d|[A-Z]\w*Error|Exception|tarlette|vicorn|h11|asyncio'
)
WORDS = ["the", "sea", "is", "blue", "and", "night", "long", "so", "we", "sing", "of", "stars"]


def babble(prompt: Prompt, parameters: Parameters) -> Iterator[bytes]:
    """Yield words that depend on the prompt and the seed, without end."""
    random = Random(f"{prompt}{parameters.seed}")
    while True:
        yield random.choice(WORDS).encode() + b" "


def saying(*tokens: bytes) -> Callable[[Prompt, Parameters], Iterable[bytes]]:
    """Return an answer that is always the same."""
    return lambda prompt, parameters: tokens


def without_end(word: bytes = b"word " * 200) -> Callable[[Prompt, Parameters], Iterable[bytes]]:
    """Return an answer that never ends, of long tokens."""
    return lambda prompt, parameters: iter(lambda: word, None)


class Ticket:
    """A request of the engine."""

    def __init__(
        self, engine: "FakeEngine", words: Iterable[bytes], parameters: Parameters, deliver: Deliver
    ) -> None:
        self.engine, self.words, self.parameters, self.deliver = engine, iter(words), parameters, deliver
        self.prompt_tokens, self.made = 7, 0

    def cancel(self) -> None:
        """Give the place back."""
        self.engine.drop(self)


class FakeEngine:
    """Says `answer` (a function of prompt and parameters), `rate` words per second (0: as fast as it can)."""

    def __init__(
        self,
        answer: Callable[[Prompt, Parameters], Iterable[bytes]] = babble,
        *,
        rate: float = 500,
        places: int = 8,
        longest: int = 500_000,
    ) -> None:
        self.answer, self.rate, self.places, self.longest = answer, rate, places, longest
        self.tickets: list[Ticket] = []
        self.lock, self.work, self.ended = threading.Lock(), threading.Event(), False
        self.thread: threading.Thread | None = None

    def submit(self, prompt: Prompt, parameters: Parameters, deliver: Deliver) -> Ticket:
        """Accept a request."""
        if len(prompt) > self.longest:
            raise Refused(f"the prompt has {len(prompt)} characters, more than {self.longest}: shorten it")
        ticket = Ticket(self, self.answer(prompt, parameters), parameters, deliver)
        with self.lock:
            if len(self.tickets) >= self.places:
                raise Busy(1)
            self.tickets.append(ticket)
            if self.thread is None:
                self.ended, self.thread = False, threading.Thread(target=self._loop, daemon=True)
                self.thread.start()
        self.work.set()
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Forget a request."""
        with self.lock:
            if ticket in self.tickets:
                self.tickets.remove(ticket)

    def stop(self) -> None:
        """End the thread."""
        self.ended = True
        self.work.set()
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def _loop(self) -> None:
        while not self.ended:
            with self.lock:
                now = [*self.tickets]
            if not now:
                self.work.wait()
                self.work.clear()
            for ticket in now:
                piece = self._next(ticket)
                if not ticket.deliver(piece) or piece.finish:
                    self.drop(ticket)
            if self.rate and now:
                time.sleep(1 / self.rate)

    def _next(self, ticket: Ticket) -> Piece:
        try:
            word = next(ticket.words, None)
        except Exception:  # the mistake of one request must not hurt the others
            return Piece(b"", finish="error")
        if word is None:
            return Piece(b"", finish="stop")
        ticket.made += 1
        finish = "length" if ticket.made >= ticket.parameters.most else None
        count = ticket.parameters.alternatives
        if count is None:
            return Piece(word, finish=finish)
        others = [(word, -0.5), (b"\xf0\x9f", -1.5), (b"nothing", float("-inf"))]
        return Piece(word, -0.5, others[:count], finish)


def threads() -> set[threading.Thread]:
    """Return the threads that run, but for those that asyncio's helpers keep for the next event loop."""
    return {each for each in threading.enumerate() if not each.name.startswith("Any")}


def refused(url: str) -> bool:
    """Whether nobody listens at an address."""
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Server, FakeEngine]]]:
    """Start servers with a fake engine each, stop them at the end, and look at what they leave."""
    before, stack, engines, urls = threads(), ExitStack(), [], []

    def begin(*arguments, rate=500.0, places=8, **named) -> tuple[Server, FakeEngine]:
        engine = FakeEngine(*arguments, rate=rate, places=places)
        engines.append(engine)
        server = stack.enter_context(serve({"m": engine}, **named))
        urls.append(server.url)
        return server, engine

    yield begin
    stack.close()
    assert not any(engine.tickets for engine in engines), "a place was not given back"
    assert not [thread for thread in threads() - before if thread.is_alive()]
    assert all(map(refused, urls))


class Reply(NamedTuple):
    """An answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(server: Server, body: object = None, path: str = "/v1/chat/completions", **headers: Any) -> Reply:
    """Ask with one connection; a body, bytes or what becomes JSON, makes it a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=60)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    method = headers.pop("method", "GET" if body is None else "POST")
    try:
        connection.request(method, path, content, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def client(server: Server, key: str = "none") -> openai.OpenAI:
    """Return OpenAI's client for a server."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60)


class Raw:
    """A client that sends what it likes."""

    def __init__(self, server: Server, receive_buffer: int = 0) -> None:
        self.socket, self.rest = socket.socket(), b""
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *error) -> None:
        self.socket.close()

    def post(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> None:
        """Send a request."""
        lines = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        start = f"POST {path} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in lines.items() if value
        )
        self.socket.sendall(start.encode() + b"\r\n" + body)

    def answer(self) -> Reply:
        """Read one answer with a content-length."""
        got = self.rest  # what came behind the answer before
        while b"\r\n\r\n" not in got:
            part = self.socket.recv(65536)
            if not part:
                raise ConnectionError(f"closed after {got[:200]!r}")
            got += part
        start, _, body = got.partition(b"\r\n\r\n")
        first, *lines = start.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(body) < length:
            body += self.socket.recv(65536)
        if "content-length" in headers:
            body, self.rest = body[:length], body[length:]
        return Reply(int(first.split()[1]), headers, body)

    def ended(self, seconds: float = 60) -> bool:
        """Whether the server ends the connection in time; reads what comes."""
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                self.socket.settimeout(max(0.01, until - time.monotonic()))
                if not self.socket.recv(65536):
                    return True
        except ConnectionError:
            return True
        except TimeoutError:
            pass
        return False


def chat(content: object = "hello", **more: object) -> bytes:
    """The body of a request."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **more}).encode()


def until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether something becomes true; the time only bounds how long a test that fails takes."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def error_of(reply: Reply) -> dict[str, Any]:
    """Return the error of an answer, which has OpenAI's format and tells nothing about us."""
    error = json.loads(reply.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert len(reply.body) < 600
    assert not LEAKS.search(f"{error['message']} {error['param']} {error['code']}"), error
    assert reply.headers["content-type"] == "application/json"
    assert "server" not in reply.headers
    assert not any(name.startswith("access-control") for name in reply.headers)
    return error
