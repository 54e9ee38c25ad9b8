"""Bad inputs: each is answered in one line, and the next request is served."""

import gzip
import json
import urllib.error
import urllib.request
from contextlib import suppress

import pytest
import serving
from serving import FakeEngine, Raw, ask, chat, error_of, until

from bigmodel_helpers.inference.server import Limits, serve

start = serving.start
USER = '{"model": "m", "messages": [{"role": "user", "content": "x"}], '

MANY = json.dumps({"messages": [{"role": "user", "content": ""}] * 1001}).encode()

# fmt: off
# name: (body, status, field, words of the message)
BODIES = {
    "empty": (b"", 400, None, "not JSON"),
    "broken JSON": (b'{"model": "m", ', 400, None, "not JSON at character"),
    "two values": (chat() + b"{}", 400, None, "not JSON"),
    "a list": (b"[]", 400, None, "send an object"),
    "null": (b"null", 400, None, "send an object"),
    "invalid UTF-8": (b'{"model": "\xff"}', 400, None, "byte 11 is not UTF-8"),
    "overlong UTF-8": (b'{"model": "\xc0\xaf"}', 400, None, "is not UTF-8"),
    "UTF-16": (chat().decode().encode("utf-16"), 400, None, "UTF-8"),
    "UTF-8 with a mark": (b"\xef\xbb\xbf" + chat(), 400, None, "not JSON"),
    "half a surrogate pair": (chat("\ud800"), 400, "messages[0].content", "half of a surrogate"),
    "half a pair as the model": (chat().replace(b'"m"', b'"\\ud83d"'), 400, "model", "half of a surrogate"),
    "deep lists": (b"[" * 200_000, 400, None, "nested deeper than 32"),
    "deep objects in a known field": (b'{"model":' + b'{"a":' * 5000, 400, None, "nested deeper"),
    "deep and closed": (b'{"user":' + b"[" * 999 + b"]" * 999 + b"}", 400, None, "nested deeper"),
    "open text": (b'{"model": "' + b"a\\" * 400_000, 400, None, "not JSON"),
    "many open lists in a text": (b'["' + b"[" * 500_000, 400, None, "nested deeper"),
    "NaN": (USER.encode() + b'"temperature": NaN}', 400, "temperature", "is nan: take a number"),
    "infinity": (USER.encode() + b'"temperature": 1e999}', 400, "temperature", "take a number from 0 to 2"),
    "digits without end": (USER.encode() + b'"seed": ' + b"9" * 100_000 + b"}", 400, None, "at a number"),
    "negative temperature": (chat(temperature=-0.1), 400, "temperature", "take a number from 0"),
    "temperature as text": (chat(temperature="1"), 400, "temperature", "is '1': take a number"),
    "temperature as bool": (chat(temperature=True), 400, "temperature", "take a number"),
    "top_p of 0": (chat(top_p=0), 400, "top_p", "take a number"),
    "negative max_tokens": (chat(max_tokens=-1), 400, "max_tokens", "is -1: take a whole number from 1 to 1024"),
    "max_tokens of 0": (chat(max_tokens=0), 400, "max_tokens", "from 1"),
    "max_tokens as float": (chat(max_tokens=5.0), 400, "max_tokens", "whole number"),
    "huge max_tokens": (chat(max_tokens=10**30), 400, "max_tokens", "to 1024"),
    "two limits": (chat(max_tokens=5, max_completion_tokens=5), 400, "max_tokens", "only one of it"),
    "huge n": (chat(n=1_000_000), 400, "n", "from 1 to 8"),
    "n of 0": (chat(n=0), 400, "n", "from 1 to 8"),
    "huge seed": (chat(seed=2**63), 400, "seed", "whole number"),
    "stop of five": (chat(stop=["a"] * 5), 400, "stop", "list of 1 to 4"),
    "empty stop": (chat(stop=""), 400, "stop", "1 to 256 characters"),
    "long stop": (chat(stop="a" * 257), 400, "stop", "1 to 256 characters"),
    "stop of numbers": (chat(stop=[1]), 400, "stop", "take a text"),
    "stream as text": (chat(stream="yes"), 400, "stream", "true or false"),
    "usage without stream": (chat(stream_options={"include_usage": True}), 400, "stream_options", "needs stream"),
    "strange stream_options": (chat(stream=True, stream_options=[1]), 400, "stream_options", "include_usage"),
    "logprobs as number": (chat(logprobs=3), 400, "logprobs", "true or false"),
    "top_logprobs alone": (chat(top_logprobs=3), 400, "top_logprobs", "send logprobs: true"),
    "huge top_logprobs": (chat(logprobs=True, top_logprobs=21), 400, "top_logprobs", "to 20"),
    "a huge penalty": (chat(presence_penalty=3), 400, "presence_penalty", "from -2 to 2"),
    "a penalty of 0": (chat(repetition_penalty=0), 400, "repetition_penalty", "take a number from 0.01"),
    "negative top_k": (chat(top_k=-1), 400, "top_k", "is -1: take a whole number from 0"),
    "min_p of 2": (chat(min_p=2), 400, "min_p", "is 2: take a number from 0 to 1"),
    "any JSON": (chat(response_format={"type": "json_object"}), 400, "response_format", "is 'json_object': take"),
    "no schema": (chat(response_format={"type": "json_schema"}), 400, "response_format", '"schema": {'),
    "format as text": (chat(response_format="json"), 400, "response_format", "is 'json': take"),
    "unknown field": (chat(**{"best\nof": 3}), 400, "'best\\nof'", "is unknown: leave it out"),
    "unknown model": (chat().replace(b'"m"', b'"../../etc/passwd"'), 404, "model", "take one of 'm'"),
    "long model": (chat().replace(b'"m"', b'"' + b"m" * 900 + b'"'), 400, "model", "1 to 256"),
    "model as number": (chat().replace(b'"m"', b"1"), 400, "model", "is 1: take a text"),
    "no model": (b'{"messages": []}', 400, "messages", "1 to 1000 messages"),
    "nothing": (b"{}", 400, "model", "model is missing: send it"),
    "no messages": (b'{"model": "m"}', 400, "messages", "is missing"),
    "messages as text": (b'{"model": "m", "messages": "x"}', 400, "messages", "take a list"),
    "too many messages": (MANY, 400, "messages", "to 1000"),
    "message as text": (b'{"model": "m", "messages": ["x"]}', 400, "messages[0]", "with a role"),
    "unknown role": (b'{"messages": [{"role": "root", "content": "x"}]}', 400, "messages[0]", "system, developer"),
    "role as list": (b'{"messages": [{"role": ["user"], "content": "x"}]}', 400, "messages[0]", "with a role"),
    "content as number": (chat(5), 400, "messages[0].content", "is 5: take a text"),
    "a picture": (chat([{"type": "image_url", "image_url": {}}]), 400, "messages[0].content", "parts of"),
    "parts of nothing": (chat([{"type": "text"}]), 400, "messages[0].content", "is None: take a text"),
    "a tool call": (b'{"messages": [{"role": "user", "tool_calls": [1]}]}', 400, "messages[0]", "only text"),
    "10 MB": (chat("a" * 10_000_000), 413, None, "larger than 1000000 bytes"),
}
# fmt: on


