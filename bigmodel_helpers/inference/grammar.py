"""Answers of a form that is given: tokens after which none of that form can come are masked.

The form is a regular expression or a JSON schema. Both are read byte by byte, as a token may hold a part of a
character, and more than a part of a value. Introduced in chapter 15.
"""

from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor

from bigmodel_helpers.data import tokens as _tokens
from bigmodel_helpers.inference._patterns import NEVER, regex
from bigmodel_helpers.inference._requests import Choose, _greedy
from bigmodel_helpers.inference._rules import ROOT, Rule, Stack, read

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_STATES_PER_MASK = 64


def json_schema(schema: Mapping[str, Any]) -> Rule:
    """Return the rule for texts in JSON that are valid by a schema, for `Grammar`.

    What it writes is valid, but it does not write all that is valid: objects have all properties of the schema,
    required or not, in its order, and no others; there may be one space after a comma or a colon, and none elsewhere;
    numbers have at most 16 digits, 15 after the point, and two in the exponent.

    A schema may have ``type`` (one or a list) with ``properties``, ``required``, ``additionalProperties`` (true or
    false), ``items``, ``minItems``, ``maxItems``, ``minLength``, ``maxLength``; ``enum``, ``const``; ``anyOf`` with
    at most one object and one array; ``$ref`` to ``#`` or into its own ``$defs``, also to what contains it. Notes for
    readers, such as ``title``, are passed over; everything else is refused, as an answer might not fit it.

    Args:
        schema: as ``json.loads`` gives it. It is data: nothing in it is run, opened or fetched.

    Raises:
        ValueError: it has another keyword, is damaged, too large, or nothing that ends is valid; the message names
            the place and the keyword.

    >>> rule = inference.json_schema({"type": "array", "items": {"enum": ["cat", "dog"]}})
    """
    return read(schema)


class _State:
    """A stack that was met, and what is known of it."""

    __slots__ = ("__weakref__", "complete", "cost", "following", "stack")

    def __init__(self, stack: Stack, rule: Rule) -> None:
        self.stack, self.cost, self.complete = stack, rule.shortest(stack), rule.complete(stack)
        self.following: dict[int, ref[_State] | None] = {}


