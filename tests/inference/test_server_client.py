"""OpenAI's own client asks the server, behind which an engine without a model says what the test wants."""

import asyncio
import random

import openai
import pytest
import serving
from serving import HELLO, FakeEngine, ask, client, saying, until

from bigmodel_helpers.inference.server import serve
from bigmodel_helpers.inference.server._told import Piece, Shown

start = serving.start


def test_lists_models_and_finds_one(start):
    server, _ = start()
    with client(server) as openai_:
        assert [each.id for each in openai_.models.list()] == ["m"]
        assert openai_.models.retrieve("m").id == "m"
        with pytest.raises(openai.NotFoundError, match="'x' is unknown: take one of 'm'"):
            openai_.models.retrieve("x")


def test_chat_whole(start):
    server, _ = start(saying(b"Hel", b"lo", b"!"))
    with client(server) as openai_:
        answer = openai_.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "Hello!"
    assert (answer.choices[0].finish_reason, answer.choices[0].logprobs) == ("stop", None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        7,
        4,
        11,
    )


def test_chat_streamed_equals_whole_and_ends_with_usage(start):
    server, _ = start()
    options = {"model": "m", "messages": HELLO, "max_completion_tokens": 20, "seed": 3}
    with client(server) as openai_:
        whole = openai_.chat.completions.create(**options)
        chunks = [
            *openai_.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
        ]
        without = [*openai_.chat.completions.create(**options, stream=True)]
        other = openai_.chat.completions.create(**{**options, "seed": 4})
    *parts, last = chunks
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == whole.choices[0].message.content != other.choices[0].message.content
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].finish_reason for part in parts if part.choices[0].finish_reason] == ["length"]
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(part.usage is None for part in parts)
    assert all(part.usage is None and part.choices for part in without)
    assert len({part.id for part in chunks}) == 1


def test_stop_text_across_tokens(start):
    server, engine = start(
        lambda prompt, parameters: iter([b"one ", b"tw", b"o", b" th", b"ree", *[b" more"] * 10_000])
    )
    options = {"model": "m", "messages": HELLO, "stop": ["wo thr", "never"]}
    with client(server) as openai_:
        whole = openai_.chat.completions.create(**options)
        parts = [*openai_.chat.completions.create(**options, stream=True)]
        tokens = openai_.chat.completions.create(**options, logprobs=True).choices[0].logprobs.content
    assert whole.choices[0].message.content == "one t"
    assert whole.choices[0].finish_reason == "stop"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "one t"
    assert [each.token for each in tokens] == ["one ", "tw"]  # those that begin before the stop
    assert not engine.tickets  # which would have gone on for 10,000 tokens


def test_characters_split_over_tokens(start):
    text = "a€😀é"
    server, _ = start(saying(*(bytes([one]) for one in text.encode())))
    with client(server) as openai_:
        parts = [*openai_.chat.completions.create(model="m", messages=HELLO, stream=True, logprobs=True)]
    contents = [
        part.choices[0].delta.content for part in parts if part.choices and part.choices[0].delta.content
    ]
    assert contents == [*text]
    tokens = [one for part in parts if part.choices[0].logprobs for one in part.choices[0].logprobs.content]
    assert bytes(byte for one in tokens for byte in one.bytes).decode() == text


def test_logprobs(start):
    server, _ = start(saying(b"yes", b" sir"))
    with client(server) as openai_:
        answer = openai_.chat.completions.create(model="m", messages=HELLO, logprobs=True, top_logprobs=3)
        plain = openai_.completions.create(model="m", prompt="x", logprobs=2, max_tokens=2)
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("yes", -0.5, [121, 101, 115])
    assert [(each.token, each.logprob) for each in first.top_logprobs] == [
        ("yes", -0.5),
        ("�", -1.5),
        ("nothing", -9999),
    ]
    assert second.token == " sir"
    logprobs = plain.choices[0].logprobs
    assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (
        ["yes", " sir"],
        [-0.5, -0.5],
        [0, 3],
    )
    assert logprobs.top_logprobs[0] == {"yes": -0.5, "�": -1.5}


def test_several_answers(start):
    server, _ = start()
    options = {"model": "m", "messages": HELLO, "n": 2, "max_tokens": 9, "seed": 1}
    with client(server) as openai_:
        whole = openai_.chat.completions.create(**options)
        texts = ["", ""]
        for part in openai_.chat.completions.create(**options, stream=True):
            texts[part.choices[0].index] += part.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert whole.usage.completion_tokens == 18


def test_answer_that_stops_first_frees_its_place(start):
    server, engine = start(
        lambda _, parameters: [b"END " if parameters.seed == 1 else b"go "] * 500, rate=100
    )
    with client(server) as openai_:
        options = {"model": "m", "messages": HELLO, "n": 2, "seed": 1, "stop": "END"}
        with openai_.chat.completions.create(**options, stream=True) as parts:
            first = next(part for part in parts if part.choices[0].finish_reason)
            assert (first.choices[0].index, len(engine.tickets)) == (0, 1)
    assert until(lambda: not engine.tickets)


