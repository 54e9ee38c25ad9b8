"""The rules that every chapter notebook keeps: each returns the breaches it finds, none when all is well."""

import ast
import base64
import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from nbformat import NotebookNode
from prose import numbers_with_unit, sentences

import notebooks

MAX_LINES, MAX_BYTES, MIN_ALT = 25, 3_000_000, 20
MAX_MOVABLE_BYTES = 1_500_000
SKIPPING = {"skip-execution", "nbval-skip"}
TAGS = SKIPPING | {"parameters", "exercise", "solution", "nbval-check-output", "shows-deprecated"}
TAGS |= {f"{how}-{what}" for how in ("hide", "remove") for what in ("input", "output", "cell")}
CARD = re.compile(r":{3,}\{admonition\} In this chapter\n")
Rule = Callable[[Path, NotebookNode], list[str]]


def numbered_code(nb: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Yield each code cell with the name by which problems call it."""
    for number, cell in enumerate(notebooks.code_cells(nb), start=1):
        yield f"code cell {number} ({cell.get('id', 'no id')})", cell


def tagged(nb: NotebookNode, tag: str) -> list[NotebookNode]:
    """Return the code cells with `tag`."""
    return [cell for cell in notebooks.code_cells(nb) if tag in notebooks.tags(cell)]


def syntax_tree(source: str) -> ast.Module:
    """Parse the Python in a cell; lines for IPython (``%pip``, ``!ls``) count as ``pass``."""
    return ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.MULTILINE))


def file_is_tidy(path: Path, nb: NotebookNode) -> list[str]:
    """A small file in the layout of `make execute`, with unique cell ids and without execution noise."""
    text = path.read_bytes().decode("utf-8")
    problems = []
    if len(text.encode("utf-8")) > MAX_BYTES:
        problems.append(f"is larger than {MAX_BYTES / 1e6:.0f} MB: draw smaller figures")
    ids = [cell.get("id") for cell in json.loads(text)["cells"]]
    if None in ids or len(set(ids)) < len(ids):
        problems.append("has cells without an id, or two with the same: give each cell its own id")
    elif text.replace("\r\n", "\n") != notebooks.text_of(nb):
        problems.append("is not laid out as nbformat writes it: run `make execute`")
    noise = {"papermill", "execution", "ExecuteTime"}
    if noise & set(nb.metadata) or any(noise & set(cell.metadata) for cell in nb.cells):
        problems.append("holds execution metadata: run `make execute`")
    if any("injected-parameters" in notebooks.tags(cell) for cell in nb.cells):
        problems.append("holds papermill's injected parameters: delete that cell")
    counts = [cell.execution_count for cell in notebooks.code_cells(nb) if cell.execution_count is not None]
    if counts != list(range(1, len(counts) + 1)):
        problems.append("has execution counts that are not 1, 2, 3, ...: run `make execute`")
    return problems


def is_in_the_book(path: Path, nb: NotebookNode) -> list[str]:
    """Listed in _toc.yml, named NN_topic, kernel python3."""
    toc = yaml.safe_load((notebooks.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    problems = [] if f"'notebooks/{path.stem}'" in str(toc) else ["is not in _toc.yml: list it there"]
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("does not name the kernel python3: set metadata.kernelspec.name")
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem):
        problems.append("is not called NN_topic.ipynb: rename it")
    return problems


def opens_with_title_and_card(path: Path, nb: NotebookNode) -> list[str]:
    """First cell a title, the only one; second cell the card with prerequisites, run time and memory."""
    first, second = [*nb.cells, {}, {}][:2]
    problems = []
    if first.get("cell_type") != "markdown" or not first.source.startswith("# "):
        problems.append("does not begin with a title: first cell `# Title`")
    titles = [
        cell
        for cell in nb.cells
        if cell.cell_type == "markdown" and re.search(r"(?m)^# ", sentences(cell.source))
    ]
    if len(titles) > 1:
        problems.append(f"has {len(titles)} titles: only the first cell may hold a `# ` heading")
    if second.get("cell_type") != "markdown" or not CARD.match(second.source):
        return [*problems, "has no card: second cell `:::{admonition} In this chapter`"]
    missing = [w for w in ("prerequisites", "laptop", "gpu", "memory") if w not in second.source.lower()]
    return problems + ([f"has a card that does not say {', '.join(missing)}"] if missing else [])


def obeys_the_profile(path: Path, nb: NotebookNode) -> list[str]:
    """The parameters cell feeds get_profile, and the profile scales something."""
    parameters = tagged(nb, "parameters")
    code = "\n".join(cell.source for cell in notebooks.code_cells(nb))
    problems = []
    if len(parameters) != 1 or not re.search(r"(?m)^profile_name = None\b", parameters[0].source):
        problems.append("needs one code cell tagged parameters with the line `profile_name = None`")
    if not re.search(r"(?m)^profile = (?:\w+\.)?get_profile\(profile_name\)", code):
        problems.append("ignores the profile: write `profile = runtime.get_profile(profile_name)`")
    if "profile.pick(" not in code:
        problems.append("never scales with the profile: use profile.pick(smoke=..., laptop=..., gpu=...)")
    return problems


def has_exercises_with_solutions(path: Path, nb: NotebookNode) -> list[str]:
    """3 to 6 exercises: text, stub with its check, folded solution that calls the check."""
    starts = [i for i, cell in enumerate(nb.cells) if "exercise" in notebooks.tags(cell)]
    problems = [] if 3 <= len(starts) <= 6 else [f"has {len(starts)} exercises: 3 to 6 are wanted"]
    directives = sum("{exercise}" in cell.source for cell in nb.cells if cell.cell_type == "markdown")
    if directives != len(starts):
        problems.append(f"has {directives} exercise texts but {len(starts)} code cells tagged exercise")
    for index in starts:
        problems += exercise_problems([None, *nb.cells, None, None, None][index : index + 5], path.stem[:2])
    return problems


def exercise_problems(cells: list[NotebookNode | None], chapter: str) -> list[str]:
    """Check one exercise: its text, its stub, and the three cells of its solution."""
    text, stub, start, solution, end = [cell.source if cell else "" for cell in cells]
    where = f"exercise cell {cells[1].get('id')}"
    defined = [
        node.name for node in syntax_tree(stub).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    checks = [name for name in defined if name.startswith("check_")]
    stubs = [name for name in defined if not name.startswith("check_")]
    if len(checks) != 1 or not stubs or not re.search(r"\bassert(?:_\w+\(|\b)", stub):
        return [f"{where} must define a stub and one function check_NAME() that asserts"]
    label = f"ex-{chapter}-{checks[0].removeprefix('check_').replace('_', '-')}"
    problems = []
    if "{exercise}" not in text or not re.search(rf":label: {label}$", text, re.MULTILINE):
        problems.append(f"{where}: the cell before must be its text with `:label: {label}`")
    if (
        not re.search(rf"\{{solution-start\}} {label}\n:class: dropdown", start)
        or "{solution-end}" not in end
    ):
        problems.append(
            f"{where}: fold its solution between solution-start {label} (class dropdown) and solution-end"
        )
    if not cells[3] or "solution" not in notebooks.tags(cells[3]):
        return [*problems, f"{where}: the second cell after it must be code tagged solution"]
    if solution.rstrip().splitlines()[-1:] != [f"{checks[0]}()"] or f"def {checks[0]}" in solution:
        problems.append(f"{where}: its solution must end with {checks[0]}() and not redefine it")
    if not any(re.search(rf"(?m)^(?:def |class |){name}\b", solution) for name in stubs):
        problems.append(f"{where}: its solution must redefine {' or '.join(stubs)}")
    return problems


def closes_with_summary_and_provenance(path: Path, nb: NotebookNode) -> list[str]:
    """The summary has 1 to 5 lines, reading tips follow, the last code cell shows the provenance."""
    texts = [cell.source if cell.cell_type == "markdown" else "" for cell in nb.cells]
    starts = [i for i, text in enumerate(texts) if text.startswith("## What you now know\n")]
    problems = []
    if len(starts) != 1:
        return ["needs one markdown cell that begins with `## What you now know`"]
    lines = re.split(r"(?m)^## ", texts[starts[0]])[1].strip().splitlines()[1:]
    if not 1 <= len([line for line in lines if line.strip()]) <= 5:
        problems.append("has a summary that is not 1 to 5 lines long")
    if not any(re.search(r"(?m)^## Where to go deeper$", text) for text in texts[starts[0] :]):
        problems.append("lacks `## Where to go deeper` after the summary")
    after = [cell for cell in nb.cells[starts[0] :] if cell.cell_type == "code"]
    code = notebooks.code_cells(nb)
    if len(after) > 1 or not code or "provenance(" not in code[-1].source:
        problems.append("must end with one code cell that calls runtime.provenance, alone after the summary")
    return problems


def has_short_modern_code(path: Path, nb: NotebookNode) -> list[str]:
    """Short cells, no deprecated API, no trailing semicolon, known tags, nothing skipped but installs."""
    problems = []
    for where, cell in numbered_code(nb):
        lines, used = cell.source.splitlines(), set(notebooks.tags(cell))
        if len(lines) > MAX_LINES:
            problems.append(f"{where} has {len(lines)} lines: split it, {MAX_LINES} is the limit")
        if lines and lines[-1].rstrip().endswith(";"):
            problems.append(f"{where} ends with a semicolon: end a figure with plt.show()")
        if used - TAGS:
            problems.append(
                f"{where} has unknown tags {', '.join(sorted(used - TAGS))}: allowed are {sorted(TAGS)}"
            )
        installs = bool(re.search(r"(?m)^\s*[%!]\s*pip install", cell.source))
        if installs != (used >= SKIPPING) or (used & SKIPPING and not installs):
            problems.append(
                f"{where}: skip-execution and nbval-skip belong, together, to cells with `%pip install`"
            )
        if re.search(r"NBVAL_\w+|PYTEST_VALIDATE", cell.source):
            problems.append(f"{where} has a comment for nbval: use tags")
        if "shows-deprecated" not in used:
            problems += [f"{where} uses {name}: deprecated or unsafe" for name in deprecated(cell.source)]
    return problems


def deprecated(source: str) -> list[str]:
    """Return the deprecated or unsafe APIs that the code uses; strings and comments do not count."""
    found = []
    for node in ast.walk(syntax_tree(source)):
        names = [ast.unparse(node)] if isinstance(node, ast.Attribute | ast.Name) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        if any(re.search(r"\bcuda\.amp\b", name) for name in names):
            found.append("torch.cuda.amp (use torch.amp)")
        if any(re.search(r"(?:^|\.)DataParallel$", name) for name in names):
            found.append("nn.DataParallel (use DistributedDataParallel)")
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if ast.unparse(node.func) == "torch.load" and keywords.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if "pretrained" in keywords:
                found.append("pretrained= (use weights=)")
    return list(dict.fromkeys(found))


def has_clean_outputs(path: Path, nb: NotebookNode) -> list[str]:
    """No error, stderr, absolute path or address is shown; nbval has at least one output to compare."""
    problems = notebooks.output_problems(nb)
    for number, cell in enumerate(nb.cells, start=1):
        problems += [
            f"cell {number} names the absolute path {p!r}" for p in notebooks.absolute_paths(cell.source)
        ]
    compared = tagged(nb, "nbval-check-output")
    if not compared:
        problems.append("has no cell tagged nbval-check-output: tag those whose output never changes")
    for cell in compared:
        if not any(text.strip() for text in notebooks.output_texts(cell)):
            problems.append(f"code cell {cell.get('id')} is tagged nbval-check-output but stores no text")
    return problems


def has_described_figures(path: Path, nb: NotebookNode) -> list[str]:
    """One image per cell, drawn by plt.show(), with an alternative text; unique names fig-NN-..."""
    problems, names = [], []
    for where, cell in numbered_code(nb):
        options = cell.metadata.get("mystnb", {})
        names += [options["figure"]["name"]] if "name" in options.get("figure", {}) else []
        images = sum(any(m.startswith("image/") for m in output.get("data", {})) for output in cell.outputs)
        if not images:
            continue
        alt = options.get("image", {}).get("alt", "").strip()
        if len(alt) < MIN_ALT or re.search(r"\.(?:png|jpe?g|svg)$", alt):
            problems.append(f"{where} draws a figure without a description: set metadata.mystnb.image.alt")
        if images > 1 or cell.source.rstrip().splitlines()[-1:] != ["plt.show()"]:
            problems.append(f"{where} must draw one figure and end with plt.show()")
    wrong = [name for name in names if not name.startswith(f"fig-{path.stem[:2]}-") or names.count(name) > 1]
    problems += [
        f"has a figure name {name!r} that is not unique, or not fig-{path.stem[:2]}-..." for name in wrong
    ]
    for cell in nb.cells:
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(", cell.source):
            problems.append(f"cell {cell.get('id')} shows an image without alternative text")
    return problems


def has_a_movable_figure(path: Path, nb: NotebookNode) -> list[str]:
    """At least one figure with sliders, made by explore.figure: captioned, described, not too large."""
    problems, found = [], False
    for where, cell in numbered_code(nb):
        for output in cell.outputs:
            html = output.get("data", {}).get("text/html", "")
            frames = re.search(r'class="explore" data-frames="([^"]+)"', html)
            if not frames:
                continue
            found = True
            if len(html) > MAX_MOVABLE_BYTES:
                problems.append(f"{where} shows a figure of {len(html) / 1e6:.1f} MB: take fewer frames")
            if not {"caption", "name"} <= cell.metadata.get("mystnb", {}).get("figure", {}).keys():
                problems.append(
                    f"{where} moves a figure without caption and name: set metadata.mystnb.figure"
                )
            if len(set(json.loads(gzip.decompress(base64.b64decode(frames[1])))["alts"])) < 2:
                problems.append(f"{where} describes all frames alike: let alt depend on the sliders")
    return problems if found else ["has no figure that the reader can move: add one with explore.figure"]


def has_no_measured_number_in_prose(path: Path, nb: NotebookNode) -> list[str]:
    """A measured number is shown by code; the card may say how long the chapter takes."""
    advice = (
        "show a measured number by code (display(Markdown(f'...'))), or say in the same paragraph where it "
        "comes from: {cite}, derived, assumed, by definition, goal"
    )
    texts = [cell for cell in nb.cells if cell.cell_type == "markdown" and not CARD.match(cell.source)]
    return [
        f"text cell {cell.get('id')} has {number!r}: {advice}"
        for cell in texts
        for number in numbers_with_unit(cell.source)
    ]


def is_stamped(path: Path, nb: NotebookNode) -> list[str]:
    """The stamp is there, fits the code and the provenance that the page shows, and is not of a smoke run."""
    problems = notebooks.stamp_problems(nb)
    made, shown = nb.metadata.get("bigmodel", {}), notebooks.provenance_facts(nb)
    if shown is None:
        problems.append("shows no provenance: end it with runtime.provenance(profile, data=...)")
    elif any(made.get(key, value) != value for key, value in shown.items()):
        problems.append("has a stamp that differs from the provenance it shows: run `make execute`")
    if made.get("profile") == "smoke":
        problems.append("holds the outputs of a smoke run: run `make execute PROFILE=laptop`")
    return problems


RULES: list[Rule] = [
    file_is_tidy,
    is_in_the_book,
    opens_with_title_and_card,
    obeys_the_profile,
    has_exercises_with_solutions,
    closes_with_summary_and_provenance,
    has_short_modern_code,
    has_clean_outputs,
    has_described_figures,
    has_a_movable_figure,
    has_no_measured_number_in_prose,
    is_stamped,
]


def main() -> int:
    """Print each breach of each rule in the notebooks named on the command line, all without a name."""
    found = 0
    for path in notebooks.find(sys.argv[1:], notebooks.FOLDER):
        nb = notebooks.read(path)
        for problem in [problem for rule in RULES for problem in rule(path, nb)]:
            print(f"{path.stem}: {problem}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
