"""The server with a real engine and a tiny network: what a client gets is what the network says."""

import codecs
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch
from safetensors.torch import load_file, save_file
from serving import HELLO, Raw, ask, chat, client, error_of, threads, until
from tiny_transformers import network

from bigmodel_helpers import data, inference, models
from bigmodel_helpers.data import tokens
from bigmodel_helpers.inference import server
from bigmodel_helpers.inference.server._asked import Parameters
from bigmodel_helpers.inference.server._choosing import Choice
from bigmodel_helpers.inference.server._hosted import bytes_of
from bigmodel_helpers.models import published
from bigmodel_helpers.training import lora

TEXT = "how are you so far the sea is blue and one two three stars sing 0123456789 {}[]:, "
BLOCKS = 40


@pytest.fixture(scope="module")
def words():
    return tokens.train_bpe([TEXT, 'true false null "name"'], 300, ["<|end|>"])


@pytest.fixture(scope="module")
def template(words):
    return data.ChatTemplate(words, 0, 0)


@pytest.fixture(scope="module")
def model():
    return network(models.TransformerConfig(2, 24, 48, 4, 2, vocabulary=300))


@pytest.fixture(scope="module")
def shared(model, template):
    """One server for the tests that leave no trace in it."""
    before = threads()
    hosted = server.Hosted(inference.Engine(model, blocks=BLOCKS, most_running=4, most_waiting=8), template)
    with server.serve({"m": hosted}) as running, client(running) as asking:
        yield running, hosted, asking.chat.completions.create
    assert threads() == before


@pytest.fixture(autouse=True)
def no_block_left(shared):
    """After each test all blocks are free again, and the engine's thread does nothing."""
    yield
    engine = shared[1].engine
    assert until(lambda: not shared[1]._tickets)
    assert (engine.running, [*engine.waiting], engine.blocks.available()) == ([], [], BLOCKS)


def slowed(hosted):
    """Let each step take 10 ms, so that answers of hundreds of tokens are on their way for seconds."""
    step = hosted.engine.step

    def slow():
        time.sleep(0.01)
        return step()

    hosted.engine.step = slow
    return hosted


def text_of(words, ids):
    """Return the text of an answer, without a character that is not complete."""
    pieces = bytes_of(words, 300)
    return codecs.getincrementaldecoder("utf-8")("replace").decode(b"".join(pieces[one] for one in ids))


def say(create, content="hello", **more):
    """Ask for an answer and return its text."""
    messages = [{"role": "user", "content": content}]
    return create(model="m", messages=messages, **{"max_tokens": 12, **more}).choices[0].message.content


def streamed(create, **more):
    chunks = [*create(model="m", messages=HELLO, stream=True, **more)]
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_a_greedy_stream_is_what_replies_returns(shared, model, template):
    (ids,) = inference.replies(model, [template.prompt("hello")], end=0, most=20)
    assert streamed(shared[2], temperature=0, max_tokens=20) == text_of(template.tokenizer, ids)
    chats = [{"role": "developer", "content": "be short"}, *HELLO]
    prompt = template.turns([{"role": "system", "content": "be short"}, *HELLO])
    (ids,) = inference.replies(model, [prompt], end=0, most=9)
    reply = shared[2](model="m", messages=chats, temperature=0, max_tokens=9)
    assert reply.choices[0].message.content == text_of(template.tokenizer, ids)
    assert reply.usage.prompt_tokens == len(prompt)


def test_an_answer_that_ends_by_itself(shared, model, template):
    ends = network(model.config)
    with torch.no_grad():
        ends.lm_head.weight[0] += 2 * ends.norm.weight  # its score grows with the network's certainty
        ends.lm_head.weight[0] *= 3
    hosted = server.Hosted(inference.Engine(ends, blocks=8), template)
    (ids,) = inference.replies(ends, [template.prompt("hello")], end=0, most=30)
    assert ids[-1] == 0
    with server.serve({"m": hosted}) as running:
        reply = json.loads(ask(running, chat(temperature=0, max_tokens=30)).body)
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["choices"][0]["message"]["content"] == text_of(template.tokenizer, ids)
    assert reply["usage"]["completion_tokens"] == len(ids)