def test_completions(start):
    server, _ = start()
    with client(server) as openai_:
        whole = openai_.completions.create(model="m", prompt="once", max_tokens=6, seed=1)
        parts = [*openai_.completions.create(model="m", prompt="once", max_tokens=6, seed=1, stream=True)]
        ids = openai_.completions.create(model="m", prompt=[5, 6, 7], max_tokens=1)
        short = openai_.completions.create(model="m", prompt="once")
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert (whole.choices[0].finish_reason, ids.choices[0].finish_reason) == ("length", "length")
    assert short.usage.completion_tokens == 16


def test_messages_as_other_programs_send_them(start):
    server, _ = start(lambda prompt, parameters: [repr(prompt).encode()])
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    with client(server) as openai_:
        first = openai_.chat.completions.create(
            model="m", messages=[{"role": "user", "content": parts, "name": "ann"}]
        )
        again = [{"role": "user", "content": "x"}, first.choices[0].message, {"role": "user", "content": "y"}]
        second = openai_.chat.completions.create(model="m", messages=again, temperature=None, user="ann")
    assert first.choices[0].message.content == repr([{"role": "user", "content": "ab"}])
    assert "'assistant'" in second.choices[0].message.content


def test_adapters_by_name():
    engines = {name: FakeEngine(saying(name.encode())) for name in ("base", "base/pirate")}
    with serve(engines) as server, client(server) as openai_:
        for name in engines:
            answer = openai_.chat.completions.create(model=name, messages=HELLO)
            assert (answer.choices[0].message.content, answer.model) == (name, name)
        assert openai_.models.retrieve("base/pirate").id == "base/pirate"
    assert [engine.thread for engine in engines.values()] == [None, None]  # the server stopped them


def test_async_client(start):
    server, _ = start()

    async def both() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as other:
            options = {"model": "m", "messages": HELLO, "max_tokens": 8, "seed": 1}
            whole = await other.chat.completions.create(**options)
            stream = await other.chat.completions.create(**options, stream=True)
            text = "".join([part.choices[0].delta.content or "" async for part in stream])
        return text, whole.choices[0].message.content

    text, whole = asyncio.run(both())
    assert text == whole != ""


def test_errors_reach_the_client(start):
    def breaks(prompt, parameters):
        yield b"so far "
        raise RuntimeError("/home/somebody/secret.py")

    server, engine = start(breaks)
    with client(server) as openai_:
        with pytest.raises(openai.InternalServerError, match="the model failed") as caught:
            openai_.chat.completions.create(model="m", messages=HELLO)
        assert "secret" not in str(caught.value)
        with pytest.raises(openai.APIError, match="the model failed"):
            list(openai_.chat.completions.create(model="m", messages=HELLO, stream=True))
        with pytest.raises(
            openai.BadRequestError, match="temperature is 3: take a number from 0 to 2"
        ) as caught:
            openai_.chat.completions.create(model="m", messages=HELLO, temperature=3)
        assert caught.value.param == "temperature"
    assert not engine.tickets


def test_key(start):
    server, _ = start(key="sesam-öffne")
    for wrong in ("none", "sesam", "sesam-offne"):
        with (
            client(server, wrong) as openai_,
            pytest.raises(openai.AuthenticationError, match="missing or wrong"),
        ):
            openai_.models.list()
    right = {"authorization": "Bearer sesam-öffne".encode()}
    assert ask(server, path="/v1/models", **right).status == 200
    assert ask(server, path="/").status == 200  # the page asks for the key
    assert ask(server, path="/v1/models").headers["www-authenticate"] == "Bearer"


def test_shown_text_does_not_depend_on_tokens():
    random_ = random.Random(5)
    for _ in range(600):
        text = "".join(random_.choice("ab€😀") for _ in range(random_.randrange(1, 16)))
        stops = ["".join(random_.choice("ab€") for _ in range(random_.randrange(1, 4))) for _ in range(2)]
        expected = None
        for cuts in range(4):
            data, places = text.encode(), sorted(random_.sample(range(len(text.encode()) + 1), min(cuts, 2)))
            tokens = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
            tokens = tokens if cuts < 3 else [bytes([one]) for one in data]
            shown, result, made = Shown(stops), "", b""
            for token in [*(Piece(each) for each in tokens), Piece(b"", finish="length")]:
                more, pieces, finish = shown.add(token)
                result, made = result + more, made + b"".join(each.text for each in pieces)
                if finish:
                    break
            ends = [result.find(stop) for stop in stops]
            assert ends == [-1, -1]
            assert made.startswith(result.encode())
            expected = expected or (result, finish)
            assert (result, finish) == expected
        if expected[1] == "length":
            assert expected[0] == text
