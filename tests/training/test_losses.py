"""Losses: sums over targets with their counts, and distillation with its limits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bigmodel_helpers import data, training


def logits(seed: int, rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_loss_by_its_formula(temperature):
    z, t = logits(0), logits(1)
    p, q = (t / temperature).softmax(1), (z / temperature).softmax(1)
    wanted = temperature**2 * (p * (p / q).log()).sum()
    found = training.distillation_loss(z, t, temperature)
    assert torch.isclose(found.double(), wanted, rtol=1e-4)


def test_loss_is_zero_where_both_agree_and_positive_elsewhere():
    z = logits(2)
    assert training.distillation_loss(z + 3, z).abs() < 1e-5
    assert training.distillation_loss(z, logits(3)) > 0.1


def test_at_temperature_one_the_gradient_is_that_of_soft_labels():
    z, t = logits(4).float().requires_grad_(), logits(5).float()
    (ours,) = torch.autograd.grad(training.distillation_loss(z, t, 1.0), z)
    (theirs,) = torch.autograd.grad(F.cross_entropy(z, t.softmax(1), reduction="sum"), z)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_at_high_temperature_logits_are_matched():
    z, t = logits(6), logits(7)
    found = training.distillation_loss(z, t, 300.0).double()
    assert torch.isclose(found, (z - t).var(1, correction=0).sum() / 2, rtol=0.02)


@pytest.mark.parametrize("temperature", [0, -1])
def test_impossible_temperature(temperature):
    with pytest.raises(ValueError, match="must be positive"):
        training.distillation_loss(logits(0), logits(1), temperature)


@pytest.mark.parametrize("shape", [(5, 10), (6, 9), (6, 1), (6, 10, 2)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="pass \\(B, C\\) twice"):
        training.distillation_loss(torch.zeros(shape), logits(0))


# ----------------------------------------------------------------------------------- sums over the targets


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_cross_entropy_is_the_sum_and_the_count_is_its_number(shape):
    z, targets = logits(0), torch.tensor([1, -100, 3, 9, -100, 0]).reshape(shape)
    model, batch = nn.Identity(), (z.reshape(*shape, 10), targets)
    weight = torch.arange(1.0, 11.0)
    for options, chosen in (({}, None), ({"label_smoothing": 0.1}, None), ({"weight": weight}, weight)):
        mean = F.cross_entropy(
            z, targets.flatten(), None if chosen is None else chosen.double(), **options_of(options)
        )
        found = training.cross_entropy(model, batch, **options)
        torch.testing.assert_close(
            found / training.count_targets(batch, weight=chosen), mean, check_dtype=False
        )
    assert training.count_targets(batch) == 4


def options_of(options):
    return {name: value for name, value in options.items() if name != "weight"}


def test_a_sum_of_16_bit_logits_is_made_in_32():
    z = torch.randn(4096, 10, dtype=torch.bfloat16)
    batch = (z, torch.zeros(4096, dtype=torch.int64))
    found = training.cross_entropy(nn.Identity(), batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.cross_entropy(z.float(), batch[1], reduction="sum"))


# --------------------------------------------------------------------------------------------- a teacher


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3)) @ self.weight.T


def test_a_student_learns_to_answer_like_the_teacher_without_labels():
    teacher, student = Linear().eval(), Linear()
    nn.init.zeros_(student.weight)
    images = torch.randint(256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    image_set = data.ImageSet(images, torch.zeros(40).long(), tuple("abcdefghij"), "made up")

    def loss(model, batch):
        x, _ = batch
        with torch.no_grad():
            answers = teacher(x)
        return training.distillation_loss(model(x), answers)

    run = training.fit(
        student,
        data.Batches(image_set, 10, shuffle=True, augment=data.Augment(shift=1)),
        torch.optim.Adam(student.parameters(), lr=0.1),
        steps=240,
        loss=loss,
        progress=False,
    )
    assert run.history[-1]["train_loss"] < 0.1 * run.history[0]["train_loss"]