@pytest.fixture(scope="module")
def shared():
    engine = FakeEngine(rate=0)
    with serve({"m": engine}) as server:
        yield server, engine


@pytest.fixture(scope="module")
def locked():
    with serve({"m": FakeEngine(rate=0)}, key="right") as server:
        yield server


@pytest.mark.parametrize("name", BODIES)
def test_bad_bodies(shared, name):
    body, expected, field, words = BODIES[name]
    server, engine = shared
    with Raw(server) as raw:
        with suppress(ConnectionError):  # refused while it is sent
            raw.post(body)
        reply = raw.answer()
        error = error_of(reply)
        assert reply.status == expected
        assert words in error["message"]
        assert error["param"] == field
    assert ask(server, chat(max_tokens=1)).status == 200
    assert not engine.tickets


def test_brackets_in_a_text_are_text(shared):
    assert ask(shared[0], chat("[" * 100_000 + '\\"{{', max_tokens=1)).status == 200


def test_engine_refuses_a_prompt(start):
    server, engine = start()
    engine.longest = 5
    reply = ask(server, {"model": "m", "prompt": "too long"}, "/v1/completions")
    error = error_of(reply)
    assert (reply.status, error["param"], error["message"][:15]) == (400, "prompt", "the prompt has ")


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ("x", 200),
        ([1, 2], 200),
        ("", 200),
        ([], 400),
        ([-1], 400),
        ([2**31], 400),
        (["a"], 400),
        ([True], 400),
        (None, 400),
        ({}, 400),
        ([[1]], 400),
    ],
)
def test_prompts(shared, prompt, status):
    body = {"model": "m", "prompt": prompt, "max_tokens": 1}
    assert ask(shared[0], body, "/v1/completions").status == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("OPTIONS", "/v1/models", 405), ("DELETE", "/", 405),
     ("GET", "/v1/chat/completions", 405),
     ("GET", "/nothing", 404), ("POST", "/v1/models", 405), ("PUT", "/v1/completions", 405),
     ("GET", "/v1/models/", 404),
     ("GET", "/v1/models/x%0d%0a", 404), ("GET", "/../../etc/passwd", 404), ("GET", "//example.org/", 404),
     ("POST", "/v1/completions/", 404),
     ("GET", "/chat.html", 404), ("BREW", "/", 405)],
)  # fmt: skip
def test_wrong_addresses(shared, method, path, status):
    with Raw(shared[0]) as raw:
        raw.socket.sendall(
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\norigin: https://example.org\r\n\r\n".encode()
        )
        reply = raw.answer()
        error_of(reply)
        assert (reply.status, "location" in reply.headers) == (status, False)
        assert ("allow" in reply.headers) == (status == 405)