def test_clients_at_once_get_what_each_gets_alone(shared):
    def one(number):
        return say(shared[2], f"number {number} " * (1 + 3 * number), seed=number, logprobs=number % 2 == 0)

    alone = [one(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(one, range(8))] == alone
    assert len({*alone}) == 8


def test_a_seed_repeats_and_no_seed_does_not(shared):
    create = shared[2]
    assert say(create, seed=5) == say(create, seed=5) != say(create, seed=6)
    assert say(create) != say(create)
    both = create(model="m", messages=HELLO, n=2, seed=5, max_tokens=12).choices
    assert [each.message.content for each in both] == [say(create, seed=5), say(create, seed=6)]


def test_log_probabilities_are_those_of_the_model(shared, model, template):
    prompt, pieces = template.prompt("hello"), bytes_of(template.tokenizer, 300)
    options = {"seed": 1, "temperature": 1.5, "top_k": 50, "frequency_penalty": 1, "max_tokens": 10}
    reply = shared[2](
        model="m", messages=HELLO, logprobs=True, top_logprobs=4, extra_body={"top_k": 50},
        **{name: value for name, value in options.items() if name != "top_k"},
    )  # fmt: skip
    ids = list(prompt)
    for one in reply.choices[0].logprobs.content:
        logs = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        values, places = logs.topk(4)
        same = [number for number in range(1, 300) if pieces[number] == bytes(one.bytes)]
        token = min(same, key=lambda number: abs(float(logs[number]) - one.logprob))
        assert one.logprob == pytest.approx(float(logs[token]), abs=1e-4)
        assert [each.logprob for each in one.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)
        assert [bytes(each.bytes) for each in one.top_logprobs] == [pieces[place] for place in places]
        ids.append(token)
    assert len(ids) - len(prompt) == 10


def test_penalties_and_filters_are_those_of_the_package(shared, model, template):
    create, prompt = shared[2], template.prompt("hello")
    ids = []
    for _ in range(12):
        scores = model(torch.tensor([[*prompt, *ids]]))[0, -1]
        scores = inference.penalize(scores, ids, presence=1.5, frequency=0.5, repetition=1.3, prompt=prompt)
        ids.append(int(scores.argmax()))
    more = {"presence_penalty": 1.5, "frequency_penalty": 0.5, "extra_body": {"repetition_penalty": 1.3}}
    greedy = say(create, temperature=0)
    assert say(create, temperature=0, **more) == text_of(template.tokenizer, ids) != greedy
    for one in ({"top_p": 1e-6}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}):
        assert say(create, **one) == greedy


@pytest.mark.parametrize(
    ("high", "asked", "chosen"),
    [
        (3, {}, 3),
        (3, {"presence_penalty": 1.0}, 7),
        (3, {"presence_penalty": 0.3}, 3),  # counts once
        (3, {"frequency_penalty": 0.3}, 7),  # counts twice
        (3, {"repetition_penalty": 1.5}, 7),
        (5, {"repetition_penalty": 1.5}, 7),  # counts the prompt, too
        (5, {"presence_penalty": 2.0, "frequency_penalty": 2.0}, 5),  # do not
        (3, {"presence_penalty": -1.0, "frequency_penalty": 0.4}, 3),
    ],
)
def test_each_penalty_counts_what_it_should(high, asked, chosen):
    scores = torch.zeros(9)
    scores[high], scores[7] = 2.0, 1.5
    choice = Choice(Parameters(most=9, temperature=0, **asked), 2, 9, [b""] * 9, None)
    assert choice([5, 6, 3, 3], scores) == chosen


def test_a_stop_text_ends_the_answer(shared):
    whole = say(shared[2], seed=3, max_tokens=30)
    stop = whole[6:9]
    reply = shared[2](model="m", messages=HELLO, seed=3, max_tokens=30, stop=stop).choices[0]
    assert (reply.message.content, reply.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_texts_and_ids_are_gone_on_with(shared, words, model):
    running, ids = shared[0], words.encode("how are ").ids
    (reply,) = inference.replies(model, [ids], end=0, most=16)
    for prompt in ("how are ", ids):
        body = {"model": "m", "prompt": prompt, "temperature": 0}
        got = json.loads(ask(running, body, "/v1/completions").body)
        assert got["choices"][0]["text"] == text_of(words, reply)
        assert got["usage"] == {
            "prompt_tokens": len(ids), "completion_tokens": len(reply), "total_tokens": len(ids) + len(reply)
        }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "path", "words_"),
    [
        ({"prompt": ""}, "completions", "the prompt is empty"),
        ({"prompt": [300]}, "completions", "prompt has 300: tokens are whole numbers from 0 to 299"),
        ({"prompt": "x " * 700}, "completions", "tokens never fit into 640"),
        ({"prompt": "x", "max_tokens": 700}, "completions", "700 tokens never fit into 640"),
        ({"messages": [{"role": "user", "content": "x " * 700}]}, "chat/completions", "never fit"),
    ],
)
def test_what_the_engine_refuses_is_told(shared, body, path, words_):
    reply = ask(shared[0], {"model": "m", **body}, f"/v1/{path}")
    assert reply.status == 400
    assert words_ in error_of(reply)["message"]


