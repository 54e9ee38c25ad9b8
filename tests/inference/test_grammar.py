"""Answers of a given form: patterns against Python's, answers of a random network, and what is refused."""

import gc
import json
import random
import re
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from bigmodel_helpers.data import tokens
from bigmodel_helpers.inference import _patterns
from bigmodel_helpers.inference.engine import Engine, Request
from bigmodel_helpers.inference.grammar import Grammar, json_schema
from bigmodel_helpers.inference.packed import Decoder, Packed
from bigmodel_helpers.models import Transformer, TransformerConfig

PET = {
    "title": "Pet",
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["cat", "dog", "catdog", 1, 12, None, "é"]},
        "tame": {"type": "boolean"},
        "owner": {
            "type": "object",
            "properties": {"city": {"type": ["string", "null"]}, "age": {"type": "integer"}},
            "required": ["city"],
        },
    },
    "required": ["name", "kind", "tame", "owner"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name", "parts"],
}
CHAIN = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
}
NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 4}
DATE = r"(\d{4}-\d{2}-\d{2}|never)( \w+)*"


def array(schema: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"type": "array", "items": schema, **others}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = array(schema)
    return schema


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [
        json.dumps(PET),
        'cat dog "name": "kind": null, "tame": true, "parts": [{ never 2024-01-31 héé é',
    ]
    return tokens.train_bpe(texts * 3, 340, ["<|end|>", "<|other|>"])


def text_of(tokenizer: Tokenizer, ids: list[int]) -> str:
    return b"".join(tokens.as_bytes(tokenizer, ids)).decode()


def random_choice(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def choose(before: list[int], scores: Tensor) -> int:
        return int(torch.multinomial(scores.softmax(0), 1, generator=generator))

    return choose


# -------------------------------------------------------------------------------- regular expressions

PATTERNS = (
    r"a*b", r"(ab|a)*c?", r"[a-c]{2,4}d", r"\d+(\.\d{1,2})?", r"(a|b)*abb", r"[^ab]+", r"(a?){3}b",
    r"x|(y(z|)){0,2}", r"-?(0|[1-9]\d*)", r"\w+@(\w|\.[da])*", r"(a*)*b", r"[a\-c]+", r"(a|aa|aaa)(b{2,})?",
    r".*", r"[äöa-c]+\s?", r"(?:é|z){1,2}[^\n.]", r"a{,2}b?", r"(a{1,2}){2}", r"((a|b?)c){2,3}", "",
    r"[\]a-]?", r"(|a)+b", r"[\d.]*[-a]\n?", r"a{0}b{1}",
)  # fmt: skip


def after_text(regex: tuple, text: str) -> tuple:
    for byte in text.encode():
        regex = _patterns.after(regex, byte)
    return regex


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_fits_what_fits_in_python(pattern: str) -> None:
    chance, regex, python = random.Random(0), _patterns.regex(pattern), re.compile(pattern, re.ASCII)
    found = set()
    for _ in range(200):
        text, left = "", regex
        for _ in range(chance.randrange(12)):
            signs = chance.sample("abcdxyz01.-@äé€😀\n ", 18)
            fitting = [sign for sign in signs if after_text(left, sign) != _patterns.NOTHING]
            text += (fitting if fitting and chance.random() < 0.92 else signs)[0]
            left = after_text(regex, text)
        fits = python.fullmatch(text) is not None
        found.add(fits)
        assert _patterns.nullable(left) is fits, text
        assert (_patterns.shortest(left) == 0) is fits, text
    assert True in found


def test_the_shortest_text_is_as_short_as_it_can_be() -> None:
    wanted = {r"a*b": 1, r"(ab|cde){3}f?": 6, r"é": 2, r".": 1, r"[é€]": 2, r"(a?){9}": 0, "a{2000}": 2000}
    assert {pattern: _patterns.shortest(_patterns.regex(pattern)) for pattern in wanted} == wanted


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a)", "has a ) without ("),
        ("(a", "has a ( without )"),
        ("[a", "ends too early"),
        ("a\\", "ends too early"),
        ("*a", "repeats nothing"),
        ("a**", "repeats a repeat"),
        ("a+?", "repeats a repeat"),
        ("a{x}", "has a { that is no {2}"),
        ("a{,}", "has a { that is no {2}"),
        ("a{2", "has a { that is no {2}"),
        ("a{99999}", "has a { that is no {2}"),
        ("a{3,2}", "repeats 3 to 2 times"),
        ("^a$", "has ^ before character 2: leave it out"),
        ("(?=a)", "has a group with (?"),
        ("(?P<n>a)", "has a group with (?"),
        (r"\bword", r"has \b"),
        (r"(a)\1", r"has \1"),
        ("[]", "has an empty set"),
        ("[z-a]", "has a range that is none"),
        ("[a-é]", "has a range that is none"),
        (r"[a-\d]", "has a range that is none"),
        ("[^é]", "has a set that leaves out more than ASCII"),
        ("(" * 40 + ")" * 40, "has more than 30 groups in each other"),
        ("a" * 10_001, "a pattern of 10,001 characters: take at most 10,000"),
        ("\ud800", "has half a character"),
    ],
)
def test_patterns_that_are_not_supported_are_refused(tokenizer: Tokenizer, pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]{,300}: [^\n]*$") as caught:
        Grammar(pattern, tokenizer, 0)
    assert why in str(caught.value)


