"""The stopwatch, counted parameters and FLOPs, peak memory."""

import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bigmodel_helpers import measure
from bigmodel_helpers.measure import timing

MB = 10**6
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


class FakeTime:
    """A clock that moves only when told to; `queued` work takes its time when the device is waited for."""

    def __init__(self):
        self.now, self.cpu, self.queued = 100.0, 10.0, 0.0
        self.calls = []

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.cpu

    def synchronize(self, device):
        self.now, self.queued = self.now + self.queued, 0.0

    def work(self, name, seconds, cpu=0.0):
        def call():
            self.calls.append(name)
            self.now += seconds
            self.cpu += cpu

        return call


@pytest.fixture
def clock(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(
        timing, "time", SimpleNamespace(**{n: getattr(fake, n) for n in ("perf_counter", "process_time")})
    )
    monkeypatch.setattr(timing, "synchronize", fake.synchronize)
    return fake


def test_stopwatch_counts_only_while_it_runs(clock):
    watch = measure.Stopwatch()
    clock.now += 5
    assert watch.seconds == 0
    watch.resume()
    clock.now += 2
    clock.cpu += 3
    assert (watch.seconds, watch.cpu_seconds) == (2, 3)
    watch.pause()
    clock.now += 7
    clock.cpu += 7
    assert (watch.seconds, watch.cpu_seconds) == (2, 3)
    watch.pause()
    with watch:
        clock.now += 1
        watch.resume()
        clock.now += 1
    assert (watch.seconds, watch.cpu_seconds) == (4, 3)


def test_stopwatch_goes_on_from_a_saved_state(clock):
    watch = measure.Stopwatch().resume()
    clock.now += 2
    clock.cpu += 3
    state = json.loads(json.dumps(watch.state()))
    clock.now += 1000
    later = measure.Stopwatch(**state)
    assert (later.seconds, later.cpu_seconds) == (2, 3)
    with later:
        clock.now += 1
    assert later.seconds == 3


def test_stopwatch_waits_for_the_device(clock):
    clock.queued = 50.0  # work from before must not count
    with measure.Stopwatch() as watch:
        clock.queued = 4.0
    assert watch.seconds == 4
    watch.resume()
    clock.queued = 1.0
    assert watch.seconds == 5


def test_stopwatch_pauses_when_the_block_fails(clock):
    watch = measure.Stopwatch()

    def fail():
        clock.now += 1
        raise KeyError

    with pytest.raises(KeyError), watch:
        fail()
    clock.now += 1
    assert watch.seconds == 1


def test_real_stopwatch_tells_waiting_from_computing():
    with measure.Stopwatch() as watch:
        time.sleep(0.1)
    assert watch.seconds >= 0.09
    assert watch.cpu_seconds < 0.5 * watch.seconds


def test_time_call_leaves_out_the_warmup_and_waits_for_the_device(clock):
    durations = iter([100.0, 50.0, 3.0, 1.0, 2.0])

    def fn():
        clock.queued = next(durations)

    timing = measure.time_call(fn, repeats=3, warmup=2)
    assert timing.seconds == (3, 1, 2)
    assert timing.median == 2
    assert timing.spread == (1, 3)


def test_throughput_is_items_over_seconds(clock):
    rate = measure.throughput(clock.work("a", 0.5), 128, unit="images", repeats=3)
    assert rate.values == (256, 256, 256)
    assert str(rate) == "256 images/s (256-256, 3 calls)"


def test_compare_alternates_and_divides_pair_by_pair(clock):
    slowdown = iter([1, 1, 1, 1, 2, 2, 5, 5])  # the machine gets slower: ratios within a pair stay right

    def work(name, seconds):
        def call():
            clock.calls.append(name)
            clock.now += seconds * next(slowdown)

        return call

    ratio = measure.compare(work("a", 2.0), work("b", 6.0), repeats=3, warmup=1)
    assert "".join(clock.calls) == "abababab"
    assert ratio.values == (3, 3, 3)


def test_compare_with_the_real_clock():
    ratio = measure.compare(lambda: time.sleep(0.02), lambda: time.sleep(0.06), repeats=3, warmup=0)
    assert 1.5 < ratio.median < 4


@pytest.mark.parametrize(
    "call", [measure.time_call, lambda fn, repeats: measure.compare(fn, fn, repeats=repeats)]
)
def test_no_repeats_is_an_error(call):
    with pytest.raises(ValueError, match="at least 1"):
        call(lambda: None, repeats=0)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (measure.Timing((0.0119, 0.0123, 0.0123, 0.0124, 0.013)), "12.3 ms (11.9-13.0, 5 calls)"),
        (measure.Timing((2.5,)), "2.50 s (2.50-2.50, 1 call)"),
        (measure.Timing((120.4, 3000.0, 3000.0)), "3,000 s (120-3,000, 3 calls)"),
        (measure.Timing((2e-5, 2e-5)), "20.0 µs (20.0-20.0, 2 calls)"),
        (measure.Rate((1198.4, 1234.1, 1260.0), "images"), "1,234 images/s (1,198-1,260, 3 slices)"),
        (measure.Rate((0.0,)), "0 items/s (0-0, 1 slice)"),
        (measure.Rate((2.0, 3.0), "tokens", "epoch"), "2.50 tokens/s (2.00-3.00, 2 epochs)"),
        (measure.Ratio((2.1, 2.31, 2.4)), "2.3x (2.1-2.4, 3 pairs)"),
        (measure.Ratio((1.02, 1.03, 1.031)), "1.03x (1.02-1.03, 3 pairs)"),
        (measure.Ratio((150.0, 1234.0, 2000.0)), "1,234x (150-2,000, 3 pairs)"),
    ],
)
def test_results_are_printed_with_median_and_range(result, text):
    assert str(result) == text


