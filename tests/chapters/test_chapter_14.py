"""Chapter 14: each cut equals one process, and what is counted by hand equals the package and plain versions."""

import itertools
import math
import random
from collections import Counter
from functools import partial

import matplotlib.pyplot as plt
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from chapter_code import chapter_namespace
from torch import nn

from bigmodel_helpers import distributed, models
from bigmodel_helpers.measure import budgets, planner

CELLS = [
    *("imports", "imports-torch", "imports-parallel", "setup", "mesh-figure", "network", "alone"),
    *("plan", "ends-plan", "cut", "schedules", "orders", "clock", "needs", "stage", "run-schedule"),
    *("gather", "ulysses", "shift", "ring", "places", "across", "across-train"),
    *("router", "mixture", "grouped", "send", "work", "sharded-mixture"),
    *("selective", "with-checkpoints", "live", "kept"),
    *("float8", "float8-product", "float8-check", "torchao", "muon"),
    *("prepared", "parts", "reshape", "newest", "young", "lost"),
    *("work-terms", "message-terms", "step-seconds", "ways"),
    *(f"ex-14-{name}-solution" for name in ("rows", "merge", "room", "save")),
]
CHECKS = {f"check_{name}": lambda: None for name in ("rows", "merge", "room", "save")}
launch = partial(distributed.launch, device_type="cpu", timeout=120)
pytestmark = pytest.mark.usefixtures("no_process_left")


@pytest.fixture(scope="module")
def chapter():
    # The ranks get the functions of the chapter by value, because no module "chapter_14" can be imported.
    with plt.rc_context():
        return chapter_namespace(
            "14_scaling_out", CELLS, __name__="chapter_14", profile_name="smoke", **CHECKS
        )


def assert_same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------- with real processes


@pytest.fixture(scope="module")
def by_rank(chapter):
    """Return by rank what two ranks compute, each part under its name; one launch takes less time than three."""
    pipeline = [chapter[name] for name in ("SCHEDULES", "schedule_of", "Stage", "run_schedule", "rows_of")]
    width = [chapter[name] for name in ("cut", "mesh_of", "network", "rows_of", "token_loss", "parallel")]
    jobs = {
        "experts": (sharded_mixtures, chapter["ShardedMixture"]),
        "depth": (pipelined, *pipeline),
        "width": (run_cut, *width),
    }
    return launch(do_all, jobs)


def do_all(jobs):
    return {name: function(*args) for name, (function, *args) in jobs.items()}


def attention_inputs():
    numbers = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 6, 24, 5, dtype=torch.float64, generator=numbers)


def ways_of_attention(chapter):
    cuts = {name: chapter[name](3, 24) for name in ("in_order", "zigzag")}
    ways = {(name, cut): (chapter[name], cuts[cut]) for name in ("gathered", "ring") for cut in cuts}
    return ways | {("ulysses", "in_order"): (chapter["ulysses"], cuts["in_order"])}


def attended(attend, inputs):
    """Return outputs and gradients, when the loss is the sum of outputs times weights."""
    *parts, weights = inputs
    parts = [x.clone().requires_grad_() for x in parts]
    out = attend(*parts)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), parts)]


def all_attended(ways, inputs):
    own = {name: inputs[:, :, :, places[dist.get_rank()]] for name, (_, places) in ways.items()}
    return {name: attended(partial(way, places=places), own[name]) for name, (way, places) in ways.items()}


def test_attention_over_ranks_and_its_gradients_are_those_of_one_process(chapter):
    wanted = attended(partial(F.scaled_dot_product_attention, is_causal=True), attention_inputs())
    ways = ways_of_attention(chapter)
    assert len(ways) == 5
    # three ranks: with two, a ring that turns the wrong way round looks the same
    for rank, found in enumerate(launch(all_attended, ways, attention_inputs(), processes=3)):
        for name, (_, places) in ways.items():
            for one, whole in zip(found[name], wanted, strict=True):
                assert_same(one, whole[:, :, places[rank]])


# Top-1 and top-2, when all experts are chosen; when one gets no token; when a rank gets none.
CASES = [*itertools.product((1, 2), (range(8), [0, 1, 2, 4, 5, 6, 7], [4, 6, 7]))]


def tokens_for(rank):
    return torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(rank)).double() + 3