# ------------------------------------------------------------------------------------------- answers


SHORTEST = {
    "pet": (PET, '{"name":"","kind":1,"tame":true,"owner":{"city":"","age":0}}'),
    "tree": (TREE, '{"name":"","parts":[]}'),
    "chain": (CHAIN, '{"value":0,"next":null}'),
    "numbers": (NUMBERS, "[0]"),
    "date": (DATE, "never"),
}


@pytest.mark.parametrize("name", SHORTEST)
def test_answers_of_a_random_network_fit(tokenizer: Tokenizer, name: str) -> None:
    rule, shortest = SHORTEST[name]
    least = len(shortest) + 1
    grammar = Grammar(rule if isinstance(rule, str) else json_schema(rule), tokenizer, 0)
    generator, lengths = torch.Generator().manual_seed(0), []
    for number in range(50):
        most = least + number * (number % 3)
        choose, ids = grammar.chooser(2, most, random_choice(number)), [7, 7]
        while len(ids) == 2 or ids[-1] != 0:
            ids.append(choose(ids, 3 * torch.randn(350, generator=generator)))
        lengths.append(len(ids) - 2)
        assert lengths[-1] <= most
        assert not {1, *range(340, 350)} & {*ids}
        text = text_of(tokenizer, ids[2:-1])
        if isinstance(rule, str):
            assert re.fullmatch(rule, text, re.ASCII)
        else:
            jsonschema.validate(json.loads(text), rule)
    assert len({*lengths}) > 4
    with pytest.raises(
        ValueError, match=rf"^the shortest answer may need {least} tokens, most is {least - 1}: "
    ):
        grammar.chooser(2, least - 1)


def accepts(grammar: Grammar, text: bytes, left: int | None = None) -> bool:
    state = grammar.start
    try:
        for byte in text:
            state = grammar.advance(state, grammar._words.index(bytes([byte])))
    except ValueError:
        return False
    return bool(grammar.allowed(state, left)[grammar.end])


