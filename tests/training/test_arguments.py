"""What `fit` says of arguments that it cannot use: one line each, before any training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_run import images, network, sgd, train
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from bigmodel_helpers.training import fit, optim

X, Y = torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)
T = torch.zeros(4, 5, dtype=torch.int64)
PAIR = (
    r"the default loss and count take \(inputs, targets\), two tensors, or \(inputs, targets, documents\), three of "
    r"int64 and one shape \(B, T\); give fit a loss= and"
)
MISTAKES = {
    "a schedule that is a class": (
        {"schedule": CosineAnnealingLR},
        "schedule is CosineAnnealingLR: give a function of the progress",
    ),
    "a schedule that is a number": ({"schedule": 0.1}, "schedule is a float: give a function"),
    "a schedule that is a word": ({"schedule": "cosine"}, "schedule is a str: give a function"),
    "no schedule": ({"schedule": None}, "schedule is None: give a function"),
    "a schedule that was not made": (
        {"schedule": optim.triangle},
        r"schedule returned .*multiplier at progress 0: return a number; call it to make",
    ),
    "a schedule of nothing": ({"schedule": lambda t: None}, "schedule returned None at progress 0: return a"),
    "a negative rate": (
        {"schedule": lambda t: 1 - 3 * t},
        "schedule returned -0.5 at progress 0.5: return 0 or more",
    ),
    "a rate that is no number": (
        {"schedule": lambda t: float("nan")},
        "schedule returned nan at progress 0: return 0 or more",
    ),
    "batches that are dicts": ({"batches": [{"pixels": X, "label": Y}]}, "a dict of pixels, label: " + PAIR),
    "batches of three": ({"batches": [(X, Y, Y)]}, "a tuple of Tensor, Tensor, Tensor: " + PAIR),
    "documents of another kind": (
        {"batches": [(T, T, T.int())]},
        "a tuple of Tensor, Tensor, Tensor: " + PAIR,
    ),
    "documents of another shape": (
        {"batches": [(T, T, T[:2])]},
        "a tuple of Tensor, Tensor, Tensor: " + PAIR,
    ),
    "one document a row": ({"batches": [(Y, Y, Y)]}, "a tuple of Tensor, Tensor, Tensor: " + PAIR),
    "documents without numbers": (
        {"batches": [(T, T, None)]},
        "a tuple of Tensor, Tensor, NoneType: " + PAIR,
    ),
    "documents and more": ({"batches": [(T, T, T, T)]}, "Tensor, Tensor, Tensor, Tensor: " + PAIR),
    "batches of arrays": ({"batches": [(X.numpy(), Y.numpy())]}, "a tuple of ndarray, ndarray: " + PAIR),
    "batches without targets": ({"batches": X}, "a batch is a Tensor: " + PAIR),
    "one batch for many": ({"batches": {"pixels": X, "label": Y}}, "a batch is a str: " + PAIR),
    "no batches at all": (
        {"batches": []},
        "pass 1 of the batches has none: give batches that can be read again",
    ),
    "images without batches": (
        {"batches": images()},
        r"batches is an ImageSet: give batches, such as data.Batches",
    ),
    "a number for batches": ({"batches": 16}, "batches is an int: give batches"),
    "PyTorch's loss function": (
        {"loss": F.cross_entropy},
        "loss is cross_entropy of PyTorch, which takes logits: give",
    ),
    "PyTorch's loss module": (
        {"loss": nn.NLLLoss()},
        "loss is a NLLLoss of PyTorch, which takes logits: give",
    ),
    "a word for a loss": ({"loss": "mse"}, r"loss is 'mse': give a function of \(model, batch\)"),
    "a loss per target": (
        {"loss": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none")},
        r"loss returned shape \(16,\): return the sum over the targets, a 0-d tensor",
    ),
    "a loss that is a number": ({"loss": lambda *_: 0.5}, "loss returned a float: return the sum"),
    "a word for steps": ({"steps": "6"}, "steps is '6': use at least 1, a whole number"),
    "no steps": ({"steps": None}, "steps is None: use at least 1"),
    "checkpoints that are not kept": ({"keep": 0}, "keep is 0: use at least 1"),
    "a word for a format": (
        {"dtype": "bfloat16"},
        "dtype is 'bfloat16': use None, torch.bfloat16 or torch.float16",
    ),
    "a format of whole numbers": ({"dtype": torch.int8}, "dtype is torch.int8: use None"),
    "one callback": ({"callbacks": print}, "callbacks is print: give a list of callbacks"),
    "no list of callbacks": ({"callbacks": None}, "callbacks is None: give a list"),
    "a word for a callback": (
        {"callbacks": ["stop"]},
        "callback 'stop' can neither be called nor has it before_step",
    ),
    "an evaluation of one number": ({"evaluate": lambda m: 0.5}, "evaluate returned a float: return a dict"),
    "an evaluation of nothing": ({"evaluate": lambda m: None}, "evaluate returned None: return a dict"),
    "a metric of many numbers": (
        {"evaluate": lambda m: {"accuracy": torch.zeros(3)}},
        r"evaluate returned 'accuracy' of shape \(3,\): return one number",
    ),
    "no optimizer": ({"optimizers": []}, "optimizers is empty: give one"),
    "a word for an optimizer": (
        {"optimizers": ["sgd"]},
        "a str among the optimizers is none: give those of torch.optim",
    ),
    "another network's optimizer": (
        {"optimizers": sgd(network())},
        "SGD has no parameter of the model: make it from",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_told_in_one_line(kind):
    options, message = MISTAKES[kind]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        train(**options)
    assert "\n" not in str(caught.value)
    assert type(caught.value) in (TypeError, ValueError)


@pytest.mark.parametrize("made", [lambda o: CosineAnnealingLR(o, 9), lambda o: LambdaLR(o, lambda step: 1.0)])
def test_a_scheduler_of_pytorch_is_no_schedule(made):
    model = network()
    optimizer = sgd(model)
    with pytest.raises(
        TypeError, match=r"schedule is a \w+LR: give a function of the progress, 0 to below 1, such as"
    ):
        train(model, optimizers=optimizer, schedule=made(optimizer))


def test_a_model_with_nothing_to_train_is_told():
    optimizer = sgd(network())
    for model in (nn.Flatten(), network().requires_grad_(False)):
        with pytest.raises(
            ValueError, match="no parameter of the model requires a gradient: there is nothing"
        ):
            fit(model, [(X, Y)], optimizer, steps=1)


def test_numbers_of_numpy_are_numbers():
    run = train(steps=np.int64(3), every=np.int32(2), schedule=lambda t: np.float32(0.5), dtype=None)
    assert [row["learning_rate"] for row in run.history] == [0.05, 0.05]


def test_an_optimizer_may_hold_more_than_the_model():
    model, margin = network(), nn.Parameter(torch.ones(()))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]) * margin, batch[1], reduction="sum")

    train(model, loss=loss, optimizers=torch.optim.SGD([*model.parameters(), margin], lr=0.1))
    assert margin != 1
