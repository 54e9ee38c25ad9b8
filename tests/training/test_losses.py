"""Distillation: the loss and its limits, and batches whose labels are a teacher's answers."""

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
    wanted = temperature**2 * (p * (p / q).log()).sum(1).mean()
    found = training.distillation_loss(z, t, temperature)
    assert torch.isclose(found.double(), wanted, rtol=1e-4)


def test_loss_is_zero_where_both_agree_and_positive_elsewhere():
    z = logits(2)
    assert training.distillation_loss(z + 3, z).abs() < 1e-5
    assert training.distillation_loss(z, logits(3)) > 0.1


def test_at_temperature_one_the_gradient_is_that_of_soft_labels():
    z, t = logits(4).float().requires_grad_(), logits(5).float()
    (ours,) = torch.autograd.grad(training.distillation_loss(z, t, 1.0), z)
    (theirs,) = torch.autograd.grad(F.cross_entropy(z, t.softmax(1)), z)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_at_high_temperature_logits_are_matched():
    z, t = logits(6), logits(7)
    found = training.distillation_loss(z, t, 300.0).double()
    assert torch.isclose(found, (z - t).var(1, correction=0).mean() / 2, rtol=0.02)


@pytest.mark.parametrize("temperature", [0, -1])
def test_impossible_temperature(temperature):
    with pytest.raises(ValueError, match="must be positive"):
        training.distillation_loss(logits(0), logits(1), temperature)


@pytest.mark.parametrize("shape", [(5, 10), (6, 9), (6, 1), (6, 10, 2)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="pass \\(B, C\\) twice"):
        training.distillation_loss(torch.zeros(shape), logits(0))


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3)) @ self.weight.T


def batches(**options) -> data.Batches:
    images = torch.randint(256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    image_set = data.ImageSet(images, torch.zeros(40).long(), tuple("abcdefghij"), "made up")
    return data.Batches(image_set, 10, shuffle=True, augment=data.Augment(shift=1), **options)


def test_labels_are_the_teachers_logits_for_the_augmented_pixels():
    teacher = Teacher().eval()
    taught = training.TaughtBatches(batches(seed=3), teacher)
    assert len(taught) == 4
    for (x, answers), (wanted, _) in zip(taught, batches(seed=3), strict=True):
        assert torch.equal(x, wanted)
        assert torch.equal(answers, teacher(x))
        assert not answers.requires_grad
    taught.set_epoch(5, 2)
    again = [x for x, _ in taught]
    fresh = batches(seed=3)
    fresh.set_epoch(5, 2)
    assert all(map(torch.equal, again, [x for x, _ in fresh]))


def test_teacher_must_be_in_evaluation_mode():
    with pytest.raises(ValueError, match="training mode"):
        training.TaughtBatches(batches(), Teacher())


def test_a_student_learns_to_answer_like_the_teacher_without_labels():
    teacher = Teacher().eval()
    torch.manual_seed(1)
    student = Teacher()
    nn.init.zeros_(student.weight)
    taught = training.TaughtBatches(batches(), teacher)
    run = training.fit(
        student,
        taught,
        torch.optim.Adam(student.parameters(), lr=0.1),
        epochs=60,
        loss=training.distillation_loss,
        progress=False,
    )
    assert run.history[-1]["train_loss"] < 0.1 * run.history[0]["train_loss"]