def test_parameters_count_shared_tensors_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
    assert measure.parameters(model) == 16 + 8 + 16
    model[2].weight = model[0].weight
    assert measure.parameters(model) == 16 + 8
    model[0].weight.requires_grad_(False)
    assert measure.parameters(model, trainable_only=True) == 8


def conv_flops(batch, c_in, c_out, kernel, out_size, groups=1):
    return 2 * batch * out_size**2 * c_out * (c_in // groups) * kernel**2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_flops(bias, dtype):
    model, x = nn.Linear(30, 50, bias=bias, dtype=dtype), torch.zeros(7, 30, dtype=dtype)
    forward = 2 * 7 * 30 * 50
    assert measure.flops(model, x) == forward
    assert (
        measure.flops(model, x, backward=True) == 2 * forward
    )  # the input needs no gradient, the weight does
    two = nn.Sequential(model, nn.ReLU(), nn.Linear(50, 50, bias=bias, dtype=dtype))
    second = 2 * 7 * 50 * 50
    assert measure.flops(two, x, backward=True) == 2 * forward + 3 * second


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups", "out_size"),
    [(3, 1, 1, 1, 8), (3, 1, 0, 1, 6), (3, 2, 1, 1, 4), (1, 1, 0, 1, 8), (3, 1, 1, 2, 8)],
)
def test_conv_flops(kernel, stride, padding, groups, out_size):
    model = nn.Conv2d(6, 10, kernel, stride=stride, padding=padding, groups=groups)
    forward = conv_flops(5, 6, 10, kernel, out_size, groups)
    x = torch.zeros(5, 6, 8, 8)
    assert measure.flops(model, x) == forward
    assert measure.flops(model, x, backward=True) == 2 * forward
    two = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), model)
    first = conv_flops(5, 6, 6, 1, 8)
    assert measure.flops(two, x, backward=True) == 2 * first + 3 * forward


def test_transposed_conv_flops():
    forward = 2 * 5 * 8**2 * 6 * 10 * 3**2  # each of the 8 x 8 input places meets the whole filter
    model, x = nn.ConvTranspose2d(6, 10, 3, stride=2), torch.zeros(5, 6, 8, 8)
    assert measure.flops(model, x) == forward
    assert measure.flops(model, x, backward=True) == 2 * forward


def test_attention_flops():
    class Attention(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q)

    assert measure.flops(Attention(), torch.zeros(2, 3, 16, 8)) == 2 * (2 * 2 * 3 * 16 * 16 * 8)


@pytest.mark.parametrize(
    ("shapes", "function", "flops"),
    [
        ([(5, 7), (7,)], torch.mv, 2 * 5 * 7),
        ([(7,), (7, 5)], torch.matmul, 2 * 5 * 7),
        ([(7,), (7,)], torch.dot, 2 * 7),
        ([(7,), (7,)], torch.vdot, 2 * 7),
        ([(5,), (5, 7), (7,)], torch.addmv, 2 * 5 * 7),
        ([(5, 6), (4, 5, 7), (4, 7, 6)], torch.addbmm, 2 * 4 * 5 * 6 * 7),
        ([(4, 5, 6), (4, 5, 7), (4, 7, 6)], torch.baddbmm, 2 * 4 * 5 * 6 * 7),
        ([(4, 5, 7), (7,)], torch.matmul, 2 * 4 * 5 * 7),
        ([(5, 7), (7, 6)], torch.mm, 2 * 5 * 6 * 7),
    ],
)
def test_every_kind_of_matrix_product_counts(shapes, function, flops):
    class Product(nn.Module):
        def forward(self, *factors):
            return function(*factors)

    assert measure.flops(Product(), *(torch.zeros(shape) for shape in shapes)) == flops