def mixture_of(kind, k, liked):
    """Return a layer whose router chooses among the experts in `liked` only."""
    torch.manual_seed(0)
    layer = kind(k).double()
    with torch.no_grad():  # the numbers of a token add up to about 96
        layer.router.weight[[expert for expert in range(8) if expert not in liked]] = -10.0
    return layer


def run_mixture(layer, x):
    x = x.clone().requires_grad_()
    out = layer(x)
    out.square().sum().backward()
    return [out.detach(), x.grad, layer.router.weight.grad, layer.up.grad, layer.down.grad]


def sharded_mixtures(kind):
    return [run_mixture(mixture_of(kind, *case), tokens_for(dist.get_rank())) for case in CASES]


def test_experts_on_two_ranks_have_the_gradients_of_one_process(chapter, by_rank):
    both = torch.cat([tokens_for(0), tokens_for(1)])
    for case, *parts in zip(CASES, *(found["experts"] for found in by_rank), strict=True):
        layer = mixture_of(chapter["Mixture"], *case)
        wanted = run_mixture(layer, both)
        for place, join in enumerate((torch.cat, torch.cat, sum, torch.cat, torch.cat)):
            assert_same(join([part[place] for part in parts]), wanted[place])
        chosen = {*layer.route(both.flatten(0, 1))[1].flatten().tolist()}
        assert chosen <= {*case[1]}
        idle = [expert for expert in range(8) if expert not in chosen]
        assert not wanted[3][idle].any()


class Line:
    """Stands for a mesh that is one pipeline."""

    def get_local_rank(self, _):
        return dist.get_rank()


def matrices(module):
    """Return gradients by what tells the matrices of the network apart: their first numbers."""
    return {tuple(p.detach()[0, :3].tolist()): p.grad for p in module.parameters() if p.ndim == 2}


def pipelined(names, schedule_of, stage, run_schedule, rows_of):
    results = {}
    for name in names:
        stages = nn.ModuleList()

        def make(number, count, stages=stages):
            stages.append(stage(number, count))
            return stages[-1]

        loss = run_schedule(schedule_of(name, 4, make), Line(), *rows_of(0))
        results[name] = loss, matrices(stages)
    return results


def alone(chapter):
    model, (inputs, targets) = chapter["network"](), chapter["rows_of"](0)
    loss = chapter["token_loss"](model(inputs), targets)
    loss.backward()
    return model, loss.item()


def test_pipelines_without_fsdp_have_the_gradients_of_one_process(chapter, by_rank):
    model, loss = alone(chapter)
    wanted = matrices(model)
    assert len(wanted) == sum(p.ndim == 2 for p in model.parameters())
    first, last = (found["depth"] for found in by_rank)
    for name in chapter["SCHEDULES"]:
        assert last[name][0] == pytest.approx(loss, abs=1e-10)
        found = first[name][1] | last[name][1]
        assert found.keys() == wanted.keys()
        for key, gradient in wanted.items():
            assert_same(found[key], gradient)


def run_cut(cut, mesh_of, network, rows_of, token_loss, parallel):
    model, (inputs, targets) = cut(network(), mesh_of(dp=1, tp=2)), rows_of(0)
    with parallel.loss_parallel():
        token_loss(model(inputs), targets).backward()
    return [p.grad.full_tensor() for p in model.parameters()]


def test_tensor_parallelism_with_cut_tokens_has_the_gradients_of_one_process(chapter, by_rank):
    model, _ = alone(chapter)
    for found in by_rank:
        for one, parameter in zip(found["width"], model.parameters(), strict=True):
            assert_same(one, parameter.grad)


# ------------------------------------------------------------------------------------- schedules and cuts


def test_the_clock_finds_the_idle_time_of_the_formulas(chapter):
    known = [*chapter["orders"]]
    further = launch(chapter["all_orders"], [8, 12], processes=4)
    chapter["orders"][:] = [one | other for one, other in zip(known, further, strict=True)]
    for m in (4, 8, 12):
        assert chapter["idle_of"]("1F1B", m) == pytest.approx(budgets.pipeline_bubble(4, m))
        assert chapter["idle_of"]("interleaved", m) == pytest.approx(1.5 / (m + 1.5))
        assert chapter["idle_of"]("zero bubble", m) < 0.5 * chapter["idle_of"]("interleaved", m)


