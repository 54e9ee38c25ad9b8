import copy

import pytest
import torch
from tiny_run import StopError, assert_same, weights
from tiny_transformers import CONFIGS
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bigmodel_helpers import runtime
from bigmodel_helpers.data.text import Windows
from bigmodel_helpers.models import ByteLM, Transformer, TransformerConfig
from bigmodel_helpers.training import fit, optim


def test_orthogonalize_keeps_the_singular_vectors_and_evens_the_values():
    torch.manual_seed(0)
    for shape in ((16, 40), (40, 16), (16, 16)):
        matrix = torch.randn(shape)
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        result = optim.orthogonalize(matrix, iterations=5)
        inner = u.T @ result @ vt.T
        assert result.shape == matrix.shape
        assert ((inner.diag() > 0.5) & (inner.diag() < 1.4)).all()
        assert (inner - torch.diag(inner.diag())).abs().max() < 0.1


def test_muon_agrees_with_torch_on_a_matrix():
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 20), [torch.randn(8, 20) for _ in range(4)]
    start *= 8**0.5 / start.norm()
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = optim.Muon([ours], lr=1e-3, momentum=0.6)
    reference = torch.optim.Muon([theirs], lr=1e-3, momentum=0.6, weight_decay=0.0, ns_steps=3, eps=1e-7)
    for gradient in gradients:
        before = ours.detach() * (8**0.5 / ours.detach().norm())
        theirs.data.copy_(before)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        reference.step()
        torch.testing.assert_close(ours - before, theirs - before, rtol=0.02, atol=2e-5)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_muon_without_rescale_agrees_with_torch(shape):
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))]
    muon = optim.Muon(weights[:1], lr=0.1, momentum=0.6, weight_decay=0.5, rescale=False)
    settings = {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.5, "ns_steps": 3, "eps": 1e-7}
    reference = torch.optim.Muon(weights[1:], **settings)
    for _ in range(4):
        gradient = torch.randn(shape)
        for weight, optimizer in zip(weights, (muon, reference), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(*weights, rtol=0.02, atol=2e-3)


def orthogonalize_one(matrix):
    quick = runtime.cpu_has_bfloat16()
    x = (matrix.T if matrix.shape[0] > matrix.shape[1] else matrix).to(
        torch.bfloat16 if quick else torch.float32
    )
    x = x / (x.norm() + 1e-7)
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.to(matrix.dtype)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def step_one(weight, momentum, gradient, *, lr, momentum_rate, weight_decay):
    """Step one matrix as Muon is defined; changes `weight` and `momentum`."""
    momentum.mul_(momentum_rate).add_(gradient)
    update = orthogonalize_one((gradient + momentum_rate * momentum).flatten(1)).reshape(weight.shape)
    weight.mul_(len(weight) ** 0.5 / weight.norm())
    weight.mul_(1 - lr * weight_decay).sub_(lr * update)


SHAPES = [(8, 3, 3, 3), (8, 27), (40, 16), (8, 3, 3, 3), (16, 40), (8, 6, 1, 1), (40, 16), (16, 8, 3, 3)]


def kernels(dtype=torch.float32, channels_last=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    if channels_last:
        tensors = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
    return tensors


def two_groups(weights):
    return optim.Muon(
        [
            {"params": weights[:4], "weight_decay": 0.1},
            {"params": weights[4:], "lr": 0.05, "momentum": 0.9},
        ],
        lr=0.1,
    )


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_batched_step_is_one_matrix_after_the_other(dtype, channels_last):
    weights = [nn.Parameter(w) for w in kernels(dtype, channels_last)]
    expected = [w.detach().clone() for w in weights]
    momenta = [torch.zeros_like(w) for w in expected]
    muon = two_groups(weights)
    rates = [{"lr": 0.1, "momentum_rate": 0.6, "weight_decay": 0.1}] * 4
    rates += [{"lr": 0.05, "momentum_rate": 0.9, "weight_decay": 0.0}] * 4
    for step in range(4):
        for index, gradient in enumerate(kernels(dtype, channels_last, seed=step + 1)):
            weights[index].grad = None if index % 4 == step else gradient  # each is missing once
            if index % 4 != step:
                step_one(expected[index], momenta[index], gradient, **rates[index])
        muon.step()
    # Orthogonalization rounds to bfloat16, and another order of columns rounds otherwise.
    loose = channels_last or dtype is torch.bfloat16
    for weight, momentum, ours in zip(expected, momenta, weights, strict=True):
        torch.testing.assert_close(ours.detach(), weight, rtol=0, atol=0.02 if loose else 1e-6)
        assert ours.stride() == weight.stride()
        atol = 0.03 if dtype is torch.bfloat16 else 1e-6
        torch.testing.assert_close(muon.state[ours]["momentum"], momentum, rtol=0.01, atol=atol)


@pytest.mark.parametrize("hardware", [False, True])
def test_matrices_are_orthogonalized_as_a_batch(monkeypatch, hardware):
    for module in (optim, runtime):
        monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: hardware)
    torch.manual_seed(0)
    for shape in ((2, 3, 16, 40), (2, 3, 40, 16)):
        batch = torch.randn(shape)
        one_by_one = torch.stack([orthogonalize_one(matrix) for matrix in batch.flatten(0, 1)])
        atol = 0.01 if hardware else 1e-5
        torch.testing.assert_close(optim.orthogonalize(batch).flatten(0, 1), one_by_one, rtol=0, atol=atol)


class Calls(TorchDispatchMode):
    """Counts the operators that compute something; views of memory cost no launch."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not (func.is_view or func is torch.ops.aten._unsafe_view.default)
        return func(*args, **(kwargs or {}))


def test_more_matrices_of_a_shape_take_no_more_calls():
    counts = []
    for copies in (1, 2, 12):
        weights = [nn.Parameter(torch.randn(8, 3, 3, 3)) for _ in range(copies)]
        muon = optim.Muon(weights, weight_decay=0.1)
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        muon.step()
        with Calls() as calls:
            muon.step()
        counts.append(calls.count)
    assert counts[0] == counts[1] == counts[2] < 50


def test_a_muon_goes_on_from_its_state():
    def train(weights, muon, steps):
        for step in steps:
            for weight, gradient in zip(weights, kernels(seed=step + 1), strict=True):
                weight.grad = gradient
            muon.step()

    undisturbed = [nn.Parameter(w) for w in kernels()]
    muon = two_groups(undisturbed)
    train(undisturbed, muon, range(2))
    state = muon.state_dict()
    assert [sorted(values) for values in state["state"].values()] == [["momentum"]] * len(SHAPES)
    assert [values["momentum"].shape for values in state["state"].values()] == [torch.Size(s) for s in SHAPES]
    # A file keeps no memory format: the state comes back contiguous, beside weights that are channels last.
    resumed = [nn.Parameter(w.detach().clone()) for w in undisturbed]
    for weight in resumed:
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    other = two_groups(resumed)
    other.load_state_dict(copy.deepcopy(state))
    train(undisturbed, muon, range(2, 4))
    train(resumed, other, range(2, 4))
    for a, b in zip(undisturbed, resumed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.01)
        torch.testing.assert_close(muon.state[a]["momentum"], other.state[b]["momentum"])


def test_a_weight_that_is_a_view_is_stepped_in_place():
    table = torch.randn(10, 12)
    weight = nn.Parameter(table.T[:, :8])
    expected, gradient = weight.detach().clone(), torch.randn(12, 8)
    step_one(expected, torch.zeros(12, 8), gradient, lr=0.1, momentum_rate=0.6, weight_decay=0)
    weight.grad = gradient
    optim.Muon([weight], lr=0.1).step()
    torch.testing.assert_close(table.T[:, :8], expected, rtol=0, atol=0.01)


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    weight = nn.Parameter(torch.randn(4, 6))
    muon = optim.Muon([weight])

    def closure():
        muon.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    before = weight.detach().square().sum()
    torch.testing.assert_close(muon.step(closure).detach(), before)
    assert weight.square().sum() < before


def test_without_a_gradient_nothing_changes():
    weight = nn.Parameter(torch.ones(2, 3))
    muon = optim.Muon([weight])
    assert muon.step() is None
    assert torch.equal(weight, torch.ones(2, 3))
    assert muon.state_dict()["state"] == {}


@pytest.mark.parametrize("gradient", [torch.ones(4, 6), torch.zeros(4, 6)], ids=["ones", "zeros"])
def test_a_weight_may_begin_as_zeros(gradient):
    weight, other = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.ones(4, 6))
    weight.grad, other.grad = gradient, gradient
    optim.Muon([weight, other], lr=0.1).step()  # in one batch
    torch.testing.assert_close(weight.detach(), -0.1 * optim.orthogonalize(gradient))
    assert other.isfinite().all()


@pytest.mark.parametrize("shape", [(), (5,)])
def test_what_is_not_a_matrix_is_refused(shape):
    muon = optim.Muon([nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(
        ValueError, match=r"^Muon .* of shape \((5,)?\): give it to torch.optim.SGD or AdamW$"
    ):
        muon.add_param_group({"params": [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(shape))]})
    assert len(muon.param_groups) == 1


def test_a_matrix_split_over_ranks_is_refused():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh))
        with pytest.raises(ValueError, match=r"^Muon .* DTensor, .*: use torch.optim.SGD or AdamW with it$"):
            optim.Muon([weight])
    finally:
        torch.distributed.destroy_process_group()


def test_convolutions_keep_the_norm_that_batch_norm_ignores():
    kernel = nn.Parameter(torch.randn(6, 3, 3, 3))
    muon = optim.Muon([kernel], lr=1e-9)
    kernel.grad = torch.randn_like(kernel)
    muon.step()
    assert kernel.norm().item() == pytest.approx(6**0.5, rel=1e-5)


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"momentum": 1.0}])
def test_senseless_settings_are_refused(options):
    with pytest.raises(ValueError, match="Muon needs"):
        optim.Muon([nn.Parameter(torch.ones(2, 2))], **options)


def test_schedules_have_their_corners():
    assert optim.constant(0.3) == 1
    shape = optim.triangle(warmup=0.2, start=0.5, end=0.1)
    assert [shape(x) for x in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0.5, 0.75, 1, 0.55, 0.1])
    shape = optim.cosine(warmup=0.5, end=0.2)
    assert [shape(x) for x in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 0.5, 1, 0.6, 0.2])


def test_warmup_stable_decay_has_its_corners():
    shape = optim.warmup_stable_decay(warmup=0.2, decay=0.4, end=0.1)
    found = [shape(x) for x in (0, 0.1, 0.2, 0.4, 0.6, 0.8, 1)]
    assert found == pytest.approx([0, 0.5, 1, 1, 1, 0.55, 0.1])
    shape = optim.warmup_stable_decay()
    assert [shape(x) for x in (0, 0.025, 0.05, 0.8, 0.9, 1)] == pytest.approx([0, 0.5, 1, 1, 0.5, 0])
    assert {optim.warmup_stable_decay(0, 0, 0)(x) for x in (0, 0.5, 1)} == {1}
    shape = optim.warmup_stable_decay(0.7, 0.3)  # nothing between
    assert [shape(x) for x in (0.35, 0.7, 0.85, 1)] == pytest.approx([0.5, 1, 0.5, 0])
    assert optim.warmup_stable_decay(1, 0)(0.5) == optim.warmup_stable_decay(0, 1)(0.5) == 0.5


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ((0.6, 0.5, 0), "warmup 0.6 and decay 0.5 of the run with end 0"),
        ((5, 20, 0), "warmup 5 and decay 20 of the run with end 0"),
        ((-0.1, 0.2, 0), "warmup -0.1 and decay 0.2 of the run with end 0"),
        ((0.1, -0.2, 0), "warmup 0.1 and decay -0.2 of the run with end 0"),
        ((float("nan"), 0.2, 0), "warmup nan and decay 0.2 of the run with end 0"),
        ((0.1, 0.2, -0.1), "warmup 0.1 and decay 0.2 of the run with end -0.1"),
        ((0.1, 0.2, 1.5), "warmup 0.1 and decay 0.2 of the run with end 1.5"),
    ],
)
def test_a_warmup_and_a_decay_that_overlap_are_refused_at_once(shares, told):
    cure = ": take shares of 0 to 1, warmup and decay at most 1 together"
    with pytest.raises(ValueError, match=f"^{told}{cure}$"):
        optim.warmup_stable_decay(*shares)


# ------------------------------------------------------------------------------------- two optimizers


def names(model, parameters):
    known = {parameter: name for name, parameter in model.named_parameters()}
    return [known[parameter] for parameter in parameters]


def outside(name):
    return "norm" in name or name.startswith(("embed", "lm_head")) or name.endswith("bias")


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_matrices_of_the_blocks_are_apart_from_the_others(kind):
    model = Transformer(CONFIGS[kind])
    parts = [names(model, part) for part in optim.split_parameters(model)]
    everything = names(model, model.parameters())
    assert parts[0] == [name for name in everything if not outside(name)]
    assert parts[1] == [name for name in everything if outside(name)]
    assert len(parts[0]) == 3 * (7 if CONFIGS[kind].gated else 6)
    torch.optim.Muon(optim.split_parameters(model)[0])


def test_a_width_like_the_vocabulary_misleads_nobody():
    model = Transformer(TransformerConfig(2, 16, 16, 2, 2, 16, positions=16))
    assert names(model, optim.split_parameters(model)[1])[:2] == [
        "embed_tokens.weight",
        "embed_positions.weight",
    ]
    assert len(optim.split_parameters(model)[0]) == 14


def test_frozen_parameters_are_left_out():
    model = Transformer(CONFIGS["llama"])
    model.layers[1].requires_grad_(False)
    model.embed_tokens.requires_grad_(False)
    matrices, others = (names(model, part) for part in optim.split_parameters(model))
    assert len(matrices) == 14
    assert not any(name.startswith("layers.1.") for name in matrices + others)
    assert {name for name in others if "layers" not in name} == {"norm.weight", "lm_head.weight"}


class Headed(nn.Module):
    """The output layer is made first, the blocks are an `nn.Sequential`, and all share one block."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 7))
        self.places = nn.Parameter(torch.zeros(5, 6))
        self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))] * 3)
        self.extra_heads = nn.ModuleList(nn.Linear(6, 7) for _ in range(2))
        self.embedding = nn.Embedding(7, 6)


