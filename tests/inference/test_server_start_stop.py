"""Servers start, stop, and leave nothing: no thread, no port, no file, no process."""

import _thread
import asyncio
import importlib
import json
import signal
import sys
import threading
import time

import psutil
import pytest
import serving
from serving import FakeEngine, Raw, ask, chat, error_of, refused, threads, until, without_end

import bigmodel_helpers
from bigmodel_helpers.inference.server import Limits, create_app, serve
from bigmodel_helpers.inference.server import __main__ as command

start = serving.start


def test_stop_ends_running_answers(start):
    server, engine = start(rate=50)
    with Raw(server) as stream, Raw(server) as whole, Raw(server) as idle:
        stream.post(chat(stream=True))
        whole.post(chat())
        assert until(lambda: len(engine.tickets) == 2)
        first = stream.answer().body
        server.stop()
        server.stop()  # again does nothing
        got = b""
        while part := stream.socket.recv(65536):
            got += part
        assert b"the server stops" in first + got
        assert got.endswith(b"0\r\n\r\n")  # a proper end
        reply = whole.answer()
        error_of(reply)
        assert reply.status == 503
        assert idle.ended()
    assert not engine.tickets
    assert engine.thread is None


def test_stop_does_not_wait_for_a_slow_reader(start):
    limits = Limits(tokens=1_000_000, queue=100, stall=60)
    server, engine = start(without_end(), rate=2000, limits=limits)
    with Raw(server, 4096) as raw:
        raw.post(chat(stream=True, max_tokens=1_000_000))
        assert until(lambda: bool(engine.tickets))
        assert until(lambda: not engine.tickets)
        server.stop()
        assert until(lambda: server._ended.is_set())


def test_stop_while_a_prompt_is_read(start):
    server, engine = start(rate=20)
    submit, begun = engine.submit, []

    def slow(*arguments):
        begun.append(arguments)
        time.sleep(0.4)
        return submit(*arguments)

    engine.submit = slow
    with Raw(server) as raw:
        raw.post(chat(n=2))
        assert until(lambda: bool(begun))
        server.stop()
        assert until(lambda: server._ended.is_set())
    assert len(begun) == 1  # it did not read the second
    assert not engine.tickets
    engine.stop()


def test_two_servers_and_the_same_port(start):
    first, _ = start()
    second, _ = start()
    assert first.url != second.url
    for server in (first, second):
        assert ask(server, path="/v1/models").status == 200
    port = int(first.url.rpartition(":")[2])
    with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1, port {port}: take port=0"):
        serve({"m": FakeEngine()}, port)
    first.stop()
    with serve({"m": FakeEngine()}, port) as again:  # the port is free at once
        assert ask(again, path="/v1/models").status == 200


def test_many_starts_leave_nothing():
    engine, process = FakeEngine(), psutil.Process()
    count = process.num_fds if hasattr(process, "num_fds") else process.num_handles
    for _ in range(3):
        before, files = threads(), count()
        with serve({"m": engine}) as server:
            assert ask(server, {"model": "m", "prompt": "x"}, "/v1/completions").status == 200
        assert threads() == before
    assert count() <= files


def test_only_this_machine_unless_told():
    engine = FakeEngine()
    with serve({"m": engine}) as server:
        assert server.url.startswith("http://127.0.0.1:")
    with (
        pytest.warns(UserWarning, match="everybody who reaches 0.0.0.0"),
        serve({"m": engine}, host="0.0.0.0") as server,
    ):
        assert ask(server, path="/v1/models", host="my.host").status == 200
    with serve({"m": engine}, host="0.0.0.0", key="k") as server:
        assert ask(server, path="/v1/models").status == 401


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [({}, {}, "models are"), ({"": 1}, {}, "each with a name"), ({"m": 1}, {"key": ""}, "the key is empty")],
)
def test_what_cannot_be_served(models, options, words):
    with pytest.raises(ValueError, match=words):
        create_app(models, **options)
    with pytest.raises(ValueError, match=words):
        serve(models, **options)


@pytest.mark.parametrize("port", [-1, 65_536, "8000", True])
def test_what_is_no_port(port):
    with pytest.raises(ValueError, match=r"port is .*: take a number up to 65535"):
        serve({"m": FakeEngine()}, port)


def test_in_a_running_event_loop(start):
    async def cell() -> int:  # as a cell of a notebook
        server, _ = start()
        return (await asyncio.to_thread(ask, server, None, "/v1/models")).status

    assert asyncio.run(cell()) == 200


def test_without_its_libraries_the_room_works_and_the_server_says_what_to_do(monkeypatch):
    monkeypatch.setattr(bigmodel_helpers, "inference", bigmodel_helpers.inference)  # to be put back
    for name in [name for name in sys.modules if name.startswith("bigmodel_helpers.inference")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    room = importlib.import_module("bigmodel_helpers.inference")
    assert callable(room.sample)
    with pytest.raises(
        ModuleNotFoundError, match=r"^the server needs starlette: pip install starlette uvicorn$"
    ):
        importlib.import_module("bigmodel_helpers.inference.server")


@pytest.fixture
def ctrl_c():
    """Let Ctrl+C interrupt, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_on_the_command_line(monkeypatch, capsys):
    started, replies, before = [], [], threads()
    monkeypatch.setattr(
        command, "serve", lambda *given, **named: started.append(serve(*given, **named)) or started[0]
    )
    monkeypatch.setenv("BIGMODEL_KEY", "sesame")

    def ask_and_interrupt():
        try:
            assert until(lambda: bool(started), 60)
            body = {"model": "base", "prompt": "import ", "max_tokens": 3, "temperature": 0}
            for headers in ({}, {"authorization": "Bearer sesame"}):
                replies.append(ask(started[0], body, "/v1/completions", **headers))
        finally:
            _thread.interrupt_main()  # as Ctrl+C does

    other = threading.Thread(target=ask_and_interrupt)
    other.start()
    assert command.main(["base_lm", "--name", "base", "--port", "0", "--blocks", "8"]) == 0
    other.join()
    assert [reply.status for reply in replies] == [401, 200]
    assert json.loads(replies[1].body)["usage"]["completion_tokens"] == 3
    assert capsys.readouterr().out == f"{started[0].url} serves base; Ctrl+C stops it\n"
    assert refused(started[0].url)
    assert threads() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing-there"], "nothing-there is not there: pass a folder, a .gguf file, or one of smollm2"),
        (["base_lm", "--adapter", "a"], "--adapter wants NAME=FOLDER"),
        (["base_lm", "--adapter", "base_lm=x"], "a name of its own for each"),
        (["base_lm", "--adapter", "a=nowhere"], "adapter_config.json is not in the folder nowhere"),
        (["base_lm", "--blocks", "0"], "blocks is 0: take a whole number"),
        (["base_lm", "--pack", "tight"], "pack is 'tight': take one of"),
        (["base_lm", "--device", "abacus"], "abacus"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main([*arguments, "--port", "0"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("python -m bigmodel_helpers.inference.server: error: ")
    assert words in line