def test_json_that_is_accepted_is_valid(tokenizer: Tokenizer) -> None:
    grammar, chance, accepted = Grammar(json_schema(PET), tokenizer, 0), random.Random(0), 0
    pet = {"name": 'Ä "\\ 😀\t', "kind": "catdog", "tame": True, "owner": {"city": None, "age": -3}}
    text = json.dumps(pet, ensure_ascii=False, separators=(",", ": ")).encode()
    assert accepts(grammar, text)
    assert accepts(grammar, text.replace(b": ", b":").replace(b'"catdog"', b"12"))
    for _ in range(600):
        changed, place = bytearray(text), chance.randrange(len(text))
        changed[place : place + chance.randrange(2)] = chance.choice(
            [b"", b'"', b"\\", b" ", b"0", b"\xc3", b"}"]
        )
        if accepts(grammar, bytes(changed)):
            jsonschema.validate(json.loads(bytes(changed).decode()), PET)
            accepted += 1
    assert accepted > 20


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer"}, ["0", "-12"], ["01", "1.0", "+1", ""]),
        ({"type": "number"}, ["-0.5e+10", "3"], [".5", "1.", "1e"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"éa"', r'"\n\u00e9\\"'],
         ['"a"', '"abcd"', r'"\ud800a"']),
        ({"type": "string"}, ['""', '"\x7f"'], ['"\n"', '"a', '"\\x"']),
        ({"const": {"a": [1, "é"]}}, ['{"a": [1, "é"]}'], ['{"a":[1]}']),
        ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
        ({"type": "integer", "enum": [1.0, True, 2]}, ["1.0", "2"], ["true"]),
        (array({"type": "null"}, minItems=2, maxItems=3), ["[null,null]", "[null, null,null]"],
         ["[null]", "[null,null,null,null]", "[]"]),
        (array({"type": "null"}, maxItems=0), ["[]"], ["[null]"]),
        ({"type": "object", "properties": {}}, ["{}"], ["{ }"]),
        ({"type": "object", "properties": {"a/b": {"type": "null"}, "b": {"type": "null"}}},
         ['{"a/b":null, "b": null}'], ['{"b":null}', '{"a/b":null}']),
        ({"type": ["integer", "array"], "items": {"type": "integer"}}, ["1", "[1]"], ["[[1]]"]),
        ({"anyOf": [{"enum": ["ab", "ac"]}, {"const": "abc"}, array({"$ref": "#"})]},
         ['"ab"', '"abc"', '[["ac"]]'], ['"a"']),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_each_keyword_is_kept(
    tokenizer: Tokenizer, schema: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    grammar = Grammar(json_schema(schema), tokenizer, 0)
    for text in right:
        jsonschema.validate(json.loads(text), schema)
    assert {text: accepts(grammar, text.encode()) for text in right + wrong} == {
        **dict.fromkeys(right, True),
        **dict.fromkeys(wrong, False),
    }


STRING = {"type": "string"}
LOOP = {"type": "object", "properties": {"next": {"$ref": "#"}}}
REFUSED = {
    "pattern": (STRING | {"pattern": "a"}, "has 'pattern', which is not supported here: leave it out"),
    "format": (STRING | {"format": "date"}, "has 'format'"),
    "minimum": ({"type": "integer", "minimum": 3}, "has 'minimum'"),
    "oneOf": ({"type": "integer", "oneOf": []}, "has 'oneOf'"),
    "inside": (array(STRING | {"pattern": "a"}), "at '#/items' has 'pattern'"),
    "of another type": ({"type": "integer", "maxLength": 3}, "has 'maxLength'"),
    "enum and length": ({"enum": ["a"], "maxLength": 3}, "has 'maxLength'"),
    "ref and more": ({"$ref": "#", "type": "null"}, "has 'type'"),
    "id": ({"type": "null", "$id": "x"}, "has '$id'"),
    "defs below": (array({"type": "null", "$defs": {}}), "has '$defs'"),
    "a file": ({"$ref": "other.json"}, "has the $ref 'other.json': take # or #/$defs/"),
    "the network": ({"$ref": "https://example.com/s.json#"}, "has the $ref 'https"),
    "deeper": (array({"$ref": "#/items"}), "has the $ref '#/items'"),
    "no such": ({"$ref": "#/$defs/a", "$defs": {"b": STRING}}, "has the $ref '#/$defs/a'"),
    "strange ref": ({"$ref": ["#"]}, "has the $ref ['#']"),
    "endless": (LOOP, "no answer that ends fits"),
    "itself": ({"$ref": "#"}, "# is only itself"),
    "itself by turns": ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#"}, STRING]}}}, "is only itself"),
    "alike": ({"anyOf": [array(STRING), array({"type": "null"})]}, "has alternatives that begin alike"),
    "no type": ({}, "at '#' has no type: say which values"),
    "true": (array(True), "at '#/items' is no object"),
    "a strange type": ({"type": "date"}, "has the type 'date': take object, array"),
    "no types": ({"type": []}, "has the type []"),
    "no properties": ({"type": "object"}, "has no properties: name them"),
    "no items": ({"type": "array"}, "has no items"),
    "a map": ({"type": "object", "properties": {}, "additionalProperties": STRING}, "describes additionalProperties"),
    "required": ({"type": "object", "properties": {}, "required": ["a"]}, "requires 'a' without describing it"),
    "required is text": ({"type": "object", "properties": {}, "required": "a"}, "has a required that lists no names"),
    "min above max": (STRING | {"minLength": 3, "maxLength": 2}, "has minLength 3, maxLength 2: take 0 to 10,000"),
    "a huge max": (array(STRING, maxItems=10**9), "maxItems 1000000000"),
    "half an item": (array(STRING, minItems=0.5), "minItems 0.5"),
    "an empty enum": ({"enum": []}, "has no value of its type"),
    "no value of the type": ({"type": "null", "enum": [1]}, "has no value of its type"),
    "a long enum": ({"enum": [*range(501)]}, "list at most 500 values"),
    "a damaged anyOf": ({"anyOf": {}}, "has an anyOf that is no list"),
    "damaged defs": ({"type": "null", "$defs": []}, "$defs is no object"),
    "no JSON": ({"const": {1, 2}}, "the schema cannot be written as JSON"),
    "infinite": ({"const": float("inf")}, "the schema cannot be written as JSON"),
    "half a character": ({"const": "\ud800"}, "has half a character"),
    "deep": (nested(40), "is one part too many: at most 30 deep"),
    "very deep": (nested(100_000), "the schema cannot be written as JSON"),
    "wide": ({"type": "object", "properties": {str(n): STRING for n in range(600)}}, "500 together"),
    "large": ({"const": "a" * 100_000}, "characters: take at most 100,000"),
    "a list": ([], "at '#' is no object"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_schemas_that_are_not_supported_are_refused(name: str) -> None:
    schema, why = REFUSED[name]
    with pytest.raises(ValueError, match=r"^[^\n]{,400}: [^\n]*$") as caught:
        json_schema(schema)
    assert why in str(caught.value)


def test_long_recursion_and_many_parts_do_no_harm(tokenizer: Tokenizer) -> None:
    grammar = Grammar(json_schema({"anyOf": [array({"$ref": "#"}), {"type": "null"}]}), tokenizer, 0)
    assert accepts(grammar, b"[" * 150 + b"]" * 150)
    names = [f"p{number}" for number in range(100)]
    defs = {name: array({"$ref": f"#/$defs/{later}"}) for name, later in pairwise(names)}
    chain = json_schema({"$ref": "#/$defs/p0", "$defs": defs | {names[-1]: {"type": "null"}}})
    assert Grammar(chain, tokenizer, 0).start.cost == 2
    texts = [f"{number} {'x' * 20}" for number in range(500)]
    assert accepts(Grammar(json_schema({"enum": texts}), tokenizer, 0), json.dumps(texts[-1]).encode())


# ------------------------------------------------------------------------------------------- budgets


def test_a_token_is_allowed_if_an_end_fits_after_it(tokenizer: Tokenizer) -> None:
    grammar = Grammar("a{3}|bcd{4}", tokenizer, 0)
    words = {word: number for number, word in enumerate(grammar._words)}
    wanted = {None: b"ab", 8: b"ab", 7: b"ab", 6: b"a", 4: b"a", 3: b"", 0: b""}
    for left, letters in wanted.items():
        allowed = {*grammar.allowed(grammar.start, left).nonzero().flatten().tolist()}
        assert allowed & {words[bytes([byte])] for byte in range(256)} == {
            words[bytes([byte])] for byte in letters
        }
    done = grammar.start
    for _ in range(3):
        done = grammar.advance(done, words[b"a"])
    assert grammar.allowed(done).nonzero().tolist() == grammar.allowed(done, 1).nonzero().tolist() == [[0]]
    assert not grammar.allowed(done, 0).any()
    with pytest.raises(ValueError, match=r"^token 0 cannot come here: choose one that is allowed$"):
        grammar.advance(done, 0)


def test_what_never_ends_is_left_out_without_a_budget_too(tokenizer: Tokenizer) -> None:
    schema = {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "null"}]}
    schema["$defs"] = {"loop": array({"$ref": "#/$defs/loop"}, minItems=1)}
    grammar = Grammar(json_schema(schema), tokenizer, 0)
    allowed = grammar.allowed(grammar.start).nonzero().flatten().tolist()
    assert allowed
    assert all(b"null".startswith(grammar._words[token]) for token in allowed)


def test_bytes_that_no_token_has_alone_are_not_needed(tokenizer: Tokenizer) -> None:
    class Poor:
        """The tokenizer without the token of the byte x."""

        decoder, get_added_tokens_decoder, id_to_token = (
            "ByteLevel",
            tokenizer.get_added_tokens_decoder,
            tokenizer.id_to_token,
        )

        def get_vocab(self) -> dict[str, int]:
            return {word: number for word, number in tokenizer.get_vocab().items() if word != "x"}

    grammar = Grammar("(x|yy)(x|)z", Poor(), 0)
    assert grammar.start.cost == 3
    words = [grammar._words[token] for token in grammar.allowed(grammar.start).nonzero().flatten()]
    assert set(words) == {b"y"}
    with pytest.raises(
        ValueError, match=r"^the tokens cannot spell what fits: the tokenizer lacks bytes for it$"
    ):
        Grammar("a+x", Poor(), 0)


# ------------------------------------------------------------------------------------------- choosing


def network(vocabulary: int = 340) -> Packed:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(1, 16, 24, 2, 1, vocabulary)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return Packed(model)


def test_requests_of_an_engine_and_a_loop_give_the_same_answers(tokenizer: Tokenizer) -> None:
    packed, grammar, prompts = network(), Grammar(json_schema(PET), tokenizer, 0), [[5, 6, 7], [9]]
    engine = Engine(packed, blocks=64)
    requests = [engine.submit(Request(prompt, 90, 0, grammar.chooser(len(prompt), 90))) for prompt in prompts]
    engine.run()
    for prompt, request in zip(prompts, requests, strict=True):
        assert request.state == "finished"
        choose, decoder, ids = grammar.chooser(len(prompt), 90), Decoder(packed, 100), [*prompt]
        while len(ids) == len(prompt) or ids[-1] != 0:
            ids.append(choose(ids, decoder.read(ids[decoder.length :])[0]))
        assert request.answer == ids[len(prompt) :]
        jsonschema.validate(json.loads(text_of(tokenizer, request.answer[:-1])), PET)


def test_one_chooser_serves_answers_that_part(tokenizer: Tokenizer) -> None:
    grammar = Grammar(DATE, tokenizer, 0)
    shared, scores = grammar.chooser(1, 30), torch.randn(340, generator=torch.Generator().manual_seed(0))
    first, second = [3], [3]
    for step in range(8):
        for ids, kind in ((first, 1.0), (second, -1.0)):
            wanted = grammar.chooser(1, 30)(ids, kind * scores)
            ids.append(shared(ids, kind * scores))
            assert ids[-1] == wanted, step
    assert first != second


def test_what_cannot_be_chosen_is_refused(tokenizer: Tokenizer) -> None:
    grammar = Grammar("yes|no", tokenizer, 0)
    scores = torch.zeros(340)
    with pytest.raises(
        ValueError, match=r"^token 5 was chosen and cannot come here: choose by the masked scores$"
    ):
        grammar.chooser(0, 9, lambda ids, masked: 5)([], scores)
    for wrong in (scores[:-1], scores[None]):
        with pytest.raises(
            ValueError, match=r"^scores of shape .* for 340 tokens: pass one row, of the network"
        ):
            grammar.chooser(0, 9)([], wrong)
    for token in (-1, 340, 1):
        with pytest.raises(ValueError, match=rf"^token {token} cannot come here"):
            grammar.advance(grammar.start, token)
    with pytest.raises(ValueError, match=r"^a row of scores is not finite"):
        grammar.chooser(0, 9)([], torch.full((340,), torch.nan))
    before = scores.clone()
    grammar.chooser(0, 9)([], scores)
    assert torch.equal(scores, before)


@pytest.mark.parametrize(
    ("wrong", "error", "why"),
    [
        ({"end": 340}, ValueError, "end is 340: take tokenizer.token_to_id of a special token"),
        ({"end": None}, ValueError, "end is None"),
        ({"kept": 0}, ValueError, "kept is 0: take a whole number of at least 1"),
        ({"rule": PET}, TypeError, "rule is dict: pass a regular expression or json_schema(...)"),
    ],
)
def test_wrong_calls_are_refused(
    tokenizer: Tokenizer, wrong: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=r"^[^\n]*$") as caught:
        Grammar(**{"rule": "a", "tokenizer": tokenizer, "end": 0} | wrong)
    assert str(caught.value).startswith(why)
    for prompt, most in ((-1, 9), (1.0, 9), (1, None)):
        with pytest.raises(ValueError, match=r"^prompt is .*, most is .*: count the tokens"):
            Grammar("a", tokenizer, 0).chooser(prompt, most)


# --------------------------------------------------------------------------------------------- memory


def test_few_masks_and_states_are_kept_and_change_nothing(tokenizer: Tokenizer) -> None:
    def answer(grammar: Grammar) -> list[int]:
        choose, ids = grammar.chooser(0, 120, random_choice(1)), []
        generator = torch.Generator().manual_seed(0)
        while not ids or ids[-1] != 0:
            ids.append(choose(ids, torch.randn(340, generator=generator)))
        return ids

    def states() -> int:
        gc.collect()
        return sum(type(thing) is kind for thing in gc.get_objects())

    rule = json_schema(array(PET, minItems=1))
    wanted = answer(Grammar(rule, tokenizer, 0))
    small = Grammar(rule, tokenizer, 0, kept=1)
    kind = type(small.start)
    before = states()
    assert answer(small) == answer(small) == wanted
    assert len(small._costs) == 1
    assert len(small._states) == 64
    assert states() <= before + 64