def test_blocks_of_other_networks_are_found_too():
    model = Headed()
    matrices, others = optim.split_parameters(model)
    assert names(model, matrices) == ["blocks.0.0.weight", "blocks.0.2.weight"]
    assert {*matrices} | {*others} == {*model.parameters()}
    assert len(others) == len({*others}) == len([*model.parameters()]) - 2
    for wrapped in (nn.Sequential(model, nn.Identity()), nn.ModuleList([model])):  # a network is no block
        assert [*map(id, optim.split_parameters(wrapped)[0])] == [*map(id, matrices)]
    byte_lm = ByteLM(width=8, layers=2, heads=2, context=8)
    assert {".".join(name.split(".")[3:]) for name in names(byte_lm, optim.split_parameters(byte_lm)[0])} == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 4),
        nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7)),
        Transformer(CONFIGS["llama"]).requires_grad_(False),
        nn.Flatten(),
    ],
    ids=["one layer", "no blocks", "frozen", "nothing"],
)
def test_a_network_without_such_matrices_is_refused(model):
    message = (
        rf"^{type(model).__name__} has no trainable matrix in a block \(an element of an nn.ModuleList or "
        r"nn.Sequential, with parts of its own\): give all its parameters to torch.optim.AdamW$"
    )
    with pytest.raises(ValueError, match=message):
        optim.split_parameters(model)


def test_both_optimizers_train_in_one_run_and_go_on_after_a_stop(tmp_path):
    class Stop:
        def __init__(self, step):
            self.step = step

        def after_step(self, run):
            if run.step == self.step:
                raise StopError

    def run(folder, stop_at=None):
        torch.manual_seed(0)
        model = Transformer(TransformerConfig(2, 32, 64, 4, 2, 11))
        matrices, others = optim.split_parameters(model)
        optimizers = [
            torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=0.02),
        ]
        text = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6]).repeat(50)
        return fit(
            model,
            Windows(text, 16, 8, seed=1),
            optimizers,
            steps=60,
            schedule=optim.warmup_stable_decay(0.1, 0.3),
            every=10,
            callbacks=[Stop(stop_at)],
            checkpoints=folder,
            unit="tokens",
            progress=False,
        )

    whole = run(tmp_path / "whole")
    assert whole.history[-1]["train_loss"] < 0.1
    with pytest.raises(StopError):
        run(tmp_path / "broken", 35)
    assert_same(weights(run(tmp_path / "broken").model), weights(whole.model))
