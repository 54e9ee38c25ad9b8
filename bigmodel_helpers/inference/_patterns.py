"""Regular expressions over bytes, read one byte at a time: what may still follow is a regular expression again.

A regular expression is one of

- ``("nothing",)``, which no text fits, and ``("empty",)``, which the empty text fits;
- ``("one", frozenset of bytes)``;
- ``("then", (parts, ...))`` and ``("either", frozenset of parts)``;
- ``("repeat", part, least, most)``, most None for no limit.

Its derivative by a byte (Brzozowski 1964, doi:10.1145/321239.321249) is what may follow that byte. The derivatives
are the states of its automaton, and there are finitely many.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

Regex: TypeAlias = tuple
NOTHING: Regex = ("nothing",)
EMPTY: Regex = ("empty",)
NEVER = 10**6  # bytes: what takes so many, or has no end, is not written
_LONGEST, _DEEPEST, _MOST, _WIDEST = (
    10_000,
    30,
    10_000,
    10_000,
)  # characters, groups in groups, repeats, parts


def one_of(values: Iterable[int]) -> Regex:
    """Return what a single byte among `values` fits."""
    found = frozenset(values)
    return ("one", found) if found else NOTHING


def then(*parts: Regex) -> Regex:
    """Return what texts of all parts, one after the other, fit."""
    if NOTHING in parts:
        return NOTHING
    flat: list[Regex] = []
    for part in parts:
        flat += part[1] if part[0] == "then" else [part]
    flat = [part for part in flat if part != EMPTY]
    if len(flat) < 2:
        return flat[0] if flat else EMPTY
    return ("then", tuple(flat))


def either(*parts: Regex) -> Regex:
    """Return what a text of any part fits."""
    flat: set[Regex] = set()
    for part in parts:
        flat |= part[1] if part[0] == "either" else {part}
    flat.discard(NOTHING)
    if len(flat) > _WIDEST:
        raise ValueError(
            f"a pattern stands for more than {_WIDEST} others at once: repeat less within repeats"
        )
    if len(flat) < 2:
        return flat.pop() if flat else NOTHING
    return ("either", frozenset(flat))


def repeat(part: Regex, least: int = 0, most: int | None = None) -> Regex:
    """Return what `least` to `most` texts of a part, one after the other, fit."""
    if most == 0 or part == EMPTY or (part == NOTHING and not least):
        return EMPTY
    if part == NOTHING or least == most == 1:
        return part
    return ("repeat", part, least, most)


def literal(text: str) -> Regex:
    """Return what this text alone fits, in UTF-8."""
    try:
        return then(*(one_of([byte]) for byte in text.encode()))
    except UnicodeEncodeError:
        raise ValueError(f"{text!r:.99} has half a character, a surrogate: write it whole") from None


@lru_cache(2**14)
def nullable(regex: Regex) -> bool:
    """Say whether the empty text fits."""
    kind = regex[0]
    if kind == "then":
        return all(map(nullable, regex[1]))
    if kind == "either":
        return any(map(nullable, regex[1]))
    if kind == "repeat":
        return regex[2] == 0 or nullable(regex[1])
    return kind == "empty"


@lru_cache(2**14)
def shortest(regex: Regex) -> int:
    """Return how many bytes the shortest text that fits has; `NEVER` where there is none."""
    kind = regex[0]
    if kind == "then":
        return min(sum(map(shortest, regex[1])), NEVER)
    if kind == "either":
        return min(map(shortest, regex[1]))
    if kind == "repeat":
        return min(regex[2] * shortest(regex[1]), NEVER)
    return {"nothing": NEVER, "empty": 0, "one": 1}[kind]


@lru_cache(2**16)
def after(regex: Regex, byte: int) -> Regex:
    """Return what may follow the byte; `NOTHING` where no text begins with it."""
    kind = regex[0]
    if kind == "one":
        return EMPTY if byte in regex[1] else NOTHING
    if kind == "either":
        return either(*(after(part, byte) for part in regex[1]))
    if kind == "then":
        found = []
        for place, part in enumerate(regex[1]):
            found.append(then(after(part, byte), *regex[1][place + 1 :]))
            if not nullable(part):
                break
        return either(*found)
    if kind == "repeat":
        _, part, least, most = regex
        rest = repeat(part, max(least - 1, 0), None if most is None else most - 1)
        return then(after(part, byte), rest)
    return NOTHING


def of_bytes(regex: Regex, known: frozenset[int]) -> Regex:
    """Return what those texts of a regular expression fit that consist of `known` bytes."""
    kind = regex[0]
    if kind == "one":
        return one_of(regex[1] & known)
    if kind in ("then", "either"):
        return (then if kind == "then" else either)(*(of_bytes(part, known) for part in regex[1]))
    if kind == "repeat":
        return repeat(of_bytes(regex[1], known), *regex[2:])
    return regex


def _spans(*pairs: tuple[int, int]) -> Regex:
    return then(*(one_of(range(low, high + 1)) for low, high in pairs))


_MORE = (0x80, 0xBF)
#: One character beyond ASCII in UTF-8, as the Unicode Standard defines it (table 3-7).
BEYOND_ASCII = either(
    _spans((0xC2, 0xDF), _MORE),
    _spans((0xE0, 0xE0), (0xA0, 0xBF), _MORE),
    _spans((0xE1, 0xEC), _MORE, _MORE),
    _spans((0xED, 0xED), (0x80, 0x9F), _MORE),
    _spans((0xEE, 0xEF), _MORE, _MORE),
    _spans((0xF0, 0xF0), (0x90, 0xBF), _MORE, _MORE),
    _spans((0xF1, 0xF3), _MORE, _MORE, _MORE),
    _spans((0xF4, 0xF4), (0x80, 0x8F), _MORE, _MORE),
)
_ASCII = frozenset(range(128))
_CLASSES = {
    "d": frozenset(b"0123456789"),
    "w": frozenset(byte for byte in _ASCII if chr(byte).isalnum()) | {ord("_")},
    "s": frozenset(b" \t\n\r\f\v"),
    **{"n": frozenset(b"\n"), "t": frozenset(b"\t"), "r": frozenset(b"\r")},
}
_BOUNDS = re.compile(r"(?=\d|,\d)(\d{0,5})(?:(,)(\d{0,5}))?}", re.ASCII)
_REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1), "{": None}


def regex(pattern: str) -> Regex:
    r"""Read a pattern: the texts that fit are those of ``re.fullmatch(pattern, text, re.ASCII)``.

    It may have ``( ) (?: ) | [a-z] [^a-z] . * + ? {2} {2,} {2,5} \d \w \s \n \t \r`` and escaped signs.

    Raises:
        ValueError: it has something else, is damaged, or is too long.
    """
    if len(pattern) > _LONGEST:
        raise ValueError(f"a pattern of {len(pattern):,} characters: take at most {_LONGEST:,}")
    return _Parser(pattern).parse()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.place, self.depth = pattern, 0, 0

    def parse(self) -> Regex:
        found = self._either()
        if self._peek():
            raise self._error("has a ) without (", r"write \) for the sign")
        return found

    def _error(self, what: str, cure: str) -> ValueError:
        return ValueError(f"pattern {self.pattern!r:.99} {what} before character {self.place + 1}: {cure}")

    def _peek(self, count: int = 1) -> str:
        return self.pattern[self.place : self.place + count]

    def _next(self) -> str:
        sign = self._peek()
        if not sign:
            raise self._error("ends too early", "complete it")
        self.place += 1
        return sign

    def _either(self) -> Regex:
        parts = [self._then()]
        while self._peek() == "|":
            self._next()
            parts.append(self._then())
        return either(*parts)

    def _then(self) -> Regex:
        parts = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._one()))
        return then(*parts)

    def _repeated(self, part: Regex) -> Regex:
        if (sign := self._peek()) not in _REPEATS:
            return part
        self.place += 1
        least, most = _REPEATS[sign] or self._bounds()
        if self._peek() in _REPEATS:
            raise self._error("repeats a repeat", "put the first into ( ), and leave lazy ones out")
        return repeat(part, least, most)

    def _bounds(self) -> tuple[int, int | None]:
        found = _BOUNDS.match(self.pattern, self.place)
        if not found or max(int(number or 0) for number in found.group(1, 3)) > _MOST:
            raise self._error("has a { that is no {2}, {2,} or {2,5}", rf"count to {_MOST:,} or write \{{")
        self.place = found.end()
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else None if found[2] else least
        if most is not None and most < least:
            raise self._error(f"repeats {least} to {most} times", "swap the numbers")
        return least, most

    def _one(self) -> Regex:
        sign = self._next()
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._set()
        if sign == ".":
            return either(one_of(_ASCII - {10}), BEYOND_ASCII)
        if sign in "*+?{":
            raise self._error("repeats nothing", rf"write \{sign} for the sign")
        if sign in "^$":
            raise self._error(f"has {sign}", rf"leave it out, as all of a text must fit, or write \{sign}")
        return one_of(self._escaped()) if sign == "\\" else literal(sign)

    def _group(self) -> Regex:
        if self._peek() == "?" and self._peek(2) != "?:":
            raise self._error("has a group with (?", "use ( ) or (?: )")
        self.place += 2 * (self._peek() == "?")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._error(f"has more than {_DEEPEST} groups in each other", "take fewer")
        found = self._either()
        if self._peek() != ")":
            raise self._error("has a ( without )", r"write \( for the sign")
        self.place, self.depth = self.place + 1, self.depth - 1
        return found

    def _escaped(self) -> frozenset[int]:
        sign = self._next()
        if sign in _CLASSES:
            return _CLASSES[sign]
        if not sign.isascii() or sign.isalnum():
            raise self._error(f"has \\{sign}", r"of letters, \d \w \s \n \t \r can be escaped")
        return frozenset(sign.encode())

    def _set(self) -> Regex:
        negated = self._peek() == "^"
        self.place += negated
        found: frozenset[int] = frozenset()
        beyond: list[Regex] = []
        if self._peek() == "]":
            raise self._error("has an empty set", r"write \] for the sign")
        while (sign := self._next()) != "]":
            values = self._member(sign)
            if not values:
                beyond.append(literal(sign))
            if self._peek() == "-" and self._peek(2) != "-]":
                values = self._range(values)
            found |= values
        if negated and beyond:
            raise self._error("has a set that leaves out more than ASCII", "list what it may have")
        return either(one_of(_ASCII - found), BEYOND_ASCII) if negated else either(one_of(found), *beyond)

    def _member(self, sign: str) -> frozenset[int]:
        return self._escaped() if sign == "\\" else frozenset(map(ord, sign)) & _ASCII

    def _range(self, low: frozenset[int]) -> frozenset[int]:
        self.place += 1
        high = self._member(self._next())
        if len(low) != 1 or len(high) != 1 or min(high) < min(low):
            raise self._error("has a range that is none", "write two signs of ASCII, the smaller first")
        return frozenset(range(min(low), min(high) + 1))