@pytest.mark.parametrize("schedule", ["1F1B", "interleaved", "zero bubble"])
def test_the_clock_does_all_work_once_and_one_thing_at_a_time(chapter, schedule):
    bars = chapter["clock"](schedule, 4)
    for rank in range(4):
        own = sorted(bar[2:] for bar in bars if bar[0] == rank)
        assert sum(end - start for start, end in own) == pytest.approx(3 * 4)
        assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(own))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_each_token_is_on_one_rank_and_zigzag_is_fair(chapter, ranks, pieces):
    length = 2 * ranks * pieces
    for cut in ("in_order", "zigzag"):
        places = chapter[cut](ranks, length)
        assert [len(own) for own in places] == [length // ranks] * ranks
        assert sorted(torch.cat(places).tolist()) == [*range(length)]
    pairs = [sum(key <= query for query in own.tolist() for key in range(length)) for own in places]
    assert len({*pairs}) == 1
    assert chapter["busiest"](places) == pytest.approx(1)
    looks = [int((own + 1).sum()) for own in chapter["in_order"](ranks, length)]
    share = chapter["busiest"](chapter["in_order"](ranks, length))
    assert share == pytest.approx(max(looks) / (sum(looks) / ranks))


def test_rows_follow_the_groups_of_the_mesh(chapter):
    for pp, tp in itertools.product((1, 2, 4), repeat=2):
        dp = 16 // pp // tp
        rows = [chapter["own_rows"](rank, pp, dp, tp, 48) for rank in range(16)]
        for axis in ("tp", "pp"):
            for group in chapter["groups_along"](axis, tp, pp):
                assert len({tuple(rows[rank]) for rank in group}) == 1
        for group in chapter["groups_along"]("dp", tp, pp):
            assert [row for rank in group for row in rows[rank]] == [*range(48)]


# ------------------------------------------------------------------------------------- formulas by hand


def test_parts_of_a_softmax_merge_to_the_whole_in_any_order(chapter):
    torch.manual_seed(0)
    scores, values = 300 * torch.randn(5, 12).double(), torch.randn(12, 3).double()
    scores[0, :3] = scores[1, 3:7] = -torch.inf
    pieces = [
        (part.softmax(1).nan_to_num() @ value, part.logsumexp(1))
        for part, value in zip(scores.split([3, 4, 5], 1), values.split([3, 4, 5]), strict=True)
    ]
    for first, second, third in itertools.permutations(pieces):
        out, log = chapter["merge"](*chapter["merge"](*first, *second), *third)
        assert_same(out, scores.softmax(1) @ values)
        assert_same(log, scores.logsumexp(1))


@pytest.mark.parametrize("k", [1, 2])
def test_a_mixture_is_a_loop_over_tokens(chapter, k):
    torch.manual_seed(0)
    mixture, x = chapter["Mixture"](k).double(), torch.randn(3, 7, 32).double()
    for token, found in zip(x.flatten(0, 1), mixture(x).flatten(0, 1), strict=True):
        shares = mixture.router(token).softmax(0)
        best = sorted(range(8), key=shares.tolist().__getitem__, reverse=True)[:k]
        total = sum(shares[e] for e in best) if k > 1 else 1
        wanted = sum(shares[e] / total * (F.silu(token @ mixture.up[e]) @ mixture.down[e]) for e in best)
        assert_same(found, wanted)
    assert mixture.used.sum() == pytest.approx(1)


def test_grouped_products_are_single_products(chapter):
    rows, weights = torch.randn(9, 4).double(), torch.randn(4, 4, 3).double()
    found = chapter["grouped"](rows, weights, [0, 5, 0, 4])
    assert_same(found, torch.cat([rows[:5] @ weights[1], rows[5:] @ weights[3]]))


def test_kept_tokens_are_those_that_a_queue_serves(chapter):
    numbers = random.Random(0)
    for _ in range(200):
        experts, tokens = numbers.randint(1, 8), numbers.randint(1, 30)
        factor = numbers.choice([0.5, 1.0, 1.25, 2.0])
        chosen = [numbers.randrange(experts) for _ in range(tokens)]
        served, wanted = Counter(), []
        for expert in chosen:
            wanted.append(served[expert] < max(1, math.floor(factor * tokens / experts)))
            served[expert] += wanted[-1]
        assert chapter["kept"](chosen, experts, factor) == wanted


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_a_block_keeps_what_the_formulas_say(chapter, monkeypatch, kv_heads):
    config = models.TransformerConfig(8, 64, 160, 4, kv_heads, vocabulary=512)
    monkeypatch.setitem(chapter, "LARGER", config)
    both, d, h = config.q_width + config.kv_width, config.width, config.hidden
    formulas = {"none": 4 * d + 2 * both + 4 * h + 2 * d, "selective": 3 * d + 2 * both + 2 * h, "full": d}
    for kind, wanted in formulas.items():
        assert chapter["kept_by_a_block"](kind) == pytest.approx(wanted, rel=0.02)


def dequantized(x, kind=torch.float8_e4m3fn):
    scale = torch.finfo(kind).max / x.abs().max()
    return (x * scale).to(kind).float() / scale


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e3])
def test_float8_products_are_products_of_rounded_numbers_and_those_of_torchao(chapter, size):
    torch.manual_seed(0)
    layer = chapter["Float8Linear"](64, 48, bias=False)
    plain = nn.Linear(64, 48, bias=False)
    plain.load_state_dict(layer.state_dict())
    theirs = chapter["convert_to_float8_training"](nn.Sequential(plain))
    x, upstream = size * torch.randn(2, 16, 64), 1e-6 * torch.randn(2, 16, 48)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for module, given in zip((layer, theirs), inputs, strict=True):
        module(given).backward(upstream)
    rounded = dequantized(upstream.flatten(0, 1), torch.float8_e5m2)
    of_x = (rounded @ dequantized(layer.weight.detach())).view_as(x)
    of_weight = rounded.T @ dequantized(x.flatten(0, 1))
    product = dequantized(x.flatten(0, 1)) @ dequantized(layer.weight.detach()).T
    close = partial(torch.testing.assert_close, rtol=1e-4)
    close(layer(x), product.view(2, 16, 48), atol=1e-4 * size)
    close(inputs[0].grad, of_x, atol=1e-10)
    close(layer.weight.grad, of_weight, atol=1e-10 * size)
    close(theirs(x), layer(x), atol=1e-4 * size)
    close(inputs[1].grad, inputs[0].grad, atol=1e-10)
    close(plain.weight.grad, layer.weight.grad, atol=1e-10 * size)


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_orthogonal_matrices_are_near_those_of_the_svd(chapter, shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape).double(), full_matrices=False)
    singular = torch.linspace(0.2, 1, min(shape)).double()
    found = chapter["orthogonal"](u * singular @ v, torch.float64)
    values = torch.linalg.svdvals(found)  # the iteration ends between 0.68 and 1.14, not at 1
    assert values.min() > 0.65
    assert values.max() < 1.2
    polynomial = singular / singular.norm()
    for _ in range(5):
        polynomial = 3.4445 * polynomial - 4.7750 * polynomial**3 + 2.0315 * polynomial**5
    assert_same(found, u * polynomial @ v)
    assert (found - u @ v).norm() / (u @ v).norm() < 0.25


