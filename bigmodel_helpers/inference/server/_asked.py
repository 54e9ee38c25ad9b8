"""What a client asked a server for: its JSON, read with suspicion. Introduced in chapter 15."""

import json
import re
from dataclasses import dataclass, fields
from typing import Any

from bigmodel_helpers.inference.server._checks import checks
from bigmodel_helpers.inference.server._limits import Limits, Problem, show, wrong

Prompt = str | list[int] | list[dict[str, str]]
STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How an engine is to choose tokens."""

    most: int
    fewer: bool = False  # are right where `most` do not fit, as nobody named a number
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    alternatives: int | None = None  # of each token, with their log probabilities; None: no log probabilities
    schema: str | None = None  # the JSON schema that the answer must have, as JSON


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that was understood."""

    model: str
    chat: bool
    prompt: Prompt
    parameters: Parameters
    choices: int
    stops: tuple[str, ...]
    stream: bool
    usage: bool  # at the end of a stream


def parse(body: bytes, depth: int) -> dict[str, Any]:
    """Return the object that the bytes are in JSON.

    Raises:
        Problem: they are not UTF-8 or not JSON, no object, or have more than `depth` brackets in brackets.
    """
    try:
        source, level = body.decode(), 0
        if source.count("[") + source.count("{") > depth:
            for part in STRUCTURE.finditer(source):
                level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part[0], 0)
                if level > depth:
                    raise Problem(
                        400, f"the JSON is nested deeper than {depth}: send it flatter", code="invalid_json"
                    )
        value = json.loads(source, parse_constant=lambda name: float("nan"))
    except UnicodeDecodeError as error:
        raise Problem(
            400, f"byte {error.start} is not UTF-8: encode the JSON so", code="invalid_json"
        ) from None
    except ValueError as error:  # JSONDecodeError, and whole numbers with thousands of digits
        where = f"character {error.pos}" if isinstance(error, json.JSONDecodeError) else "a number"
        raise Problem(
            400, f"the body is not JSON at {where}: check what sends it", code="invalid_json"
        ) from None
    if type(value) is not dict:
        raise Problem(
            400, f'the body is {show(value)}: send an object, {{"model": ...}}', code="invalid_json"
        )
    return value


def read(body: bytes, chat: bool, limits: Limits) -> Asked:
    """Understand a request.

    Raises:
        Problem: it cannot be understood; the message names the field, what is wrong, and what to send instead.
    """
    known, got = checks(chat, limits), {}
    for name, value in parse(body, limits.depth).items():
        if name not in known and name not in IGNORED and value is not None:
            cure = "leave it out; this server does not know it"
            raise Problem(400, f"the field {show(name)} is unknown: {cure}", show(name), "unknown_parameter")
        if name in known and value is not None:
            got[name] = known[name](name, value)
    for name in ("model", "messages" if chat else "prompt"):
        if name not in got:
            raise Problem(400, f"{name} is missing: send it", name, "missing_required_parameter")
    if "max_tokens" in got and "max_completion_tokens" in got:
        raise wrong("max_tokens", got["max_tokens"], "send only one of it and max_completion_tokens")
    if "top_logprobs" in got and not got.get("logprobs"):
        raise wrong("top_logprobs", got["top_logprobs"], "send logprobs: true, too")
    if "stream_options" in got and not got.get("stream"):
        raise Problem(400, "stream_options needs stream: true: send both", "stream_options", "invalid_value")
    return _asked(got, chat, limits)


def _asked(got: dict[str, Any], chat: bool, limits: Limits) -> Asked:
    given = got.get("max_completion_tokens", got.get("max_tokens"))
    alternatives = got.get("logprobs")
    if chat:
        alternatives = got.get("top_logprobs", 0) if alternatives else None
    same = {field.name for field in fields(Parameters)} - {"most", "fewer", "alternatives", "schema"}
    return Asked(
        model=got["model"],
        chat=chat,
        prompt=got["messages" if chat else "prompt"],
        parameters=Parameters(
            most=given or (limits.tokens if chat else min(16, limits.tokens)),
            fewer=given is None,
            alternatives=alternatives,
            schema=got.get("response_format"),
            **{name: got[name] for name in same & got.keys()},
        ),
        choices=got.get("n", 1),
        stops=got.get("stop", ()),
        stream=got.get("stream", False),
        usage=got.get("stream_options", False),
    )
