"""What one client may want, and the error that says so otherwise. Introduced in chapter 15."""

from dataclasses import dataclass
from typing import Any


class Problem(Exception):  # noqa: N818
    """An error that the client may read: one line, in OpenAI's format."""

    def __init__(
        self, status: int, message: str, field: str | None = None, code: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.field, self.code = status, field, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def json(self) -> dict[str, Any]:
        """Return the body that says it."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.field, "code": self.code}}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one client of a server may want. Times are in seconds.

    Args:
        body: bytes of a request.
        depth: brackets in brackets of its JSON.
        messages: of a chat.
        tokens: of an answer.
        choices: answers to one request.
        queue: tokens of an answer that wait until the client reads them.
        connections: at once.
        answer: from the last byte of a request to the end of its answer, which is cut then.
        upload: to send a request.
        stall: in which a client must read something of its answer.
    """

    body: int = 1_000_000
    depth: int = 32
    messages: int = 1000
    tokens: int = 1024
    choices: int = 8
    queue: int = 256
    connections: int = 64
    answer: float = 120
    upload: float = 10
    stall: float = 10


def show(value: Any) -> str:
    """Write a value for an error message: short, on one line, in ASCII."""
    if isinstance(value, list | dict):
        return f"a list of {len(value)}" if isinstance(value, list) else "an object"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def wrong(field: str, value: Any, cure: str) -> Problem:
    """Make the error about one field."""
    return Problem(400, f"{field} is {show(value)}: {cure}", field, "invalid_value")