# ------------------------------------------------------------------------------------- checkpoints and failures


def test_the_newest_checkpoint_is_a_whole_one(chapter, tmp_path):
    assert chapter["newest"](tmp_path) == 0
    for name in ("step-2", "step-10", "step-12.partial", "last"):
        (tmp_path / name).mkdir()
    assert chapter["newest"](tmp_path) == 10


@pytest.mark.parametrize(("cost", "hours"), [(20, 3), (60, 2), (120, 6)])
def test_simulated_failures_cost_what_the_formulas_say(chapter, cost, hours):
    between, found = 3600 * hours, {}
    best = planner.checkpoint_interval(cost, between)
    for times in (0.3, 1, 3):
        every = times * best
        found[times] = chapter["simulated"](every, cost, between)
        assert found[times] == pytest.approx(chapter["lost"](every, cost, between), abs=0.05)
        # exactly (Daly 2006): an interval takes M exp(r / M) (exp((T + c) / M) - 1) seconds on average
        seconds = between * math.exp(600 / between) * math.expm1((every + cost) / between)
        assert found[times] == pytest.approx(1 - every / seconds, abs=0.01)
    assert found[1] < min(found[0.3], found[3])


def test_without_failures_only_saving_costs(chapter):
    assert chapter["simulated"](900, 100, 1e15, days=100) == pytest.approx(0.1, abs=1e-3)