def test_head_answers_without_a_body(shared):
    for path, status in (("/", 200), ("/v1/models", 200), ("/nothing", 404), ("/v1/completions", 405)):
        reply = ask(shared[0], path=path, method="HEAD")
        assert (reply.status, reply.body) == (status, b"")


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content_type": "text/plain"}, 415), ({"content_type": ""}, 415), ({"content_encoding": "gzip"}, 415),
     ({"content_type": "application/json; charset=utf-8"}, 200),
     ({"host": "evil.example:80"}, 421),
     ({"host": "[::1]:5"}, 200), ({"host": "localhost.evil.example"}, 421), ({"host": ""}, 400),
     ({"content_length": "-5"}, 400), ({"content_length": "9" * 19}, 413), ({"content_length": "1e3"}, 400),
     ({"content_length": "5", "transfer_encoding": "gzip"}, 400), ({"authorization": "Bearer \xff"}, 200),
     ({"expect": "100-continue", "content_length": "2000000"}, 413)],
)  # fmt: skip
def test_headers(shared, headers, status):
    with Raw(shared[0]) as raw:
        raw.post(gzip.compress(chat()) if "content_encoding" in headers else chat(max_tokens=1), **headers)
        reply = raw.answer()
        assert reply.status == status
        if status != 200:
            error_of(reply)


def test_what_is_not_http(shared):
    host = b"host: localhost\r\n"
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # a browser that speaks TLS
        b"GET / HTTP/99\r\n" + host + b"\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        b"GET / HTTP/1.1\r\n" + host + b"a b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"x: " + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + host + b"x: y\r\n" * 50_000,
        b"GET /" + b"a" * 100_000,
        b"POST /v1/completions HTTP/1.1\r\n" + host + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\n"
        + host
        + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
    ):
        with Raw(shared[0]) as raw:
            with suppress(ConnectionError):  # refused while it is sent
                raw.socket.sendall(garbage)
            reply = raw.answer()
            error_of(reply)
            assert reply.status in (400, 415), garbage[:60]
            assert raw.ended()


def test_garbage_after_a_request(shared):
    with Raw(shared[0]) as raw:
        raw.post(chat(max_tokens=2))
        raw.socket.sendall(b"\x00\x01garbage\r\n\r\n")
        assert raw.answer().status == 200
        assert raw.ended()
    with Raw(shared[0]) as raw:  # two requests at once are answered in order
        raw.post(chat(max_tokens=2))
        raw.post(b"{}")
        assert raw.answer().status == 200
        assert raw.answer().status == 400


