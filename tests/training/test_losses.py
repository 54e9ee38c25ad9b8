"""Losses: sums over targets with their counts, and distillation with its limits."""

import pytest
import torch
import torch.nn.functional as F
from tiny_transformers import CONFIGS, network
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


# ------------------------------------------------------------------------------------- rows of documents


def rows(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches (inputs, targets, documents), with as many targets as they happen to have."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        tokens = torch.randint(97, (1 + index % 3, 13), generator=generator)
        documents = (torch.rand(tokens.shape, generator=generator) < 0.3).cumsum(1)
        targets = tokens.roll(-1, 1)
        targets[torch.rand(targets.shape, generator=generator) < 0.2] = -100
        made.append((tokens, targets, documents))
    return made


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_documents_of_a_batch_reach_the_model(kind):
    model, (batch,) = network(CONFIGS[kind]), rows(1)
    inputs, targets, documents = batch
    scores = model(inputs, documents=documents).flatten(0, 1)
    wanted = F.cross_entropy(scores, targets.flatten(), reduction="sum")
    torch.testing.assert_close(training.cross_entropy(model, batch), wanted)
    torch.testing.assert_close(training.cross_entropy(model, list(batch)), wanted)
    assert not torch.isclose(training.cross_entropy(model, batch[:2]), wanted)
    assert training.count_targets(batch) == training.count_targets(batch[:2]) == (targets >= 0).sum()
    assert training.count_targets(batch, weight=torch.full((97,), 0.5)) == (targets >= 0).sum() / 2


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_steps_on_rows_of_documents_are_those_of_a_loop_by_hand(kind):
    batches, models = rows(4), [network(CONFIGS[kind]).requires_grad_() for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    options = {"accumulate": 2, "every": 1, "unit": "tokens", "progress": False}
    run = training.fit(models[0], batches, optimizers[0], steps=2, **options)
    losses = []
    for step in (batches[:2], batches[2:]):
        total = sum(int((targets != -100).sum()) for _, targets, _ in step)
        loss = sum(
            F.cross_entropy(models[1](inputs, documents=documents).transpose(1, 2), targets, reduction="sum")
            for inputs, targets, documents in step
        )
        (loss / total).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
        losses.append(loss.item() / total)
    assert [row["train_loss"] for row in run.history] == pytest.approx(losses, rel=1e-5)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


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


# ------------------------------------------------------------------------------------------- CTC


class Scores(nn.Module):
    """Has the scores as its parameters, and notes what it is called with."""

    def __init__(self, batch: int, steps: int, letters: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.scores = nn.Parameter(torch.randn(batch, steps, 1 + letters, generator=generator))

    def forward(self, frames, steps, **options):
        self.called = frames, steps, options
        return self.scores


def by_the_forward_algorithm(scores: torch.Tensor, letters: list[int]) -> torch.Tensor:
    """Return the loss of one utterance, as Graves et al. 2006 write it (equations 5 to 8), in plain chances."""
    p, signs = scores.double().softmax(1), [0, *(sign for letter in letters for sign in (letter, 0))]
    nothing = torch.zeros((), dtype=torch.float64)
    row = [p[0, sign] if s < 2 else nothing for s, sign in enumerate(signs)]
    for step in p[1:]:
        old, row = row, []
        for s, sign in enumerate(signs):
            total = old[s] + (old[s - 1] if s else nothing)
            if s > 1 and sign and sign != signs[s - 2]:
                total = total + old[s - 2]
            row.append(total * step[sign])
    return -(row[-1] + (row[-2] if letters else nothing)).log()


@pytest.mark.parametrize("seed", range(5))
def test_ctc_is_the_sum_over_utterances_with_its_gradients(seed):
    model = Scores(3, 9, 4, seed)
    texts, steps = [[1, 1, 2], [4, 3, 4, 3], []], torch.tensor([9, 6, 4])
    letters = torch.tensor([letter for text in texts for letter in text])
    found = training.ctc_loss(model, (None, steps, letters, torch.tensor([3, 4, 0])))
    each = zip(model.scores, steps.tolist(), texts, strict=True)
    wanted = sum(by_the_forward_algorithm(scores[:count], text) for scores, count, text in each)
    assert found.ndim == 0
    assert torch.isclose(found.double(), wanted, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(loss, model.scores)[0] for loss in (found, wanted))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not ours[1, 6:].any()


def test_ctc_calls_the_model_with_frames_steps_and_options():
    model, frames, steps = Scores(1, 5, 3, 0), torch.zeros(1, 10, 40), torch.tensor([5])
    training.ctc_loss(model, (frames, steps, torch.tensor([3]), torch.tensor([1])), chunk=4)
    assert model.called == (frames, steps, {"chunk": 4})


def test_ctc_of_half_precision_is_summed_in_float32():
    model = Scores(2, 6, 3, 0)
    batch = None, torch.tensor([6, 6]), torch.tensor([1, 2]), torch.tensor([1, 1])
    wanted = training.ctc_loss(model, batch)
    found = training.ctc_loss(model.bfloat16(), batch)
    assert found.dtype == torch.float32
    assert torch.isclose(found, wanted, rtol=0.02)


def test_ctc_of_silence_only():
    batch = None, torch.tensor([4, 4]), torch.tensor([], dtype=torch.int64), torch.tensor([0, 0])
    model = Scores(2, 4, 3, 0)
    wanted = -model.scores.log_softmax(2)[:, :, 0].sum()
    assert torch.isclose(training.ctc_loss(model, batch), wanted)


@pytest.mark.parametrize("letters", [[0, 1], [1, 4], [-1, 2]])
def test_ctc_refuses_letters_without_a_score(letters):
    batch = None, torch.tensor([5]), torch.tensor(letters), torch.tensor([2])
    with pytest.raises(ValueError, match="but 4 scores a step: number them from 1 to 3"):
        training.ctc_loss(Scores(1, 5, 3, 0), batch)


def test_an_utterance_with_too_few_steps_is_named():
    model = lambda frames, steps: torch.zeros(2, 5, 4)  # noqa: E731
    for text, steps in (([1, 2], 1), ([1, 1], 2)):
        batch = (
            torch.zeros(2, 10, 40),
            torch.tensor([5, steps]),
            torch.tensor([3, *text]),
            torch.tensor([1, 2]),
        )
        with pytest.raises(
            ValueError, match=f"utterance 1 has {steps} steps, and its letters need {steps + 1}"
        ):
            training.ctc_loss(model, batch)