def test_minutes_between_saves_are_those_of_the_package(chapter):
    for cards, years, cost in itertools.product((1, 100, 10_000), (2, 5.5), (10, 300)):
        wanted = planner.checkpoint_interval(cost, years * 365 * 86_400 / cards) / 60
        assert chapter["minutes_between_saves"](cards, years, cost) == pytest.approx(wanted)


# ------------------------------------------------------------------------------------- the planner


def random_case(numbers):
    tp, pp = numbers.choice([1, 2, 4, 8, 16]), numbers.choice([1, 2, 4])
    virtual = numbers.choice([1, 2]) if pp > 1 else 1
    heads = 16 * numbers.choice([1, 2, 4])
    config = models.TransformerConfig(
        layers=pp * virtual * numbers.randint(1, 5),
        width=64 * heads,
        hidden=64 * numbers.randint(20, 200),
        heads=heads,
        kv_heads=numbers.choice([heads, heads // 4]),
        vocabulary=numbers.choice([32_000, 128_256]),
        gated=numbers.random() < 0.5,
        tied=numbers.random() < 0.5,
    )
    layout = planner.Layout(
        data=numbers.choice([1, 2, 8, 64]),
        tensor=tp,
        pipeline=pp,
        micro_batch=numbers.choice([1, 2]),
        virtual=virtual,
        recompute=numbers.choice([*planner.RECOMPUTED]),
    )
    batch = layout.data * layout.micro_batch * numbers.randint(1, 9)
    return (
        config,
        planner.CARDS[numbers.choice([*planner.CARDS])],
        layout,
        batch,
        numbers.choice([1024, 8192]),
    )


def test_the_terms_by_hand_are_those_of_the_planner(chapter):
    numbers, hidden, sharded = random.Random(0), 0, 0
    for _ in range(300):
        config, card, layout, batch, sequence = case = random_case(numbers)
        tokens, found = batch * sequence, planner.plan(*case)
        terms = {
            "matrix": chapter["products_seconds"](config, card, layout, tokens),
            "attention": chapter["causal_seconds"](config, card, layout, tokens, sequence),
            "elementwise": chapter["memory_seconds"](config, card, layout, tokens),
            "tensor": chapter["width_seconds"](config, card, layout, tokens),
        }
        for name, seconds in terms.items():
            assert seconds == pytest.approx(getattr(found, f"{name}_seconds")), name
        work = sum(terms.values()) - terms["tensor"]
        if config.tied:
            continue  # the chapter counts the table of tokens twice, as in models that do not tie it
        sharding = chapter["shards_seconds"](config, card, layout, batch, work)
        assert sharding == pytest.approx(found.sharding_seconds, abs=1e-9)
        hidden, sharded = hidden + (sharding == 0), sharded + (sharding > 0)
        wanted = found.seconds - found.optimizer_seconds
        assert chapter["step_seconds"](*case) == pytest.approx(wanted)
    assert min(hidden, sharded) > 10


def test_there_are_680_ways_and_each_uses_all_cards(chapter):
    ways = [*chapter["ways_of"](2**14)]
    assert len({*ways}) == len(ways) == 680 == math.comb(17, 3)
    assert {math.prod(way) for way in ways} == {2**14}
    assert all(part & (part - 1) == 0 for way in ways for part in way)
    assert (128, 8, 16, 1) in ways
    assert len([*chapter["ways_of"](8)]) == math.comb(6, 3)


def test_impossible_ways_are_left_out_and_the_others_can_be_planned(chapter):
    config, batch, sequence = chapter["llama"].config, *chapter["sizes"]
    possible = partial(chapter["is_possible"], config, batch, sequence)
    assert possible(128, 8, 16, 1)
    assert not possible(64, 16, 16, 1)  # more ranks than heads of keys
    assert not possible(4096, 4, 1, 1)  # more than texts
    assert not possible(16, 8, 128, 1)  # more than layers
    assert not possible(128, 8, 1, 16)  # 512 tokens a card
    for way in [way for way in chapter["ways_of"](2**14) if possible(*way)][::10]:
        plans = [*chapter["plans_of"](config, batch, sequence, *way)]
        assert len(plans) == 3
        assert len({plan.bytes for plan in plans}) == 3
