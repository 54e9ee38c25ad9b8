"""Chapter 2: its autograd engine against torch, on programs that nobody chose."""

import random

import numpy as np
import pytest
import torch
from chapter_code import chapter_namespace

ENGINE = ["unbroadcast", "value", "order", "arithmetic", "matmul", "functions", "shapes", "operators"]
CELLS = [*(f"engine-{name}" for name in ENGINE), "random-graphs"]
CHAPTER = chapter_namespace("02_autograd", CELLS, np=np, random=random, torch=torch)
Value, random_result = CHAPTER["Value"], CHAPTER["random_result"]
SHAPES = [(3, 4), (1, 4), (3, 1), (1, 1)]


def both(*shapes: tuple[int, ...], seed: int = 0) -> tuple[list, list[torch.Tensor]]:
    """Return the same random leaves for our engine and for torch."""
    numbers = np.random.default_rng(seed)
    arrays = [numbers.normal(size=shape) for shape in shapes]
    return [Value(array) for array in arrays], [torch.tensor(array, requires_grad=True) for array in arrays]


def assert_same_gradients(ours: list, theirs: list[torch.Tensor]) -> None:
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.grad.shape == tuple(yours.shape)
        torch.testing.assert_close(torch.tensor(mine.grad), yours.grad)


@pytest.mark.parametrize("first", range(1_000, 3_000, 500))
def test_gradients_of_random_programs_equal_those_of_torch(first: int) -> None:
    for seed in range(first, first + 500):
        ours, theirs = both(*SHAPES, seed=seed)
        random_result(ours, seed, steps=12).backward()
        random_result(theirs, seed, steps=12).backward()
        assert_same_gradients(ours, theirs)


def test_random_programs_use_every_operation_and_are_not_trivial() -> None:
    used = set()
    for seed in range(50):
        choose = random.Random(seed)
        used |= {choose.choice(choose.choice([CHAPTER["UNARY"], CHAPTER["BINARY"]])) for _ in range(8)}
        ours, _ = both(*SHAPES, seed=seed)
        random_result(ours, seed).backward()
        assert all(np.abs(leaf.grad).max() > 1e-6 for leaf in ours)
    assert used == {*CHAPTER["UNARY"], *CHAPTER["BINARY"]}


@pytest.mark.parametrize(
    ("shapes", "program"),
    [
        (((2, 3), (3,)), lambda a, b: (a + b).sum()),
        (((2, 1, 3), (4, 1)), lambda a, b: (a * b).sum()),
        (((5,), ()), lambda a, b: (a / b).mean()),
        (((2, 4, 3), (3, 5)), lambda a, b: ((a @ b) ** 2).sum()),
        (((2, 3),), lambda a: (a * a + a * a.tanh()).sum()),
        (((2, 3),), lambda a: (a.T @ a).exp().sum()),
        (((2, 3),), lambda a: (a.reshape(3, 2) @ a).sum()),
        (((2, 3),), lambda a: (a.sum(axis=1) ** 3).sum()),
        (((2, 3),), lambda a: (1 / (2 - a.tanh()) - 3).sum()),
        (((4,),), lambda a: (5 + 2 * a - a**2).sum()),
    ],
)
def test_rules_broadcast_and_reuse(shapes: tuple, program: object) -> None:
    ours, theirs = both(*shapes)
    program(*ours).backward()
    program(*theirs).backward()
    assert_same_gradients(ours, theirs)


def test_gradients_add_up_like_those_of_torch() -> None:
    ours, theirs = both((3,))
    for leaves in (ours, theirs):
        for _ in range(2):
            (leaves[0] ** 2).sum().backward()
    assert_same_gradients(ours, theirs)


def test_deep_graphs_need_no_deep_calls() -> None:
    ours, theirs = both((2,))
    for leaves in (ours, theirs):
        result = leaves[0]
        for _ in range(5_000):
            result = result * 0.999 + 0.001
        result.sum().backward()
    assert_same_gradients(ours, theirs)


def test_backward_wants_one_number() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\): sum it up"):
        Value(np.ones(3)).backward()


@pytest.mark.parametrize(("left", "right"), [((3,), (3, 2)), ((2, 3), (3,)), ((3,), (3,)), ((), (2, 2))])
def test_a_vector_has_no_matrix_product(left: tuple, right: tuple) -> None:
    with pytest.raises(ValueError, match="reshape it to a row or a column"):
        Value(np.ones(left)) @ Value(np.ones(right))


def test_a_wrong_rule_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = CHAPTER["elementwise"](np.tanh, lambda x, y: 1 - y)
    monkeypatch.setattr(Value, "tanh", wrong)
    ours, theirs = both(*SHAPES, seed=1)
    random_result(ours, 1).backward()
    random_result(theirs, 1).backward()
    with pytest.raises(AssertionError):
        assert_same_gradients(ours, theirs)
