"""JSON schemas as stacks of what is still to be written, top first.

On a stack are regular expressions of `_patterns`, ``("ref", name)`` for what `Rule` knows by a name, and
``("items", stack of an item, least, most, whether the first)`` for the rest of an array.
"""

import json
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeAlias

from bigmodel_helpers.inference._patterns import (
    BEYOND_ASCII,
    EMPTY,
    NEVER,
    NOTHING,
    Regex,
    after,
    either,
    literal,
    nullable,
    of_bytes,
    one_of,
    regex,
    repeat,
    shortest,
    then,
)

Stack: TypeAlias = tuple[Regex, ...]
ROOT = "#"
_OPEN = ("ref", "items")
_BEGINNINGS = b'"{[-0123456789tfn'  # of what is written in JSON
_CLOSE, _SPACE = literal("]"), regex(" ?")
_COMMA = then(literal(","), _SPACE)
_CHARACTER = either(
    one_of({*range(32, 128)} - {*b'"\\'}),
    regex(r'\\(["\\/bfnrt]|u[0-9a-cA-Ce-fE-F][0-9a-fA-F]{3})'),  # \ud... may be half a character
    BEYOND_ASCII,
)
_INTEGER = regex("-?(0|[1-9][0-9]{0,15})")
_PLAIN = {
    "integer": _INTEGER,
    "number": then(_INTEGER, regex(r"(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?")),
    "boolean": regex("true|false"),
    "null": literal("null"),
}


def _fitting(stacks: list[Stack], byte: int) -> int:
    return sum(after(stack[0], byte) != NOTHING for stack in stacks)


class Rule:
    """What may be written: for each name the stacks, one of which it stands for; `ROOT` is the whole."""

    def __init__(self, ways: Mapping[str, tuple[Stack, ...]]) -> None:
        self._given, self._ways = ways, {}
        for name in self._order():
            self._ways[name] = [begun for way in ways[name] for begun in self._begun(way)]
            if (found := self._ways[name])[1:] and any(_fitting(found, byte) > 1 for byte in _BEGINNINGS):
                raise ValueError(f"{name} has alternatives that begin alike: take one object and one array")
        self._costs = dict.fromkeys(ways, NEVER)
        while (costs := {name: min(map(self.shortest, ways[name])) for name in ways}) != self._costs:
            self._costs = costs
        self.start: Stack = (("ref", ROOT),)
        if self.shortest(self.start) >= NEVER:
            raise ValueError("no answer that ends fits: let what contains itself be null or empty, too")

    def _order(self) -> list[str]:
        """Return the names, each after those with which it begins."""
        first = {
            name: {way[0][1] for way in ways if way[0][0] == "ref"} for name, ways in self._given.items()
        }
        try:
            return [*TopologicalSorter(first).static_order()]
        except CycleError as error:
            raise ValueError(f"{error.args[1][0]} is only itself: say what it is") from None

    def of_bytes(self, known: frozenset[int]) -> "Rule":
        """Return the rule for texts of `known` bytes."""

        def limited(top: Regex) -> Regex:
            if top[0] == "items":
                return ("items", tuple(map(limited, top[1])), *top[2:])
            return top if top[0] == "ref" else of_bytes(top, known)

        ways = {name: tuple(tuple(map(limited, way)) for way in ways) for name, ways in self._given.items()}
        return self if ways == self._given else Rule(ways)

    def _begun(self, stack: Stack) -> list[Stack]:
        """Return the stacks that begin with a regular expression, one of which this one stands for."""
        top, rest = stack[0], stack[1:]
        if top[0] == "ref":
            return [(*way, *rest) for way in self._ways[top[1]]]
        if top[0] != "items":
            return [stack]
        _, item, least, most, first = top
        left = ("items", item, max(least - 1, 0), None if most is None else most - 1, False)
        more = (*item, left, *rest) if first else (_COMMA, *item, left, *rest)
        close = [] if least else [(_CLOSE, *rest)]
        return close if most == 0 else close + self._begun(more)

    def step(self, stack: Stack, byte: int) -> Stack | None:
        """Return what is still to be written after the byte; None where it cannot stand."""
        while stack:
            top, rest = stack[0], stack[1:]
            if top[0] in _OPEN:
                begun = self._begun(stack)
                return next((found for way in begun if (found := self.step(way, byte)) is not None), None)
            following = after(top, byte)
            if following != NOTHING:
                return rest if following == EMPTY else (following, *rest)
            if not nullable(top):
                return None
            stack = rest
        return None

    def complete(self, stack: Stack) -> bool:
        """Say whether nothing needs to follow."""
        return self.shortest(stack) == 0

    def shortest(self, stack: Stack) -> int:
        """Return how many bytes the shortest end has; `NEVER` where there is none."""
        return min(sum(map(self._shortest, stack)), NEVER)

    def _shortest(self, top: Regex) -> int:
        if top[0] == "ref":
            return self._costs[top[1]]
        if top[0] == "items":
            _, item, least, _, first = top
            return least * (self.shortest(item) + 1) - bool(least and first) + 1
        return shortest(top)


