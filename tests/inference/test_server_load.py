"""Many clients, slow ones, and those that leave: nothing grows, nothing stays, and nobody waits for another."""

import asyncio
import json
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import serving
from serving import Raw, ask, chat, error_of, until, without_end

from bigmodel_helpers.inference.server import Limits
from bigmodel_helpers.inference.server._asked import read
from bigmodel_helpers.inference.server._run import Run
from bigmodel_helpers.inference.server._told import Piece

start = serving.start


def connections(server):
    return server._uvicorn.server_state.connections


def slowly(engine, seconds):
    """Let an engine take its time to read a prompt; return how many it has begun to read."""
    submit, begun = engine.submit, []

    def slow(*arguments):
        begun.append(arguments)
        time.sleep(seconds)
        return submit(*arguments)

    engine.submit = slow
    return begun


def test_client_that_leaves_frees_its_place(start):
    server, engine = start(rate=50, places=1)
    for stream in (True, False):
        with Raw(server) as raw:
            raw.post(chat(stream=stream))
            assert until(lambda: bool(engine.tickets))
            if stream:
                raw.answer()
        assert until(lambda: not engine.tickets)
    assert ask(server, chat(max_tokens=1)).status == 200


def test_client_that_leaves_while_the_prompt_is_read(start):
    server, engine = start(rate=20)
    begun = slowly(engine, 0.1)
    with Raw(server) as raw:
        raw.post(chat(n=3))
        assert until(lambda: bool(begun))
    assert until(lambda: not server._service.runs)
    assert not engine.tickets


def test_busy(start):
    server, engine = start(rate=50, places=2)
    with Raw(server) as first, Raw(server) as second:
        for raw in (first, second):
            raw.post(chat(stream=True))
        assert until(lambda: len(engine.tickets) == 2)
        reply = ask(server, chat())
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert error_of(reply)["message"] == "all places are taken: try again in 1 s"
    assert until(lambda: not engine.tickets)
    assert ask(server, chat(n=3)).status == 429  # 2 of 3 fit, and are given back
    assert not engine.tickets


def test_small_answers_are_sent_at_once(start):
    server, _ = start()
    with Raw(server):
        assert until(lambda: bool(connections(server)))
        for each in connections(server):
            inside = each.transport.get_extra_info("socket")
            assert inside.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_under_load_all_are_answered_or_refused(start):
    server, engine = start(rate=400, places=6)
    bodies = [chat(max_tokens=100), b"{", chat(temperature=9), chat(max_tokens=100, stream=True)]

    def one(number):
        reply = ask(server, bodies[number % 4])
        if reply.status == 200 and number % 4 == 3:
            assert reply.body.endswith(b"data: [DONE]\n\n")
        return reply.status

    with ThreadPoolExecutor(24) as pool:
        codes = [*pool.map(one, range(160))]
    assert {*codes[0::4], *codes[3::4]} == {200, 429}
    assert {*codes[1::4], *codes[2::4]} == {400}
    assert until(lambda: not engine.tickets)


def test_a_backlog_of_one_answer_lets_others_have_their_turn():
    class AtOnce:
        prompt_tokens = 1

        def submit(self, prompt, parameters, deliver):
            for number in range(500):
                deliver(Piece(b"x", finish="length" if number == 499 else None))
            return self

        def cancel(self):
            pass

    async def count() -> int:
        limits, turns = Limits(queue=500), []
        run = Run(read(chat(max_tokens=500), True, limits), limits)
        run.submit(AtOnce())

        async def other():
            while True:
                turns.append(1)
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        assert (await run.whole())["usage"]["completion_tokens"] == 500
        task.cancel()
        return len(turns)

    assert asyncio.run(count()) >= 499


def test_slow_reader_is_ended_and_memory_is_bounded(start):
    limits = Limits(tokens=1_000_000, stall=0.3, queue=100)
    server, engine = start(without_end(), rate=2000, limits=limits)
    tracemalloc.start()
    slow = [Raw(server, 4096) for _ in range(4)]
    for raw in slow:
        raw.post(chat(stream=True, max_tokens=1_000_000))
    assert until(lambda: bool(engine.tickets))
    assert until(lambda: not engine.tickets)  # their places are free
    assert ask(server, chat(max_tokens=1)).status == 200
    assert until(lambda: not connections(server))  # they are gone, although they hold on
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    for raw in slow:
        raw.socket.close()


def test_slow_reader_of_a_whole_answer_is_ended(start):
    limits = Limits(tokens=200_000, stall=0.3, queue=500_000)
    server, _ = start(lambda prompt, parameters: [b"word " * 2000] * 300, rate=0, limits=limits)
    with Raw(server, 4096) as raw:
        raw.post(chat(max_tokens=200_000))
        assert until(lambda: bool(connections(server)))
        assert until(lambda: any(each.transport.get_write_buffer_size() for each in connections(server)))
        assert until(lambda: not connections(server))  # although the client holds on


def test_reader_that_is_a_little_slow_gets_the_error(start):
    limits = Limits(tokens=1_000_000, stall=30, queue=100)
    server, engine = start(without_end(), rate=2000, limits=limits)
    with Raw(server, 4096) as raw:
        raw.post(chat(stream=True, max_tokens=1_000_000))
        assert until(lambda: bool(engine.tickets))
        assert until(lambda: not engine.tickets)
        got = b""
        while b"0\r\n\r\n" not in got[-200:]:
            got += raw.socket.recv(65536)
    assert b"read too slowly" in got
    assert b"[DONE]" not in got


def test_slow_senders(start):
    server, _ = start(limits=Limits(upload=0.4))
    with Raw(server) as silent, Raw(server) as header, Raw(server) as body, Raw(server) as endless:
        header.socket.sendall(b"GET / HTTP/1.1\r\nho")
        body.post(b"{", content_length="50")
        endless.post(b"{", content_length="2000000")
        assert endless.answer().status == 413  # and it goes on sending
        reply = body.answer()
        error_of(reply)
        assert reply.status == 408
        for raw in (silent, header, body, endless):
            assert raw.ended()


def test_too_many_connections(start):
    server, _ = start(limits=Limits(connections=3))
    many = [Raw(server) for _ in range(3)]
    assert until(lambda: len(connections(server)) == 3)
    with Raw(server) as raw:
        reply = raw.answer()
        error_of(reply)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    for each in many:
        each.socket.close()
    assert until(lambda: not connections(server))
    assert ask(server, path="/v1/models").status == 200


def test_as_many_requests_as_connections_wait_for_the_engine_at_once(start):
    server, engine = start(rate=0, places=50, limits=Limits(connections=51))
    submit, waiting, go_on = engine.submit, [], threading.Event()

    def patient(*arguments):
        waiting.append(arguments)
        assert go_on.wait(60)
        return submit(*arguments)

    engine.submit = patient
    with ExitStack() as stack:
        clients = [stack.enter_context(Raw(server)) for _ in range(50)]
        for raw in clients:
            raw.post(chat(max_tokens=1))
        assert until(lambda: len(waiting) == 50, 20)
        assert ask(server, path="/").status == 200  # the page, which a thread reads, too
        go_on.set()
        assert {raw.answer().status for raw in clients} == {200}


def test_answer_that_takes_too_long_is_cut(start):
    server, engine = start(rate=50, limits=Limits(answer=0.2))
    for stream in (False, True):
        reply = ask(server, chat(stream=stream))
        assert b'"finish_reason":"length"' in reply.body
        assert b"[DONE]" in reply.body or json.loads(reply.body)["usage"]["completion_tokens"] < 1024
    assert not engine.tickets
