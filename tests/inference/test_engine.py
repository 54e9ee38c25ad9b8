"""Many answers at once are the answers of each alone, however memory and time are shared."""

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from devices import devices
from torch import Tensor

from bigmodel_helpers import models
from bigmodel_helpers.inference import Decoder, Engine, Full, Packed, Request, Statistics, replies

END = 3
CONFIGS = {
    "gpt2": models.TransformerConfig(2, 32, 48, 4, 4, 50, positions=128, bias=True, gated=False, tied=True),
    "llama": models.TransformerConfig(2, 32, 48, 4, 2, 50),
    "qwen2": models.TransformerConfig(2, 32, 48, 4, 1, 50, qkv_bias=True, theta=100_000.0),
    "qwen3": models.TransformerConfig(2, 32, 48, 4, 2, 50, qk_norm=True, head_width=16),
}


def network(name: str = "llama") -> models.Transformer:
    """Make a network whose answers depend on all of the text: with large weights."""
    torch.manual_seed(1)
    model = models.Transformer(CONFIGS[name]).requires_grad_(False)
    for path, parameter in model.named_parameters():
        parameter.normal_(std=0.3 if parameter.ndim > 1 else 0.5)
        if "norm" in path and path.endswith("weight"):
            parameter.add_(1)
    return model.eval()


@pytest.fixture(scope="module")
def llama() -> models.Transformer:
    return network()


def second(tokens: list[int], scores: Tensor) -> int:
    return int(scores.topk(2).indices[1])


def check_blocks(engine: Engine) -> None:
    """Each block is free, idle or in use, and as often in use as it is in the table of a request."""
    blocks, held = engine.blocks, Counter(block for one in engine.running for block in one._blocks)
    assert blocks.references == [held[block] for block in range(len(blocks))]
    assert sorted([*blocks._free, *blocks._idle, *held]) == [*range(len(blocks))]
    assert all(not one._blocks for one in engine.waiting)


def alone(packed: Packed, request: Request, start: int) -> list[int]:
    """Return the answer of a fork that takes the second best tokens from `start` on."""
    decoder, made, new = (
        Decoder(packed, 128),
        request.answer[:start],
        [*request.prompt, *request.answer[:start]],
    )
    while len(made) < request.most and (not made or made[-1] != END):
        made.append(second([], decoder.read(new)[0]))
        new = made[-1:]
    return made


