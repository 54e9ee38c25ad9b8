"""The fields of a request, each with its check. Introduced in chapter 15."""

import json
import math
from collections.abc import Callable
from typing import Any

from bigmodel_helpers.inference.server._limits import Limits, Problem, show, wrong

Check = Callable[[str, Any], Any]
ROLES = ("system", "developer", "user", "assistant")


def whole(low: int, high: int) -> Check:
    """Check for a whole number."""

    def check(field: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise wrong(field, value, f"take a whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """Check for a finite number."""

    def check(field: str, value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise wrong(field, value, f"take a number from {low:g} to {high:g}")
        return float(value)

    return check


def flag(field: str, value: Any) -> bool:
    """Check for true or false."""
    if type(value) is not bool:
        raise wrong(field, value, "take true or false")
    return value


def text(field: str, value: Any, longest: int | None = None) -> str:
    """Check for a text without halves of characters."""
    if type(value) is not str or (longest and not 1 <= len(value) <= longest):
        raise wrong(field, value, f"take a text of 1 to {longest} characters" if longest else "take a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        cure = "send whole characters"
        raise Problem(400, f"{field} has half of a surrogate pair: {cure}", field, "invalid_value") from None
    return value


def stops(field: str, value: Any) -> tuple[str, ...]:
    """Check for one text or up to four at which an answer stops."""
    several = value if type(value) is list else [value]
    if not 1 <= len(several) <= 4:
        raise wrong(field, value, "take a text or a list of 1 to 4")
    return tuple(text(field, each, 256) for each in several)


def stream_options(field: str, value: Any) -> bool:
    """Check for the one option of streams that there is."""
    if type(value) is not dict or set(value) - {"include_usage"}:
        raise wrong(field, value, 'take {"include_usage": true} or leave it out')
    return flag(f"{field}.include_usage", value.get("include_usage", False))


def response_format(field: str, value: Any) -> str | None:
    """Check for plain text, or for JSON with a schema, which becomes JSON again."""
    kind = value.get("type") if type(value) is dict else None
    if kind == "text" and len(value) == 1:
        return None
    named = value.get("json_schema") if kind == "json_schema" and len(value) == 2 else None
    named = named if type(named) is dict else {}
    if type(named.get("schema")) is not dict or named.keys() - {"name", "description", "schema", "strict"}:
        cure = (
            'take {"type": "text"} or {"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}'
        )
        raise wrong(field, kind or value, cure)
    return json.dumps(named["schema"])


def message(field: str, value: Any) -> dict[str, str]:
    """Check for one message of a chat; parts of text become one text."""
    if type(value) is not dict or value.get("role") not in ROLES:
        raise wrong(field, value, f'take {{"role": ..., "content": ...}} with a role of {", ".join(ROLES)}')
    for name, extra in value.items():
        if name not in ("role", "content", "name") and extra is not None:
            raise Problem(400, f"{field} has {show(name)}: only text is understood", field, "invalid_value")
    content = value.get("content")
    if type(content) is list:
        if any(type(part) is not dict or part.get("type") != "text" for part in content):
            raise wrong(f"{field}.content", content, 'take a text or parts of {"type": "text", "text": ...}')
        content = "".join(text(f"{field}.content", part.get("text")) for part in content)
    return {"role": value["role"], "content": text(f"{field}.content", content)}


def messages(most: int) -> Check:
    """Check for the messages of a chat."""

    def check(field: str, value: Any) -> list[dict[str, str]]:
        if type(value) is not list or not 1 <= len(value) <= most:
            raise wrong(field, value, f"take a list of 1 to {most} messages")
        return [message(f"{field}[{index}]", each) for index, each in enumerate(value)]

    return check


def prompt(field: str, value: Any) -> str | list[int]:
    """Check for a text or a list of token ids."""
    if type(value) is list and value and all(type(each) is int and 0 <= each < 2**31 for each in value):
        return value
    if type(value) is not str:
        raise wrong(field, value, "take one text, or one list of token ids from 0")
    return text(field, value)


def checks(chat: bool, limits: Limits) -> dict[str, Check]:
    """Return the check of each field."""
    shared: dict[str, Check] = {
        "model": lambda field, value: text(field, value, 256),
        "temperature": number(0, 2),
        "top_p": number(1e-6, 1),
        "seed": whole(-(2**63), 2**63 - 1),
        "max_tokens": whole(1, limits.tokens),
        "n": whole(1, limits.choices),
        "stop": stops,
        "stream": flag,
        "stream_options": stream_options,
        "frequency_penalty": number(-2, 2),
        "presence_penalty": number(-2, 2),
        "repetition_penalty": number(0.01, 100),
        "top_k": whole(0, 2**31),
        "min_p": number(0, 1),
        "response_format": response_format,
    }
    if not chat:
        return {**shared, "prompt": prompt, "logprobs": whole(0, 5)}
    own = {"messages": messages(limits.messages), "logprobs": flag, "top_logprobs": whole(0, 20)}
    return {**shared, **own, "max_completion_tokens": whole(1, limits.tokens)}