def test_attention_counts_alike_whichever_kernel_runs():
    class Attention(nn.Module):
        def __init__(self, heads, **options):
            super().__init__()
            self.scale, self.heads, self.options = nn.Parameter(torch.ones(8)), heads, options

        def forward(self, q):
            q = q * self.scale
            k = q[:, : self.heads]
            return nn.functional.scaled_dot_product_attention(q, k, k, **self.options)

    mask = torch.zeros(16, 16, device="meta")
    kinds = [{}, {"is_causal": True}, {"attn_mask": mask}, {"attn_mask": mask > 0}, {"dropout_p": 0.1}]
    models = [Attention(4, **options) for options in kinds] + [Attention(2, enable_gqa=True)]
    forward = 2 * 2 * 2 * 4 * 16 * 16 * 8
    for model in models:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.zeros(2, 4, 16, 8, dtype=dtype)
            assert measure.flops(model.to(dtype), x) == forward
            assert measure.flops(model, x, backward=True) == 3 * forward


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(8), nn.RMSNorm(8), nn.BatchNorm1d(8), nn.GELU(), nn.Softmax(1), nn.Dropout()]
)
def test_what_is_done_number_by_number_is_left_out_as_the_docstring_says(layer):
    assert measure.flops(layer, torch.zeros(4, 8, requires_grad=True), backward=True) == 0
    assert "normalization" in measure.flops.__doc__
    both = nn.Sequential(nn.Linear(8, 8), layer)
    assert measure.flops(both, torch.zeros(4, 8)) == 2 * 4 * 8 * 8


def test_fused_transformer_layers_count_in_both_modes():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    expected = 5 * 12 * 2 * (4 * 16 * 16 + 2 * 16 * 32) + 5 * 2 * 2 * 12 * 12 * 16
    for mode in (True, False):
        assert measure.flops(layer.train(mode), torch.zeros(5, 12, 16)) == expected


def test_a_forward_pass_may_return_what_it_likes():
    assert measure.flops(nn.LSTM(4, 8), torch.zeros(5, 2, 4)) == 2 * 5 * 2 * 4 * 8 * (4 + 8)


def test_the_backward_pass_is_that_to_the_parameters():
    x, model = torch.zeros(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
    assert measure.flops(model, x.clone().requires_grad_(), backward=True) == measure.flops(
        model, x, backward=True
    )
    frozen = model.requires_grad_(False)
    assert measure.flops(frozen, x, backward=True) == measure.flops(frozen, x)


def test_frozen_layers_cost_no_backward_flops():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    model[0].requires_grad_(False)
    assert measure.flops(model, torch.zeros(1, 10), backward=True) == 3 * 2 * 10 * 10


def test_counting_flops_changes_nothing_and_takes_meta_and_compiled_models():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.ones(2, 3, 8, 8)
    count = measure.flops(model, x, backward=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert model.training
    assert measure.flops(model, x.to("meta"), backward=True) == count
    assert measure.flops(torch.compile(model), x, backward=True) == count


@pytest.mark.parametrize("device", DEVICES)
def test_peak_memory_counts_what_the_call_needs_on_top(device):
    held = torch.ones(10 * MB, device=device)  # 40 MB that are there before

    def fn():
        ones = torch.ones(16 * MB, device=device)
        both = ones, ones + 1  # two tensors of 64 MB at the same time
        time.sleep(0.05)  # long enough for a sampling thread on a busy machine
        return both

    peaks = [measure.peak_memory(fn, device) for _ in range(2)]
    assert all(115 * MB < peak < 170 * MB for peak in peaks), peaks
    assert measure.peak_memory(lambda: held[0] + 1, device) < 8 * MB


def test_peak_memory_sees_a_peak_in_the_middle_and_memory_freed_before():
    def fn():
        blocks = [torch.ones(4096) for _ in range(4096)]  # small blocks: free() leaves them in the heap
        time.sleep(0.05)
        del blocks
        time.sleep(0.01)

    peaks = [measure.peak_memory(fn, "cpu") for _ in range(2)]
    assert all(55 * MB < peak < 100 * MB for peak in peaks), peaks


def test_peak_memory_passes_errors_on_and_ends_its_thread():
    threads = threading.active_count()
    with pytest.raises(KeyError):
        measure.peak_memory(lambda: {}["no such key"], "cpu")
    assert threading.active_count() == threads


def test_peak_memory_refuses_a_device_without_memory():
    with pytest.raises(RuntimeError, match="device meta cannot be measured"):
        measure.peak_memory(lambda: None, "meta")