def test_an_answer_of_no_stated_length_takes_what_fits(shared, template):
    reply = json.loads(ask(shared[0], chat(seed=1)).body)
    most = 16 * BLOCKS + 1 - len(template.prompt("hello"))
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    assert reply["usage"]["completion_tokens"] <= most < 1024


def test_learned_positions_limit_an_answer(template):
    sizes = {"vocabulary": 300, "positions": 40, "bias": True, "gated": False, "tied": True}
    gpt2 = network(models.TransformerConfig(1, 24, 48, 4, 4, **sizes))
    hosted = server.Hosted(inference.Engine(gpt2, blocks=BLOCKS), template)
    with server.serve({"m": hosted}) as running:
        usage = json.loads(ask(running, chat(temperature=0)).body)["usage"]
    assert usage["total_tokens"] == 41  # the last one has no position, as nothing follows


def test_a_client_that_leaves_frees_its_blocks(model, template):
    hosted = slowed(server.Hosted(inference.Engine(model, blocks=BLOCKS), template))
    with server.serve({"m": hosted}) as running:
        for stream in (True, False):
            with Raw(running) as raw:
                raw.post(chat(stream=stream, max_tokens=600))
                assert until(lambda: hosted.engine.blocks.available() < BLOCKS)
            assert until(lambda: hosted.engine.blocks.available() == BLOCKS)


def test_a_full_engine_says_so(shared, model, template):
    engine = inference.Engine(model, blocks=BLOCKS, most_running=1, most_waiting=1)
    hosted = slowed(server.Hosted(engine, template))
    with server.serve({"m": hosted}) as running, Raw(running) as first, Raw(running) as second:
        for raw, state in ((first, "running"), (second, "waiting")):
            raw.post(chat(stream=True, max_tokens=600))
            assert until(lambda state=state: bool(getattr(engine, state)))
        reply = ask(running, chat(max_tokens=1))
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        second.socket.close()
        assert until(lambda: not engine.waiting)  # it gives its place back before it had a turn
        assert engine.running


def test_a_request_that_fails_hurts_nobody_else(shared, monkeypatch, caplog):
    _, hosted, create = shared
    alone = say(create, seed=4)
    submit = hosted.engine.submit

    def fails_later(tokens, scores):
        raise RuntimeError("/home/somebody/secret")

    def submit_bad(request):
        if request.most == 13:
            request.choose = fails_later
        return submit(request)

    monkeypatch.setattr(hosted.engine, "submit", submit_bad)
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(say, create, max_tokens=13)
        assert say(create, seed=4) == alone
        with pytest.raises(openai.InternalServerError, match="the model failed") as caught:
            bad.result()
    assert "secret" not in str(caught.value)
    assert "secret" in caplog.text


def test_a_step_that_fails_ends_its_requests_and_no_others(shared, monkeypatch, caplog):
    _, hosted, create = shared

    def step():
        monkeypatch.undo()
        raise MemoryError("no room")

    monkeypatch.setattr(hosted.engine, "step", step)
    with pytest.raises(openai.InternalServerError, match="the model failed"):
        say(create)
    assert "no room" in caplog.text
    assert say(create)


def test_an_idle_engine_sleeps_and_a_stopped_one_has_no_thread(model, template, monkeypatch):
    hosted = slowed(server.Hosted(inference.Engine(model, blocks=BLOCKS), template))
    assert hosted._thread is None
    looks, look = [], hosted._look
    monkeypatch.setattr(hosted, "_look", lambda: looks.append(1) or look())
    with server.serve({"m": hosted}) as running:
        assert ask(running, chat(max_tokens=2)).status == 200
        assert until(lambda: not hosted._tickets)
        time.sleep(0.05)
        count = len(looks)
        time.sleep(0.1)
        assert len(looks) == count  # nothing turns round
        with Raw(running) as raw:
            raw.post(chat(stream=True, max_tokens=600))
            assert until(lambda: bool(hosted.engine.running))
            hosted.stop()
            assert hosted._thread is None
            got = b""
            while b"[DONE]" not in got and b"error" not in got:
                got += raw.socket.recv(65536)
        assert b"the model failed" in got
        assert hosted.engine.blocks.available() == BLOCKS
        assert ask(running, chat(max_tokens=2)).status == 200  # a new thread
    assert hosted._thread is None
    hosted.stop()


