"""Numbers in prose are those of the last run; words are written from values, and back."""

import copy

import pytest
from tiny_notebook import FACTS, code, notebook, save, text

from tools.notebooks import bindings, check, content, execute
from tools.notebooks import notebook as nb_tools

PROVENANCE = f"""\
after = 1
from IPython.display import display
display({{"{nb_tools.PROVENANCE_MIME}": {FACTS}, "text/plain": "made here"}}, raw=True)"""  # needs no torch
BOUND = {"phrase": "takes {} of the bits", "value": "after / before", "format": "part"}


def bound_cell(source: str, *numbers: dict[str, object], name: str = "read"):
    cell = text(source, name)
    cell.metadata["bigmodel"] = {"numbers": [dict(each) for each in numbers]}
    return cell


def measured(source: str, value: float, bound: dict[str, object] = BOUND):
    nb = notebook(bound_cell(source, bound))
    nb.metadata["bigmodel"]["numbers"] = {"read": {bound["value"]: value}}
    return nb


def breaches(nb, tmp_path) -> list[str]:
    return bindings.has_bound_numbers_as_measured(tmp_path / "04_cifar_training.ipynb", nb)


@pytest.mark.parametrize(
    ("value", "form", "words"),
    [
        (2.0, "count", "two"),
        (60, "count", "sixty"),
        (1.04, "times", "once"),
        (1.9, "times", "twice"),
        (3.2, "times", "three times"),
        (97, "times", "a hundred times"),
        (10.4, "fold", "tenfold"),
        (0.126, "part", "an eighth"),
        (0.33, "part", "a third"),
        (0.66, "part", "two thirds"),
        (0.048, "part", "a twentieth"),
        (1234.5, ",.0f", "1,234"),
        (93.06, ".1f", "93.1"),
        (0.251, ".0%", "25%"),
    ],
)
def test_a_value_is_written_as_prose_writes_it(value, form, words):
    assert bindings.written(value, form) == words


@pytest.mark.parametrize(
    ("value", "form"), [(3.1, "count"), (21, "count"), (2.5, "times"), (0.85, "part"), (-2, "times")]
)
def test_no_word_is_written_for_a_value_that_is_not_near(value, form):
    with pytest.raises(ValueError, match=r"no word of the format .* is near"):
        bindings.written(value, form)


def test_a_number_is_put_in_anew_wherever_the_line_breaks_and_keeps_its_capital():
    bound = [
        {"phrase": "{} the time", "value": "t", "format": "times"},
        {"phrase": "takes {} MB, and", "value": "m", "format": ",.0f"},
        {"phrase": "an accuracy of {} %", "value": "a", "format": ".1f"},
    ]
    old = "Three times\nthe time. It takes\n1,200 MB, and has an accuracy of **x** or an\naccuracy of 91.2 %."
    new = "Twice\nthe time. It takes\n950 MB, and has an accuracy of **x** or an\naccuracy of 93.0 %."
    assert bindings.rewritten(old, bound, [2.1, 950.2, 93.04]) == new
    assert bindings.rewritten(new, bound, [2.1, 950.2, 93.04]) == new


@pytest.mark.parametrize(
    ("source", "value", "problem"),
    [
        ("It takes a quarter of the bits.", 0.25, ""),
        ("It takes an eighth of the bits.", 0.25, "does not say what the last run measured"),
        ("It takes a quarter of all bits.", 0.25, "stands 0 times in the text"),
        ("It takes a quarter of the bits. It takes half of the bits.", 0.25, "stands 2 times in the text"),
    ],
)
def test_prose_and_measurement_must_agree(tmp_path, source, value, problem):
    found = breaches(measured(source, value), tmp_path)
    assert [problem in line for line in found] == ([True] if problem else []), found


def test_a_binding_is_checked_itself(tmp_path):
    right = "It takes a quarter of the bits."
    for change, problem in [
        ({"value": "after +"}, "binds a number wrongly"),
        ({"value": "after"}, "binds numbers that no run measured"),
        ({"format": "count"}, "stands 0 times"),
        ({"phrase": "takes a quarter"}, "has no {}"),
        ({"unit": "bit"}, "binds a number by ['format', 'phrase', 'unit', 'value']"),
    ]:
        nb = measured(right, 0.25)
        nb.cells[0].metadata["bigmodel"]["numbers"][0] |= change
        (found,) = breaches(nb, tmp_path)
        assert problem in found
    nb = measured(right, 0.25)
    del nb.cells[0].metadata["bigmodel"]
    assert "binds numbers that no run measured, or no more" in breaches(nb, tmp_path)[0]


