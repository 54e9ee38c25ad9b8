"""The scoreboard: paired differences whose intervals cover, and the entries that no other beats."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from bigmodel_helpers import scoreboard
from bigmodel_helpers.measure import Ratio


def answers(seed: int, n: int, share: float = 0.9) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share


def entry(name: str, size: int, values: torch.Tensor, speed: Ratio | None = None) -> scoreboard.Entry:
    return scoreboard.Entry(name, size, 1000, 2_000_000, values, speed)


def test_difference_equals_the_paired_t_interval_of_scipy():
    a, b = answers(0, 3000).float(), answers(1, 3000, 0.87).float()
    found = scoreboard.mean_difference(a, b)
    wanted = stats.ttest_rel(a.numpy(), b.numpy()).confidence_interval(0.95)
    assert math.isclose(found.low, wanted.low, abs_tol=1e-4)
    assert math.isclose(found.high, wanted.high, abs_tol=1e-4)
    assert math.isclose(found.value, float(a.mean() - b.mean()), abs_tol=1e-6)


def test_bool_and_numbers_are_alike_and_order_matters():
    a, b = answers(2, 500), answers(3, 500, 0.8)
    one, other = scoreboard.mean_difference(a, b), scoreboard.mean_difference(b.double(), a.double())
    assert math.isclose(one.value, -other.value)
    assert math.isclose(one.low, -other.high)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_hold_the_true_difference_as_often_as_they_say(level):
    generator = torch.Generator().manual_seed(0)
    true, held, trials = 0.9 * 0.02 * -1 + 0.1 * 0.05, 0, 2000
    for _ in range(trials):
        before = torch.rand(800, generator=generator) < 0.9
        draw = torch.rand(800, generator=generator)
        after = torch.where(before, draw >= 0.02, draw < 0.05)
        found = scoreboard.mean_difference(after, before, level)
        held += found.low <= true <= found.high
    assert abs(held / trials - level) < 0.025


def test_pairing_makes_the_interval_narrower():
    before = answers(4, 2000)
    after = before.clone()
    after[:20] = ~after[:20]
    paired = scoreboard.mean_difference(after, before)
    shuffled = scoreboard.mean_difference(after[torch.randperm(2000)], before)
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


@pytest.mark.parametrize(
    ("a", "b"), [(torch.ones(3), torch.ones(4)), (torch.ones(1), torch.ones(1)), (torch.ones(2, 2),) * 2]
)
def test_values_that_do_not_fit(a, b):
    with pytest.raises(ValueError, match="the same examples twice"):
        scoreboard.mean_difference(a, b)


@pytest.mark.parametrize(
    ("costs", "scores", "front"),
    [
        ([3, 2, 1], [3, 2, 1], [2, 1, 0]),
        ([1, 2, 3], [3, 2, 1], [0]),
        ([2, 2, 1], [5, 7, 5], [2, 1]),
        ([1, 1], [2, 2], [0]),
        ([], [], []),
    ],
)
def test_front(costs, scores, front):
    assert scoreboard.pareto_front(costs, scores) == front


def test_nothing_on_the_front_is_beaten_and_everything_else_is():
    generator = torch.Generator().manual_seed(5)
    costs, scores = torch.rand(2, 200, generator=generator).tolist()
    front = scoreboard.pareto_front(costs, scores)

    def beaten(i):
        return any(
            costs[j] <= costs[i] and scores[j] >= scores[i] and (costs[j], scores[j]) != (costs[i], scores[i])
            for j in range(200)
        )

    assert set(front) == {i for i in range(200) if not beaten(i)}
    with pytest.raises(ValueError, match="2 costs and 1 scores"):
        scoreboard.pareto_front([1, 2], [1])


def test_board_compares_with_its_first_entry():
    board = scoreboard.Scoreboard()
    base = answers(6, 1000)
    board.add(entry("all", 8000, base))
    worse = base & answers(7, 1000, 0.95)
    board.add(entry("half", 4000, worse, Ratio((1.5, 2.0, 2.5))))
    assert board.difference("half").value < 0
    assert board.difference("all").value == 0
    assert board.times_smaller("half") == 2
    assert [one.name for one in board.front()] == ["half", "all"]
    first, second = board.rows()
    assert first["difference"] == first["speed"] == "-"
    assert second["kB"] == 4
    assert second["smaller"] == "2.0x"
    assert second["MFLOP"] == 2
    assert second["speed"] == "2.00x (1.50-2.50)"
    assert second["parameters"] == "0.00 M"
    gap = board.difference("half")
    assert second["difference"] == f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
    assert second["score"] == f"{100 * float(worse.double().mean()):.1f}"


def test_entries_are_replaced_by_name_and_found_by_name():
    board = scoreboard.Scoreboard()
    board.add(entry("all", 10, answers(8, 50)))
    board.add(entry("small", 5, answers(8, 50)))
    board.add(replace(board["small"], bytes=4))
    assert [one.bytes for one in board.entries] == [10, 4]
    with pytest.raises(KeyError, match="there are all, small"):
        board["big"]
    with pytest.raises(ValueError, match="was tested on 49 examples"):
        board.add(entry("other", 3, answers(8, 49)))