def test_who_comes_while_it_stops_is_told_to_come_again(model, template):
    hosted, entered, go = (
        server.Hosted(inference.Engine(model, blocks=BLOCKS), template),
        threading.Event(),
        threading.Event(),
    )
    step = hosted.engine.step

    def slow():
        entered.set()
        assert go.wait(20)
        return step()

    hosted.engine.step = slow
    with (
        server.serve({"m": hosted}) as running,
        Raw(running) as first,
        Raw(running) as second,
        Raw(running) as third,
    ):
        first.post(chat(max_tokens=600))
        assert entered.wait(20)
        second.post(chat())  # waits for the end of the step
        assert until(lambda: bool(hosted._inbox))
        stopping = threading.Thread(target=hosted.stop)
        stopping.start()
        assert until(lambda: hosted._ending)
        third.post(chat())
        assert third.answer().status == 429
        go.set()
        assert second.answer().status == 429
        assert first.answer().status == 500
        stopping.join()


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "old": {"type": "integer"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


def test_an_answer_fits_the_schema(shared):
    form = {"type": "json_schema", "json_schema": {"name": "cat", "schema": SCHEMA}}
    for seed in range(3):
        got = json.loads(
            say(shared[2], response_format=form, seed=seed, max_tokens=120, frequency_penalty=0.2)
        )
        assert got.keys() == {"name", "old"}
        assert type(got["old"]) is int
    (grammar,) = shared[1]._grammars.values()
    say(shared[2], response_format=form, max_tokens=120)
    assert [*shared[1]._grammars.values()] == [grammar]  # what it has found out is kept
    assert say(shared[2], response_format={"type": "text"}, seed=1) == say(shared[2], seed=1)


@pytest.mark.parametrize(
    ("schema", "most", "words_"),
    [
        (SCHEMA, 3, "the shortest answer may need"),
        ({"type": "cat"}, 50, ""),
        ({"type": "string", "format": "email"}, 50, "format"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_told(shared, schema, most, words_):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = ask(shared[0], chat(response_format=form, max_tokens=most))
    error = error_of(reply)
    assert (reply.status, error["param"]) == (400, "response_format")
    assert words_ in error["message"]


# ---------------------------------------------------------------------------------- from the disk


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, words):
    place = tmp_path_factory.mktemp("tiny")
    published.save(model, place)
    words.save(str(place / "tokenizer.json"))
    return place


def test_an_adapter_has_a_name_of_its_own(shared, folder, template, model, tmp_path):
    adapted = lora.add(published.load(folder), 2, alpha=4, targets=["q_proj", "down_proj"])
    torch.manual_seed(0)
    for adapter in lora.modules(adapted).values():
        torch.nn.init.normal_(adapter.lora_B, std=3.0)
    lora.save(adapted, tmp_path)
    wanted = [
        text_of(template.tokenizer, inference.replies(each, [template.prompt("hello")], end=0, most=12)[0])
        for each in (model, lora.merge(adapted))
    ]
    hosted = {"m": server.load(folder, blocks=8), "m/pirate": server.load(folder, adapter=tmp_path, blocks=8)}
    with server.serve(hosted) as running, client(running) as asking:
        assert [each.id for each in asking.models.list()] == ["m", "m/pirate"]
        got = [
            asking.chat.completions.create(model=name, messages=HELLO, temperature=0, max_tokens=12)
            for name in hosted
        ]
    assert [each.choices[0].message.content for each in got] == wanted
    assert wanted[0] != wanted[1]


def broken_adapters(folder: Path):
    """Yield what is wrong, and a function that makes it so."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for change, words_ in (
        ({"r": 3}, "is (2, 24): the model and the rank want (3, 24)"),
        ({"r": 0}, "r = 0"),
        ({"r": True}, "r = True"),
        ({"r": "2"}, "r = '2'"),
        ({"lora_alpha": 0}, "lora_alpha = 0"),
        ({"peft_type": "IA3"}, "'peft_type' = 'IA3'"),
        ({"use_dora": True}, "'use_dora' = True"),
        ({"bias": "all"}, "'bias' = 'all'"),
    ):
        yield json.dumps(config | change), words_


def test_adapters_that_do_not_fit_are_told_and_change_nothing(folder, tmp_path):
    adapted = lora.add(published.load(folder), 2, targets=["q_proj"])
    lora.save(adapted, tmp_path)
    for text, words_ in broken_adapters(tmp_path):
        (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            server.load(folder, adapter=tmp_path, blocks=8)
        assert words_ in str(caught.value)


def test_tensors_of_an_adapter_that_do_not_fit_are_told(folder, tmp_path):
    lora.save(lora.add(published.load(folder), 2, targets=["q_proj"]), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    short = name.replace("model.model.", "model.")
    for tensors, words_ in (
        (
            whole | {short: whole[name].clone()},
            "layers.0.self_attn.q_proj twice: get it again",
        ),
        (whole | {name: whole[name] * float("nan")}, "lora_A of layers.0.self_attn.q_proj is not finite"),
        (whole | {name: whole[name].to(torch.int8)}, "is not finite or no floating numbers"),
        (
            {name: whole[name]},
            "lora_B of layers.0.self_attn.q_proj is not there: the model and the rank want",
        ),
        (
            whole | {name.replace("layers.0", "layers.9"): whole[name].clone()},
            "layers.9.self_attn.q_proj, and",
        ),
        (whole | {"lm_head.weight": whole[name].clone()}, "lm_head.weight, which is none of a LoRA adapter"),
        ({}, "adapter_model.safetensors has no tensors: get it again"),
    ):
        save_file(tensors, file)
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            server.load(folder, adapter=tmp_path, blocks=8)
        assert words_ in str(caught.value)


FIRST = (
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
)
JINJA = (
    "{% for message in messages %}"
    + FIRST
    + "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_the_template_is_recognized_and_never_run(folder, tmp_path):
    words = tokens.train_bpe([TEXT], 290, ["<|im_start|>", "<|im_end|>", "<|end|>"])
    model = network(models.TransformerConfig(1, 24, 48, 4, 2, vocabulary=290))
    published.save(model, tmp_path)
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(
        json.dumps(json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | {"eos_token_id": 1}),
        encoding="utf-8",
    )
    settings = tmp_path / "tokenizer_config.json"
    for program, system in ((JINJA, "Be kind."), (JINJA.replace(FIRST, ""), None)):
        settings.write_text(json.dumps({"chat_template": program}), encoding="utf-8")
        hosted = server.load(tmp_path, blocks=8)
        assert hosted._template == data.ChatTemplate(hosted._tokenizer, 0, 1, system)
    assert server.load(tmp_path, blocks=8, system="Sing.")._template.system == "Sing."
    assert server.load(tmp_path, blocks=8, system="")._template.system is None
    for other in (JINJA + "{{ open('/etc/passwd').read() }}", "{% for x in range(10**9) %}{% endfor %}"):
        settings.write_text(json.dumps({"chat_template": other}), encoding="utf-8")
        with pytest.warns(UserWarning, match="only /v1/completions answers"):
            hosted = server.load(tmp_path, blocks=8)
        with server.serve({"m": hosted}) as running:
            reply = ask(running, chat())
            assert (reply.status, error_of(reply)["param"]) == (400, "model")
            assert ask(running, {"model": "m", "prompt": "so"}, "/v1/completions").status == 200
        assert hosted._end == 1


def test_a_gguf_file_is_served_as_its_folder_is(folder, tmp_path, words, model):
    path = tmp_path / "tiny.gguf"
    published.save_gguf(model, words, path, end=0)
    replies = []
    for place in (folder, path):
        with server.serve({"m": server.load(place, blocks=8)}) as running:
            replies.append(json.loads(ask(running, chat(temperature=0, max_tokens=12)).body)["choices"])
    assert replies[0] == replies[1]


def test_what_is_no_token_cannot_end_an_answer(model, words):
    with pytest.raises(ValueError, match="end is 300, no token"):
        server.Hosted(inference.Engine(model, blocks=4), words, end=300)
    assert bytes_of(words, 302)[0] == bytes_of(words, 302)[301] == b""


def test_a_stop_just_before_the_thread_looks_is_not_slept_through(model, template):
    hosted = server.Hosted(inference.Engine(model, blocks=BLOCKS), template)
    clear = hosted._wake.clear

    def stopped_meanwhile():
        hosted._ending = True
        hosted._wake.set()
        clear()

    hosted._wake.clear = stopped_meanwhile
    refused = []

    def submit():
        try:
            hosted.submit([1, 2], Parameters(most=2), lambda piece: True)
        except Exception as error:
            refused.append(type(error).__name__)

    caller = threading.Thread(target=submit, daemon=True)
    caller.start()
    caller.join(10)
    assert refused == ["Busy"]
    assert until(lambda: hosted._thread is None)