def test_a_bound_number_needs_no_other_source(tmp_path):
    nb = measured("It takes a quarter of the bits.", 0.25)
    path = tmp_path / "04_cifar_training.ipynb"
    assert content.has_no_measured_number_in_prose(path, nb) == []
    nb.cells[0].metadata["bigmodel"]["numbers"] = []
    assert "has a quarter in" in content.has_no_measured_number_in_prose(path, nb)[0]
    nb = measured("It takes a quarter of the bits, and 3 s.", 0.25)
    assert "has 3 s in" in content.has_no_measured_number_in_prose(path, nb)[0]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook as `make execute` leaves it: bound numbers at their place and at the end, and asserts."""
    folder = tmp_path_factory.mktemp("executed")
    late = {"phrase": "In the end {} remain", "value": "left", "format": "count", "late": True}
    now = {"phrase": "{} of the bits", "value": "after / before", "format": "part"}
    nb = notebook(
        bound_cell("In the end five remain.", late),
        code("profile_name = None", "knob", "parameters"),
        code("before, after, left = 32, 8, 7", "values"),
        bound_cell("Half of the bits.", now, name="after"),
        code("for left in (3, 2):\n    assert left < before, 'no'\nassert [after, left] == [8, 2]", "claims"),
        code(PROVENANCE, "provenance"),
    )
    path = save(nb, folder)
    assert execute.execute(path, "laptop", folder / "failed") == []
    return path, nb_tools.read(path)


def test_execution_puts_the_measured_numbers_into_the_prose(executed):
    path, nb = executed
    assert [nb.cells[i].source for i in (0, 3)] == ["In the end two remain.", "A quarter of the bits."]
    assert nb.metadata["bigmodel"]["numbers"]["after"] == {"after / before": 0.25}
    assert bindings.has_bound_numbers_as_measured(path, nb) == []


def test_execution_keeps_what_asserts_compared_and_leaves_nothing_else(executed):
    _, nb = executed
    seen = {"left": 2, "before": 32, "[after, left]": [8, 2]}
    assert nb.metadata["bigmodel"]["evidence"] == {"claims": seen}
    assert [cell.id for cell in nb.cells] == ["read", "knob", "values", "after", "claims", "provenance"]
    assert [cell.execution_count for cell in nb_tools.code_cells(nb)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"value": "nothing"}, "which fails: NameError"),
        ({"value": "'two'"}, "'two' is no number"),
        ({"phrase": "takes {} of"}, "stands 0 times in the text"),
    ],
)
def test_execution_leaves_the_notebook_where_a_number_is_none(executed, tmp_path, change, problem):
    nb = copy.deepcopy(executed[1])
    nb.cells[3].metadata["bigmodel"]["numbers"][0] |= change
    path = save(nb, tmp_path)
    before = path.read_bytes()
    (found,) = execute.execute(path, "laptop", tmp_path / "failed")
    assert problem in found
    assert path.read_bytes() == before


def test_a_number_for_which_there_is_no_word_is_told_and_another_format_needs_no_second_run(
    executed, tmp_path
):
    nb = copy.deepcopy(executed[1])
    nb.cells[3].metadata["bigmodel"]["numbers"][0]["value"] = "0.85 * after / after"
    path = save(nb, tmp_path)
    (found,) = execute.execute(path, "laptop", tmp_path / "failed")
    assert "cell after: no word of the format 'part' is near 0.85" in found
    nb = nb_tools.read(path)
    assert "cannot be written" in bindings.has_bound_numbers_as_measured(path, nb)[0]
    nb.cells[3].source = "All but 99 % of the bits."
    nb.cells[3].metadata["bigmodel"]["numbers"][0] |= {"phrase": "All but {} %", "format": ".1f"}
    nb_tools.write(path, nb)
    assert execute.restamp(path) == []
    nb = nb_tools.read(path)
    assert nb.cells[3].source == "All but 0.8 % of the bits."
    assert bindings.has_bound_numbers_as_measured(path, nb) == []


def test_the_check_evaluates_bound_numbers_in_smoke(executed, tmp_path, capsys):
    nb = copy.deepcopy(executed[1])
    nb.cells[3].metadata["bigmodel"]["numbers"][0]["value"] = "later / before"
    path = save(nb, tmp_path)
    assert (
        check.main([path.stem, "--notebooks-dir", str(tmp_path), "--work-dir", str(tmp_path / "work")]) == 1
    )
    assert "cell after-numbers: NameError: name 'later' is not defined" in capsys.readouterr().out
    nb = check.checking_copy(executed[1], {})
    assert [cell.id for cell in nb.cells if "numbers" in cell.id] == ["after-numbers", "late-numbers"]