def prompts(chance: random.Random) -> Iterator[list[int]]:
    """Yield prompts, many of which begin alike, end with a block, or have equal blocks after other beginnings."""
    system = [chance.randrange(50) for _ in range(40)]
    while True:
        tail = [chance.randrange(50) for _ in range(chance.randrange(1, 30))]
        yield chance.choice(
            [
                tail,
                system[: chance.choice([16, 32, 35, 40])] + tail,
                [chance.randrange(2)] * 16 + system[:16] + tail[:3],
                system[:32],
            ]
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_each_alone(name: str, seed: int) -> None:
    model, chance = network(name), random.Random(seed)
    packed, running = Packed(model), [2, 4, 8][seed]
    engine = Engine(packed, blocks=[40, 7, 10][seed], most_running=running, budget=running + [0, 9, 40][seed])
    source = prompts(chance)
    requests = [Request(next(source), chance.randrange(1, 35), END) for _ in range(14)]
    late, forks, cancelled = [*requests], [], []
    while late or engine.waiting or engine.running:
        if late and chance.random() < 0.4:
            engine.submit(late.pop())
        engine.step()
        if chance.random() < 0.03 and (some := [*engine.waiting, *engine.running]):
            cancelled.append(chance.choice(some))
            engine.cancel(cancelled[-1])
        if chance.random() < 0.06 and 0 < len(engine.running) < running:
            parent = chance.choice(engine.running)
            if parent.choose is not second:
                forks.append((engine.fork(parent, chance.choice([None, second])), len(parent.answer)))
        check_blocks(engine)
    assert engine.blocks.available() == len(engine.blocks)
    greedy = requests + [fork for fork, _ in forks if fork.choose is not second]
    wanted = replies(model, [one.prompt for one in greedy], end=END, most=34)
    pairs = [(one, answer[: one.most]) for one, answer in zip(greedy, wanted, strict=True)]
    pairs += [(fork, alone(packed, fork, start)) for fork, start in forks if fork.choose is second]
    for one, answer in pairs:
        if one in cancelled:
            assert one.state == "cancelled"
            assert one.answer == answer[: len(one.answer)]
        else:
            assert (one.state, one.answer) == ("finished", answer)
            assert len(one.times) == len(one.answer) + 1
            assert one.times == sorted(one.times)
    assert engine.statistics.preemptions == sum(one.preempted for one, _ in pairs)
    assert engine.statistics.preemptions > 0 or seed == 0


def test_requests_that_begin_alike_share_full_blocks(llama: models.Transformer) -> None:
    system, engine = list(range(4, 36)), Engine(llama, blocks=40)
    cases = [
        (system, 0),
        (system, 16),  # the last token must be computed for its scores
        ([*system, 1], 32),
        ([*system[:31], 1], 16),
        (system[16:], 0),  # the same tokens after another beginning
        ([9] * 16 + system[16:], 0),
        ([9] * 16 + [*system[16:], 4], 32),
    ]
    for prompt, shared in cases:
        request = engine.submit(Request(prompt, 6, END))
        engine.run()
        assert request.shared == shared
        assert request.answer == replies(llama, [prompt], end=END, most=6)[0]
    lengths = [len(prompt) for prompt, _ in cases]
    assert engine.statistics.shared == 96
    assert engine.statistics.computed >= sum(lengths) - 96
    twice = [engine.submit(Request([*system, token], 2)) for token in (7, 8)]
    engine.step()
    assert twice[0]._blocks[:2] == twice[1]._blocks[:2]  # at the same time, too
    assert engine.statistics.shared == 96 + 2 * 32


def test_a_block_is_shared_when_it_is_full(llama: models.Transformer) -> None:
    engine, prompt = Engine(llama, blocks=12, budget=20), list(range(48))
    requests = [engine.submit(Request(prompt, 6, END))]
    for shared in (16, 32):  # 20, then 40 tokens of the first are read
        engine.step()
        requests.append(engine.submit(Request(prompt, 6, END)))
        engine._admit()
        assert requests[-1].shared == shared
    engine.run()
    assert [one.answer for one in requests] == replies(llama, [prompt] * 3, end=END, most=6)


def test_the_youngest_gives_way_and_comes_back_first(llama: models.Transformer) -> None:
    engine = Engine(llama, blocks=5, most_running=2, budget=3)
    prompts = [[*range(10, 50), *range(24)], [1], [2], [3]]
    old, young = engine.submit(Request(prompts[0], 12, 49)), engine.submit(Request(prompts[1], 60))
    for prompt in prompts[2:]:
        engine.submit(Request(prompt, 60))
    seen = 0
    while old.state != "finished":
        lengths = {one: len(one.answer) for one in engine.running}
        engine.step()
        if young.preempted > seen:
            assert engine.waiting[0] is young  # before those that came later
            seen += 1
        else:  # a prompt that is read stops no answer
            assert all(len(one.answer) == length + 1 for one, length in lengths.items() if one is not old)
    assert (old.preempted, seen) == (0, 1)
    assert old.answer == replies(llama, prompts[:1], end=49, most=12)[0]


def test_a_fork_shares_memory_until_it_writes(llama: models.Transformer) -> None:
    engine = Engine(llama, blocks=12, most_running=3)
    first = engine.submit(Request(list(range(20)), 15))
    engine.step()
    used = len(engine.blocks) - engine.blocks.available()
    others = [engine.fork(first, second), engine.fork(first)]
    assert len(engine.blocks) - engine.blocks.available() == used == 2
    with pytest.raises(Full, match=r"^3 requests run: come back later$"):
        engine.fork(first)
    engine.step()
    assert len(engine.blocks) - engine.blocks.available() == used + 2
    engine.run()
    assert first.answer == others[1].answer == replies(llama, [first.prompt], end=END, most=15)[0][:15]
    assert others[0].answer == alone(engine.packed, others[0], 1)
    assert others[0].answer != first.answer
    with pytest.raises(ValueError, match=r"^the request is finished: fork one that is running$"):
        engine.fork(first)


def test_a_step_computes_at_most_the_budget_and_no_one_waits_for_the_longest(
    llama: models.Transformer,
) -> None:
    engine = Engine(llama, blocks=20, most_running=2, budget=6)
    long, *short = (engine.submit(Request([5] * 8, most)) for most in (40, 2, 2, 2, 2, 2, 2))
    assert engine.waiting[0] is long
    before, ended = 0, []
    while engine.waiting or engine.running:
        ended += engine.step()
        assert engine.statistics.computed - before <= 6
        before = engine.statistics.computed
    assert ended == [*short, long]
    assert engine.statistics == Statistics(steps=41, computed=8 * 7 + 39 + 6)


@pytest.mark.parametrize("device", devices())
def test_it_runs_where_the_network_is(device: str) -> None:
    model, prompts = network().to(device), [[1, 2] * 10, [4], [5, 6, 7]]
    packed = Packed(model)
    engine = Engine(packed, blocks=8, most_running=4, budget=7)
    requests = [engine.submit(Request(prompt, 8, END)) for prompt in prompts]
    engine.step()
    engine.fork(engine.running[0], second)
    engine.run()
    wanted = replies(model, prompts, end=END, most=8)
    assert [one.answer for one in requests] == wanted
    assert [[*Decoder(packed, 40).generate(prompt, most=8, end=END)] for prompt in prompts] == wanted


def test_memory_is_that_of_the_blocks(llama: models.Transformer) -> None:
    assert (
        Engine(llama, blocks=10).cache_bytes == 10 * 16 * (2 * 2 * 16) * 4
    )  # 2 layers, keys and values, fp32
    half = Engine(Packed(network().bfloat16()), blocks=10)
    assert half.cache_bytes == 10 * 16 * (2 * 2 * 16) * 2
    prompt = [1, 2]
    request = half.submit(Request(prompt, 3))
    prompt.clear()  # the engine has its own
    half.run()
    assert (request.state, request.prompt) == ("finished", [1, 2])


def test_the_end_of_a_text_is_forgotten_first(llama: models.Transformer) -> None:
    engine, text = Engine(llama, blocks=4), list(range(49))
    for prompt in (text, [7] * 17, text):  # the second needs a block of the first
        engine.submit(Request(prompt, 1))
        engine.run()
    assert engine.statistics.shared == 32


# --------------------------------------------------------------------------------------- failures


def failing(wrong: object) -> Callable[[list[int], Tensor], object]:
    """Return a choice that fails at the third token: raises what is an exception, and returns what is not."""

    def choose(tokens: list[int], scores: Tensor) -> object:
        scores[0] = 100.0  # nobody else sees that
        if len(tokens) < 20:
            return 1
        if isinstance(wrong, BaseException):
            raise wrong
        return wrong

    return choose


@pytest.mark.parametrize("wrong", [RuntimeError("no"), StopIteration(), -1, 50, 1.0, None, torch.tensor(1)])
def test_a_choice_that_fails_ends_its_request_only(llama: models.Transformer, wrong: object) -> None:
    engine = Engine(llama, blocks=8)
    others = [engine.submit(Request([7, n], 9, END)) for n in range(3)]
    request = engine.submit(Request([1] * 18, 9, END, choose=failing(wrong)))
    ended = [one for _ in range(3) for one in engine.step()]
    assert request in ended
    assert (request.state, request.answer) == ("failed", [1, 1])
    assert request.error is wrong or "choose returned" in str(request.error)
    check_blocks(engine)
    engine.run()
    assert [one.answer for one in others] == replies(llama, [one.prompt for one in others], end=END, most=9)
    assert engine.blocks.available() == 8


def test_what_is_interrupted_goes_on(llama: models.Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, prompt = Engine(llama, blocks=8, budget=16), [1] * 18

    def choose(tokens: list[int], scores: Tensor) -> int:
        calls.append(len(tokens))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return int(scores.argmax())

    calls: list[int] = []
    requests = [engine.submit(Request([*prompt, n], 9, END, choose)) for n in range(3)]
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    with monkeypatch.context() as patch:
        patch.setattr(engine._pool, "scores", None)
        with pytest.raises(TypeError):
            engine.step()
    check_blocks(engine)
    engine.run()
    assert [one.answer for one in requests] == replies(
        llama, [one.prompt for one in requests], end=END, most=9
    )


def test_a_request_without_finite_scores_disturbs_no_other() -> None:
    model, prompts = network(), [[n] * (n + 1) for n in (1, 20, 30, 40)]
    wanted = replies(model, prompts, end=END, most=12)
    poison = min({*range(50)} - {token for ids in (*prompts, *wanted) for token in ids})
    model.embed_tokens.weight[poison] = torch.nan
    engine = Engine(model, blocks=6, most_running=3)
    others = [Request(prompt, 12, END) for prompt in prompts]
    bad = [Request([5, poison] * 9, 5), Request([5, poison], 5)]
    for request in (bad[0], others[0], others[1], bad[1], others[2], others[3]):
        engine.submit(request)
    engine.run()
    assert [one.answer for one in others] == wanted
    assert [one.state for one in bad] == ["failed", "failed"]
    assert "not finite" in str(bad[0].error)


def test_requests_may_be_cancelled_at_any_time(llama: models.Transformer) -> None:
    engine = Engine(llama, blocks=8, most_running=2)

    def choose(tokens: list[int], scores: Tensor) -> int:
        asked.append(tokens)
        for one in victims:
            engine.cancel(one)
        return 5

    victims: list[Request] = []
    asked: list[list[int]] = []
    first, other, late = (engine.submit(Request([1, n], 4, choose=choose)) for n in range(3))
    new = Request([1], 2)
    engine.cancel(new)
    assert new.state == "new"
    engine.cancel(late)
    engine.step()
    victims += [first, other]
    assert engine.step() == []
    assert asked == [[1, 0], [1, 1], [1, 0, 5]]  # not the one that is cancelled by then
    assert [one.state for one in (first, other, late)] == ["cancelled"] * 3
    assert [one.answer for one in (first, other, late)] == [[5], [5], []]
    assert engine.blocks.available() == 8
    done = engine.submit(Request([1], 1))
    engine.run()
    engine.cancel(done)
    assert done.state == "finished"
    assert done.tokens == [1, *done.answer]


def test_only_so_many_may_wait(llama: models.Transformer) -> None:
    engine = Engine(llama, blocks=8, most_running=1, most_waiting=2)
    requests = [engine.submit(Request([1, n], 4)) for n in range(3)]  # one of them may run at once
    with pytest.raises(Full, match=r"^2 requests wait: come back later$"):
        engine.submit(Request([1], 4))
    ended = []
    while not ended:
        ended += engine.step()
    requests.append(engine.submit(Request([1], 4)))
    engine.run()
    assert ended == requests[:1]
    assert {one.state for one in requests} == {"finished"}


def test_what_can_never_be_answered_is_refused(llama: models.Transformer) -> None:
    engine = Engine(llama, blocks=4)
    wrong = {
        "the prompt is empty: pass one token at least": Request([], 1),
        "prompt has 50: tokens are whole numbers from 0 to 49": Request([1, 50], 1),
        "prompt has 1.0: tokens": Request([1.0], 1),
        "most is 0: take a whole number of at least 1": Request([1], 0),
        "65 tokens never fit into 64: shorten the prompt or the answer": Request([1] * 60, 6),
    }
    for why, request in wrong.items():
        with pytest.raises(ValueError, match=f"^{why}[^\n]*$"):
            engine.submit(request)
        assert request.state == "new"
    longest = engine.submit(Request([1] * 60, 5))
    with pytest.raises(ValueError, match=r"^the request is waiting: make a new one$"):
        engine.submit(longest)
    engine.run()
    assert longest.answer == replies(llama, [longest.prompt], end=END, most=5)[0][:5]
    with pytest.raises(ValueError, match=r"^129 tokens never fit into 128: "):
        Engine(network("gpt2")).submit(Request([1] * 100, 30))
    for name in ("blocks", "most_running", "most_waiting", "budget"):
        with pytest.raises(ValueError, match=f"^{name} is 0: take a whole number of at least 1$"):
            Engine(llama, **{name: 0})
    with pytest.raises(ValueError, match=r"^budget is 4, less than most_running, 8: [^\n]*$"):
        Engine(llama, most_running=8, budget=4)