class Grammar:
    """A regular expression or a JSON schema over the tokens of a tokenizer. Introduced in chapter 15.

    A state says what has been written. It begins with `start`; `advance` gives the state after a token, and `allowed`
    the tokens that may come next. `chooser` does both for an answer. Special tokens and others that were added to a
    tokenizer are never allowed, except `end`.

    Valid is not true: the form of an answer is certain, what it says is not. Masking also changes with which
    probability the network gives each of the answers that are allowed, near the end of a budget most.

    Args:
        rule: a regular expression that all of the text must fit, as in ``re.fullmatch(rule, text, re.ASCII)``, or
            what `json_schema` returned. A regular expression may have ``( ) (?: ) | [a-z] [^a-z] . * + ? {2} {2,}
            {2,5} \\d \\w \\s \\n \\t \\r`` and escaped signs. Take it from nobody you do not trust: some are slow.
        tokenizer: of byte-level BPE.
        end: the token that ends an answer.
        kept: masks that are kept for states met again, 4 bytes per token each, and 64 times as many states; the
            oldest are dropped.

    Attributes:
        start: the state before the first token.
        end: the token that ends an answer.
        vocabulary: size of the masks.

    Raises:
        ValueError: the rule is damaged or has what is not supported, `end` is no token, `kept` is no positive whole
            number, or the tokens cannot spell what the rule asks for.
        TypeError: `rule` is something else.

    >>> tokenizer = tokens.train_bpe(["yes yes no"], 260, ["<|end|>"])
    >>> grammar = inference.Grammar("yes|no", tokenizer, end=0)
    >>> [tokenizer.id_to_token(number) for number in grammar.allowed(grammar.start).nonzero()]
    ['n', 'y', 'yes', 'no']
    """

    def __init__(self, rule: str | Rule, tokenizer: "Tokenizer", end: int, *, kept: int = 256) -> None:
        if not isinstance(rule, str | Rule):
            raise TypeError(f"rule is {type(rule).__name__}: pass a regular expression or json_schema(...)")
        words = _words(tokenizer)
        if type(end) is not int or not 0 <= end < len(words):
            raise ValueError(f"end is {end!r:.99}: take tokenizer.token_to_id of a special token")
        if type(kept) is not int or kept < 1:
            raise ValueError(f"kept is {kept!r:.99}: take a whole number of at least 1")
        rule = Rule({ROOT: ((regex(rule),),)}) if isinstance(rule, str) else rule
        words[end] = b""
        try:
            self._rule = rule.of_bytes(frozenset(word[0] for word in words if len(word) == 1))
        except ValueError:
            raise ValueError("the tokens cannot spell what fits: the tokenizer lacks bytes for it") from None
        self.end, self.vocabulary, self._kept = end, len(words), kept
        self._words, self._tree = words, _tree(tuple(words))
        self._states: OrderedDict[Stack, _State] = OrderedDict()
        self._costs: OrderedDict[Stack, Tensor] = OrderedDict()
        self.start = self._state(self._rule.start)

    def allowed(self, state: _State, left: int | None = None) -> Tensor:
        """Return the tokens that may come next, (vocabulary,) bool, on the CPU.

        Args:
            state: `start`, or what `advance` returned.
            left: how many tokens the answer may still have, with `end`; None for no limit. A token is allowed only if
                an end fits after it, counted as if each of its bytes were a token.
        """
        room = NEVER - 1 if left is None else min(left - 2, NEVER - 1)
        mask = self._costs_after(state) <= room
        mask[self.end] = state.complete and (left is None or left >= 1)
        return mask

    def advance(self, state: _State, token: int) -> _State:
        """Return the state after a token.

        Raises:
            ValueError: the token cannot come there, or is `end`.
        """
        found = state if 0 <= token < self.vocabulary and self._words[token] else None
        for byte in self._words[token] if found else b"":
            found = found and self._step(found, byte)
        if found is None:
            raise ValueError(f"token {token} cannot come here: choose one that is allowed")
        return found

    def chooser(self, prompt: int, most: int, choose: Choose = _greedy) -> Choose:
        """Return a function that chooses the tokens of an answer so that it fits and ends within a budget.

        Called with all tokens so far and the scores of the next one, (vocabulary,), it returns the next token. It is
        what a `Request` takes as ``choose``, and may serve several answers to prompts of the same length.

        Args:
            prompt: how many tokens stand before the answer.
            most: how many tokens the answer may have, with `end`.
            choose: chooses from tokens so far and masked scores, -inf where a token may not come; by default
                that with the highest score.

        Raises:
            ValueError: no answer fits into `most`, or `prompt` is no whole number.
        """
        if type(prompt) is not int or type(most) is not int or prompt < 0:
            raise ValueError(
                f"prompt is {prompt!r:.99}, most is {most!r:.99}: count the tokens, such as len(ids)"
            )
        if most <= self.start.cost:
            raise ValueError(
                f"the shortest answer may need {self.start.cost + 1} tokens, most is {most}: allow more"
            )
        known: tuple[list[int], _State] = ([], self.start)

        def chosen(tokens: list[int], scores: Tensor) -> int:
            nonlocal known
            answer = [*tokens[prompt:]]
            state, new = (known[1], answer[-1:]) if known[0] == answer[:-1] else (self.start, answer)
            for token in new:
                state = self.advance(state, token)
            known = answer, state
            mask = self._fitted(self.allowed(state, most - len(answer)), scores)
            masked = scores.masked_fill(~mask, -torch.inf)
            token = choose(tokens, masked)
            if not mask[token]:
                raise ValueError(
                    f"token {token} was chosen and cannot come here: choose by the masked scores"
                )
            return token

        return chosen

    def _fitted(self, mask: Tensor, scores: Tensor) -> Tensor:
        missing = len(scores) - self.vocabulary
        if scores.ndim != 1 or missing < 0:
            raise ValueError(
                f"scores of shape {tuple(scores.shape)} for {self.vocabulary} tokens: pass one row, "
                "of the network that the tokenizer belongs to"
            )
        return torch.cat([mask, mask.new_zeros(missing)]).to(scores.device)

    def _state(self, stack: Stack) -> _State:
        if (found := self._states.get(stack)) is None:
            found = self._states[stack] = _State(stack, self._rule)
            if len(self._states) > _STATES_PER_MASK * self._kept:
                self._states.popitem(last=False)
        return found

    def _step(self, state: _State, byte: int) -> _State | None:
        if byte in state.following:
            link = state.following[byte]
            if link is None or (found := link()) is not None:
                return link and found
        stack = self._rule.step(state.stack, byte)
        found = None if stack is None else self._state(stack)
        state.following[byte] = None if found is None else ref(found)
        return found

    def _costs_after(self, state: _State) -> Tensor:
        """Return how many bytes the shortest end has after each token, (vocabulary,) int32."""
        if (found := self._costs.get(state.stack)) is not None:
            return found
        costs, todo = [NEVER] * self.vocabulary, [(self._tree, state)]
        while todo:
            node, here = todo.pop()
            for byte, below in node.items():
                if byte < 0:
                    for token in below:
                        costs[token] = here.cost
                elif (following := self._step(here, byte)) is not None:
                    todo.append((below, following))
        found = self._costs[state.stack] = torch.tensor(costs, dtype=torch.int32)
        if len(self._costs) > self._kept:
            self._costs.popitem(last=False)
        return found


def _words(tokenizer: "Tokenizer") -> list[bytes]:
    """Return the bytes of each token, none for what is no token or was added to the tokenizer."""
    ids = sorted({*tokenizer.get_vocab().values()} - tokenizer.get_added_tokens_decoder().keys())
    words = [b""] * (max(tokenizer.get_vocab().values(), default=-1) + 1)
    for number, word in zip(ids, _tokens.as_bytes(tokenizer, ids), strict=True):
        words[number] = word
    return words


@lru_cache(2)
def _tree(words: tuple[bytes, ...]) -> dict[int, Any]:
    """Return the tokens by their bytes: a dict for each byte that may follow, and the tokens that end at -1."""
    tree: dict[int, Any] = {}
    for number, word in enumerate(words):
        node = tree
        for byte in word:
            node = node.setdefault(byte, {})
        if word:
            node.setdefault(-1, []).append(number)
    return tree
