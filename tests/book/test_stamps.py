"""What no run made is found: an edited output, picture or alternative text, and a package that has changed."""

import shutil
from pathlib import Path

import pytest
from tiny_notebook import PIXEL, ROOT, code, good_notebook, notebook, save, shown, stamped, stream

from tools.notebooks import execute, rules, stamps
from tools.notebooks import notebook as nb_tools

OTHER_PIXEL = PIXEL.replace("mNkYPhfDw", "mP8z8BQDw")
TABLE = "<table><tr><td>87.2</td></tr></table>"


def cell(nb, cell_id):
    return next(cell for cell in nb.cells if cell.id == cell_id)


def chapter():
    nb = good_notebook()
    cell(nb, "movable").outputs.append(shown(**{"text/html": TABLE, "text/plain": "a table"}))
    return stamped(nb)


EDITS = {
    "a printed line": ("sum", lambda c: c.outputs[0].update(text="5\n")),
    "a table cell": ("movable", lambda c: c.outputs[1].data.update({"text/html": TABLE.replace("87", "97")})),
    "another picture": ("figure", lambda c: c.outputs[0].data.update({"image/png": OTHER_PIXEL})),
    "the text of a movable figure": (
        "movable",
        lambda c: c.outputs[0].data.update({"text/html": c.outputs[0].data["text/html"] + "<p>best</p>"}),
    ),
    "an output too few": ("sum", lambda c: c.update(outputs=[])),
    "an output too many": ("profile", lambda c: c.update(outputs=[stream("fast\n")])),
    "two outputs exchanged": ("movable", lambda c: c.outputs.reverse()),
}
WORDS = {
    "an alternative text": lambda options: options.image.update(alt="Two empty squares with two axes"),
    "a caption": lambda options: options.figure.update(caption="The best square."),
    "no alternative text": lambda options: options.image.pop("alt"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_output_that_no_run_made_is_found(tmp_path, edit):
    nb, (cell_id, change) = chapter(), EDITS[edit]
    assert stamps.problems("04_cifar_training", nb) == []
    change(cell(nb, cell_id))
    path = save(nb, tmp_path)
    told = [f"cell {cell_id} shows what no run made; cure: make execute NB=04_cifar_training"]
    assert stamps.problems(path.stem, nb_tools.read(path)) == told
    assert set(told) <= set(rules.layout.is_stamped(path, nb_tools.read(path)))
    before = path.read_bytes()
    assert execute.restamp(path) == told
    assert path.read_bytes() == before


@pytest.mark.parametrize("edit", WORDS)
def test_words_about_a_picture_are_stamped_anew_only_on_demand(tmp_path, monkeypatch, capsys, edit):
    nb = chapter()
    WORDS[edit](cell(nb, "figure").metadata.mystnb)
    path = save(nb, tmp_path)
    (told,) = stamps.problems(path.stem, nb_tools.read(path))
    assert told.startswith(
        "cell figure has a caption or alternative text that its stamp does not know; cure: "
    )
    assert told.endswith("python -m tools.notebooks.execute --restamp 04_cifar_training")
    monkeypatch.setattr("sys.argv", ["execute.py", "--restamp", path.stem, "--notebooks-dir", str(tmp_path)])
    assert execute.main() == 0
    printed = capsys.readouterr().out
    options = cell(nb, "figure").metadata.mystnb
    assert printed.startswith("04_cifar_training, cell figure: stamped without a run: ")
    assert all(text in printed for text in stamps.descriptions(cell(nb, "figure")).values())
    assert stamps.problems(path.stem, nb_tools.read(path)) == []
    assert cell(nb_tools.read(path), "figure").metadata.mystnb == options
    assert execute.main() == 0
    assert capsys.readouterr().out == ""


def test_a_stamp_of_before_is_told_what_it_lacks():
    nb = chapter()
    del nb.metadata["bigmodel"]["outputs"]
    (told,) = stamps.problems("04_cifar_training", nb)
    assert told == "has a stamp without outputs; cure: make execute NB=04_cifar_training"


# ------------------------------------------------------------------------------------ the package's code

EXPLORE = "figures/explore.py"
CHANGES = {
    "a comment": (EXPLORE, "import json\n", "import json  # of text\n# patterns\n", []),
    "a docstring": (EXPLORE, '"""', '"""Other words. ', []),
    "code": (EXPLORE, "import json\n", "import json\n\nSPEED = 2\n", [EXPLORE]),
    "what a used module uses": ("runtime.py", "import os\n", "import os\n\nSPEED = 2\n", ["runtime.py"]),
    "what no used module uses": ("training/loop.py", "import math\n", "import math\n\nSPEED = 2\n", []),
    "what a room offers": (
        "figures/__init__.py",
        "import TYPE_CHECKING\n",
        "import TYPE_CHECKING, Any\n",
        [],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_code_that_the_chapter_uses_is_noted_and_no_error(tmp_path, change):
    nb = notebook(code("from bigmodel_helpers import figures, runtime\nfigures.explore.figure(1)", "one"))
    package = tmp_path / "bigmodel_helpers"
    shutil.copytree(
        ROOT / "bigmodel_helpers", package, ignore=shutil.ignore_patterns("weights", "__pycache__")
    )
    before = stamps.modules(nb, package)
    file, old, new, names = CHANGES[change]
    text = (package / file).read_text(encoding="utf-8")
    assert old in text
    (package / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    assert stamps.changed(before, stamps.modules(nb, package)) == names


def test_outputs_of_other_code_are_listed_without_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nb_tools, "FOLDER", tmp_path)
    nb = chapter()
    assert stamps.notes("04_cifar_training", nb) == []
    nb.metadata["bigmodel"]["modules"] |= {"runtime.py": "0" * 16, "gone.py": "1" * 16}
    save(nb, tmp_path)
    assert stamps.problems("04_cifar_training", nb) == []
    monkeypatch.setattr("sys.argv", ["rules.py", "--stale"])
    assert rules.main() == 0
    told = "04_cifar_training: outputs of 2026-01-02 come from other code of gone.py, runtime.py; where it "
    assert capsys.readouterr().out == f"{told}matters: make execute NB=04_cifar_training\n"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from bigmodel_helpers import data\ndata.flip(x)", {"data", "data.flip"}),
        ("from bigmodel_helpers.training import optim as o\no.Muon.step", {"training.optim.Muon.step"}),
        ("import bigmodel_helpers.runtime as r\nr.seed_everything(1)", {"runtime.seed_everything"}),
        ("import torch\ntorch.load(data.flip)\n%pip install bigmodel_helpers.data", set()),
    ],
)
def test_what_code_takes_from_the_package(source, names):
    found = stamps.uses(source)
    assert names <= found
    assert names or not found


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("data.flip", "data/augmentation.py"),
        ("data.text.load", "data/text.py"),
        ("figures.use_style", "figures/plots.py"),
        ("runtime.provenance", "runtime.py"),
        ("models.pretrained.load", "models/pretrained.py"),
        ("data", None),
        ("data.no_such_name", None),
        ("no_such_room.name", None),
    ],
)
def test_where_a_name_is_defined(name, file):
    assert stamps.module_of(name, stamps.PACKAGE) == (stamps.PACKAGE / file if file else None)


