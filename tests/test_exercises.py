"""What a check says: correct, or a hint that fits the mistake."""

import numpy as np
import pytest
import torch

from bigmodel_helpers import exercises
from bigmodel_helpers.distributed import WorkerError
from bigmodel_helpers.exercises import NotYetError, close, same


def checked(answer):
    @exercises.check("the mean is the sum over the count", hint="Divide.")
    def check_mean():
        same(answer([1.0, 2.0, 6.0]), 3.0, "mean([1, 2, 6])")
        assert answer([]) is None, "an empty list has no mean"

    return check_mean


def test_a_right_answer_is_told_what_it_means(capsys):
    checked(lambda x: sum(x) / len(x) if x else None)()
    assert capsys.readouterr().out == "correct: the mean is the sum over the count\n"


def test_a_second_hint_comes_on_request_and_without_the_answer(capsys):
    checked(None)(hint=True)
    assert capsys.readouterr().out == "hint: Divide.\n"


def unwritten(x):
    raise NotImplementedError("your turn")


def stops(x):
    return x[7]


SAID = {
    "it is still to be written: replace the line that raises NotImplementedError": unwritten,
    r"`return x\[7\]` in stops stops with IndexError: list index out of range": stops,
    r"mean\(\[1, 2, 6\]\) is too large": sum,
    r"mean\(\[1, 2, 6\]\) is too small": min,
    r"mean\(\[1, 2, 6\]\) is None \(is there a return\?\): a number is wanted": lambda x: None,
    r"mean\(\[1, 2, 6\]\) is a str: a number is wanted": lambda x: "three",
    r"mean\(\[1, 2, 6\]\) is a list and has the shape \(3,\), and not \(\)": lambda x: x,
    "an empty list has no mean": lambda x: torch.tensor(x).mean(),
}


@pytest.mark.parametrize("text", SAID)
def test_a_mistake_is_one_line_that_fits_it(text):
    with pytest.raises(NotYetError, match=f"^{text}; a hint: check_mean\\(hint=True\\)$") as caught:
        checked(SAID[text])()
    assert caught.value._render_traceback_() == [f"not yet: {caught.value}"]


def test_a_result_that_the_check_cannot_use_is_told():
    @exercises.check("two parts", hint="Two.")
    def check_pair():
        _, _ = (lambda: 3)()

    with pytest.raises(NotYetError, match=r"^what it returns cannot be used \(TypeError: cannot unpack"):
        check_pair()


IN_A_RANK = {
    "NotImplementedError": "it is still to be written: replace the line that raises NotImplementedError",
    "ZeroDivisionError": "rank 1 failed first: ZeroDivisionError: division by zero",
    "killed": "rank 0 was killed by SIGKILL",
    "timeout": "time is up: the ranks wait for each other, or need too long",
}
RANKS = {
    "NotImplementedError": 'rank 0 failed first\n  File "a.py", line 2, in f\nNotImplementedError: your turn',
    "ZeroDivisionError": 'rank 1 failed first\n  File "a.py", line 2, in f\n    1 / 0\n'
    "ZeroDivisionError: division by zero\n(then rank 0: RuntimeError: connection closed)",
    "killed": "rank 0 was killed by SIGKILL\n(then rank 1: RuntimeError: connection closed)",
    "timeout": 'time is up: after 9 s the ranks stood here\nrank 0\n  File "a.py", line 2, in f\nrank 1',
}


@pytest.mark.parametrize("kind", IN_A_RANK)
def test_what_stops_in_a_rank_is_told_in_one_line(kind):
    @exercises.check("ranks", hint="Ranks.")
    def check_ranks():
        raise WorkerError(RANKS[kind], 0, kind)

    with pytest.raises(NotYetError) as caught:
        check_ranks()
    assert str(caught.value) == f"{IN_A_RANK[kind]}; a hint: check_ranks(hint=True)"


def test_an_error_of_several_lines_becomes_one(capsys):
    @exercises.check("one line", hint="One.")
    def check_line():
        torch.nn.Linear(2, 3).load_state_dict({})

    with pytest.raises(NotYetError) as caught:
        check_line()
    assert "\n" not in str(caught.value)
    assert "Missing key" in str(caught.value)


def test_a_comprehension_in_the_check_is_no_code_of_the_reader():
    @exercises.check("numbers", hint="Numbers.")
    def check_list():
        assert all(item + 1 for item in ["two"]), "no number"

    with pytest.raises(NotYetError, match=r"^what it returns cannot be used \(TypeError: can only"):
        check_list()


RIGHT = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
DIFFERENCES = {
    "x has the shape (4,), and not (2, 2)": RIGHT.flatten(),
    "x has the wrong sign": -RIGHT,
    "x is transposed": RIGHT.T,
    "x is 2 times what it should be, everywhere": 2 * RIGHT,
    "x differs in 1 of 4 places": RIGHT + torch.tensor([[0, 0], [0, 1]]),
    "x is not finite where it should be, or the other way round": RIGHT / torch.tensor([[1, 0], [1, 1]]),
    "x is a dict: a tensor is wanted": {"x": 1},
    "x differs in 4 of 4 places": torch.zeros(2, 2),
}


@pytest.mark.parametrize("text", DIFFERENCES)
def test_a_tensor_is_told_how_it_differs_and_never_shown(text):
    with pytest.raises(NotYetError) as caught:
        same(DIFFERENCES[text], RIGHT, "x")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "right",
    [
        *(
            RIGHT,
            RIGHT.numpy(),
            RIGHT.numpy()[:, ::-1].astype(np.uint8)[:, ::-1],
            RIGHT.tolist(),
            list(RIGHT),
        ),
        *(RIGHT.numpy().astype(">f4"), RIGHT.numpy().astype(np.longdouble), RIGHT.to_sparse()),
        *(RIGHT.half(), RIGHT.int(), RIGHT + 1e-5, RIGHT.requires_grad_()),
    ],
)
def test_every_kind_of_number_is_right(right):
    same(right, RIGHT, "x")
    assert close(right, RIGHT)


def test_scalars_may_be_of_any_kind():
    for found in (2, 2.0, True + 1, np.float32(2), torch.tensor([2.0]), torch.tensor(2), np.array(2)):
        same(found, 2, "x")
    assert close(float("inf"), float("inf"))
    assert close(float("nan"), float("nan"))
    assert not close(1.0, float("inf"))
    assert not close("1", 1.0)
    assert not close(torch.tensor(1 + 1j), 1.0)
    assert close(0.0, 0.0)