_NOTES = {"$schema", "$comment", "title", "description", "default", "examples", "deprecated"}
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    **{kind: set() for kind in _PLAIN},
}
_LARGEST, _DEEPEST, _MOST_PARTS, _MOST_VALUES = 100_000, 30, 500, 500
_MOST = 10_000  # items or characters


def read(schema: Mapping[str, Any]) -> Rule:
    """Return what a JSON schema lets be written; `grammar.json_schema` says which it may be."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(
            "the schema cannot be written as JSON: take lists, texts, numbers, few in each other"
        ) from None
    if len(text) > _LARGEST:
        raise ValueError(f"the schema has {len(text):,} characters: take at most {_LARGEST:,}")
    return _Reader(json.loads(text)).rule()


class _Reader:
    def __init__(self, schema: Any) -> None:
        self.schema, self.parts = schema, 0
        self.ways: dict[str, tuple[Stack, ...]] = {}
        self.names = {ROOT}

    def rule(self) -> Rule:
        whole = {**self.schema} if isinstance(self.schema, dict) else self.schema
        others = whole.pop("$defs", {}) if isinstance(whole, dict) else {}
        if not isinstance(others, dict):
            raise ValueError("$defs is no object: give each part a name")
        defined = {f"{ROOT}/$defs/{name}": part for name, part in others.items()}
        self.names |= defined.keys()
        for name, part in {ROOT: whole, **defined}.items():
            self.ways[name] = (self._value(part, name, 0),)
        return Rule(self.ways)

    def _value(self, schema: Any, where: str, depth: int) -> Stack:
        self.parts += 1
        if depth > _DEEPEST or self.parts > _MOST_PARTS:
            raise _error(where, "is one part too many", f"at most {_DEEPEST} deep, {_MOST_PARTS} together")
        if not isinstance(schema, dict):
            raise _error(where, "is no object", "pass a schema with a type")
        key = next((each for each in ("$ref", "anyOf", "const", "enum", "type") if each in schema), None)
        if key is None:
            raise _error(where, "has no type", "say which values it takes")
        kinds = self._kinds(schema.get("type", [*_OF_TYPE]), where)
        known = {"const", "enum", "type"} if key in ("const", "enum") else {key}
        if key == "type":
            known = known.union(*(_OF_TYPE[kind] for kind in kinds))
        for word in sorted(schema.keys() - known - _NOTES):
            raise _error(where, f"has {word!r:.99}, which is not supported here", "leave it out")
        if key == "$ref":
            return self._ref(schema[key], where)
        if key in ("const", "enum"):
            return self._values(schema, kinds, where)
        if key == "anyOf":
            if not isinstance(schema[key], list) or not schema[key]:
                raise _error(where, "has an anyOf that is no list", "list the alternatives")
            parts = enumerate(schema[key])
            return self._joined(
                [self._value(part, f"{where}/anyOf/{n}", depth + 1) for n, part in parts], where
            )
        return self._joined([self._of_type(kind, schema, where, depth + 1) for kind in kinds], where)

    def _kinds(self, given: Any, where: str) -> list[str]:
        kinds = given if isinstance(given, list) else [given]
        if not kinds or not all(isinstance(kind, str) and kind in _OF_TYPE for kind in kinds):
            raise _error(where, f"has the type {given!r:.99}", f"take {', '.join(_OF_TYPE)}")
        return kinds

    def _joined(self, stacks: list[Stack], where: str) -> Stack:
        """Return the stack of several, one of which is written."""
        plain = [stack[0] for stack in stacks if len(stack) == 1 and stack[0][0] not in _OPEN]
        ways = [stack for stack in stacks if len(stack) > 1 or stack[0][0] in _OPEN]
        ways += [(either(*plain),)] if plain else []
        if len(ways) == 1:
            return ways[0]
        name = f"choice {len(self.ways)} at {where:.99}"
        self.ways[name] = tuple(ways)
        return (("ref", name),)

    def _ref(self, name: Any, where: str) -> Stack:
        if not isinstance(name, str) or name not in self.names:
            raise _error(where, f"has the $ref {name!r:.99}", "take # or #/$defs/ with a name that is there")
        return (("ref", name),)

    def _values(self, schema: dict[str, Any], kinds: list[str], where: str) -> Stack:
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list) or len(values) > _MOST_VALUES:
            raise _error(where, "has an enum that is no short list", f"list at most {_MOST_VALUES:,} values")
        values = [each for each in values if any(_fits(each, kind) for kind in kinds)]
        if "const" in schema:
            values = [each for each in values if json.dumps(each) == json.dumps(schema["const"])]
        if not values:
            raise _error(where, "has no value of its type", "add one, or change the type")
        return (either(*(literal(json.dumps(each, ensure_ascii=False)) for each in values)),)

    def _of_type(self, kind: str, schema: dict[str, Any], where: str, depth: int) -> Stack:
        if kind == "object":
            return self._object(schema, where, depth)
        if kind == "array":
            least, most = self._bounds(schema, "minItems", "maxItems", where)
            if "items" not in schema:
                raise _error(where, "has no items", "say which values the array holds")
            item = self._value(schema["items"], f"{where}/items", depth)
            return literal("["), ("items", item, least, most, True)
        if kind == "string":
            least, most = self._bounds(schema, "minLength", "maxLength", where)
            return (then(literal('"'), repeat(_CHARACTER, least, most), literal('"')),)
        return (_PLAIN[kind],)

    def _object(self, schema: dict[str, Any], where: str, depth: int) -> Stack:
        properties, required = schema.get("properties"), schema.get("required", [])
        if not isinstance(properties, dict):
            raise _error(where, "has no properties", "name them, as all of them are written")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _error(where, "has a required that lists no names", "list names of properties")
        for name in sorted({*required} - properties.keys()):
            raise _error(where, f"requires {name!r:.99} without describing it", "add it to properties")
        if not isinstance(schema.get("additionalProperties", False), bool):
            raise _error(where, "describes additionalProperties", "name all in properties")
        stack: Stack = ()
        for name, part in properties.items():
            before = literal("{") if not stack else _COMMA
            key = then(before, literal(json.dumps(name, ensure_ascii=False) + ":"), _SPACE)
            stack += (key, *self._value(part, f"{where}/properties/{name}", depth))
        return (*stack, literal("}" if stack else "{}"))

    def _bounds(self, schema: dict[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
        least, most = schema.get(low, 0), schema.get(high, _MOST)
        if not all(type(each) is int and 0 <= each <= _MOST for each in (least, most)) or most < least:
            raise _error(
                where, f"has {low} {least!r:.99}, {high} {most!r:.99}", f"take 0 to {_MOST:,}, in order"
            )
        return least, most if high in schema else None


def _error(where: str, what: str, cure: str) -> ValueError:
    return ValueError(f"the schema at {where!r:.99} {what}: {cure}")


def _fits(value: Any, kind: str) -> bool:
    """Say whether a value of JSON has a type of JSON schema."""
    if kind in ("integer", "number"):
        whole = kind == "number" or (isinstance(value, int | float) and value == int(value))
        return isinstance(value, int | float) and not isinstance(value, bool) and whole
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, types[kind])