def test_cells_that_are_no_python_use_nothing():
    cells = [code("%%bash\necho 'it is fine'", "bash"), code("figures.use_style?", "help")]
    nb = notebook(code("from bigmodel_helpers import figures", "one"), *cells, code("figures.BLUE", "two"))
    assert stamps.used_by(nb) == {"figures", "figures.BLUE"}


def test_every_name_that_a_chapter_uses_is_found():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        names = stamps.used_by(nb_tools.read(path))
        lost = [name for name in names if "." in name and stamps.module_of(name, stamps.PACKAGE) is None]
        assert lost == [], path.stem


def test_code_is_what_is_left_without_comments_docstrings_and_blank_lines():
    source = '''\
"""Title.

# no comment
"""
x = "# kept"  # é gone


def f(y):
    r"""Doc."""
    # gone
    return f"{y} # kept"


class C:
    """Ends."""

    """Again: {}"""
    z = """kept
  # kept"""
'''
    kept = [
        'x = "# kept"',
        "def f(y):",
        '    return f"{y} # kept"',
        "class C:",
        '    z = """kept',
        '  # kept"""',
    ]
    assert list(stamps.code_lines(source)) == kept


def test_the_hashes_do_not_hang_on_the_version_of_python():
    assert stamps.analyzed('"""Doc."""\nx = f"{y}"  # why\n') == ("69607c1f82aec6bf", set())
    assert Path(stamps.__file__).read_text(encoding="utf-8").count("ast.dump") == 0