def test_garbage_after_an_early_answer(shared):
    with Raw(shared[0]) as raw:
        asks = {"transfer_encoding": "chunked", "expect": "100-continue"}  # so that it is answered at once
        raw.post(b"", content_length="", content_type="text/plain", **asks)
        assert raw.answer().status == 415
        raw.socket.sendall(b"xyz\r\n")
        with suppress(ConnectionError):
            assert raw.socket.recv(100) == b""  # no second answer


def test_body_without_a_length(shared):
    def chunked(raw: Raw, parts: int, size: int) -> None:
        raw.post(b"", content_length="", transfer_encoding="chunked")
        for _ in range(parts):
            raw.socket.sendall(f"{size:x}\r\n".encode() + b" " * size + b"\r\n")

    with Raw(shared[0]) as raw:
        chunked(raw, 3, 10)
        body = chat(max_tokens=1)
        raw.socket.sendall(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert raw.answer().status == 200
    with Raw(shared[0]) as raw:
        with suppress(ConnectionError, TimeoutError):  # refused while it is sent
            chunked(raw, 1000, 10_000)
        assert raw.answer().status == 413


def test_a_bug_in_an_engine_says_nothing(start, caplog):
    server, engine = start()
    engine.submit = lambda *arguments: 1 / 0
    for stream in (False, True):
        reply = ask(server, chat(stream=stream))
        error_of(reply)
        assert reply.status == 500
    assert "ZeroDivisionError" in caplog.text  # our log says it


def test_page(shared):
    reply = ask(shared[0], path="/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert not [word for word in (b"http://", b"https://", b"innerHTML") if word in reply.body]


WRONG_KEY = {"Authorization": "Bearer wrong"}
REFUSED = {
    "413": (413, "chat/completions", WRONG_KEY | {"Authorization": "Bearer right"}),
    "no key": (401, "chat/completions", {}),
    "a wrong key": (401, "completions", WRONG_KEY),
    "not JSON": (415, "chat/completions", {"Authorization": "Bearer right", "Content-Type": "text/plain"}),
    "compressed": (415, "completions", {"Authorization": "Bearer right", "Content-Encoding": "gzip"}),
    "a wrong host": (421, "chat/completions", {"Host": "evil.example"}),
    "a wrong address": (404, "chat/completion", {}),
    "a wrong method": (405, "models", {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_who_still_sends_a_large_body_gets_the_answer_each_time(locked, name):
    status, path, headers = REFUSED[name]
    body = chat("a" * 2_000_000)
    for _ in range(20):
        headers = {"Content-Type": "application/json"} | headers
        asked = urllib.request.Request(f"{locked.url}/v1/{path}", body, headers)
        with pytest.raises(urllib.error.HTTPError, match=str(status)) as error:
            urllib.request.urlopen(asked, timeout=30)
        error.value.close()


@pytest.mark.parametrize("name", REFUSED)
def test_who_leaves_while_it_is_refused_is_forgotten(locked, name, caplog):
    _, path, headers = REFUSED[name]
    headers = {key.replace("-", "_").lower(): value for key, value in headers.items()}
    with Raw(locked) as raw:
        raw.post(b"{", f"/v1/{path}", content_length="2000000", **headers)
    assert until(lambda: not locked._uvicorn.server_state.connections)
    assert until(lambda: not locked._uvicorn.server_state.tasks)
    assert not caplog.records


def test_who_is_refused_and_sends_without_end_is_answered_in_time(start):
    server, _ = start(limits=Limits(upload=0.4), key="right")
    for path, headers, status in (
        ("completions", {}, 401),
        ("completions", {"host": "evil.example"}, 421),
        ("completions", {"authorization": "Bearer right", "content_type": "text/plain"}, 415),
        ("nothing", {}, 404),
    ):
        with Raw(server) as raw:
            raw.post(b"{", f"/v1/{path}", content_length="2000000", **headers)
            assert raw.answer().status == status
        with Raw(server) as raw:  # too much to listen to
            raw.post(b"{", f"/v1/{path}", content_length="9" * 15, **headers)
            assert raw.answer().status == status
