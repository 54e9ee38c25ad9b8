"""What stands where in a chapter: title, card, profile, summary, provenance, and the stamp of its run."""

import json
import math
import re
from pathlib import Path

import yaml
from nbformat import NotebookNode

from tools.notebooks import notebook, stamps
from tools.notebooks.prose import sentences

MAX_BYTES = 3_000_000
ONES = "a one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
NUMBERS = {word: max(1, number) for number, word in enumerate(ONES.split())}
NUMBERS |= {"an": 1, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "ninety": 90}
SECONDS = {"second": 1, "minute": 60, "hour": 3600}
TIME = re.compile(rf"\b(\d+|{'|'.join(NUMBERS)})\s+(second|minute|hour)", re.IGNORECASE)
CARD = re.compile(r":{3,}\{admonition\} In this chapter\n")


def file_is_tidy(path: Path, nb: NotebookNode) -> list[str]:
    """A small file in the layout of `make execute`, with unique cell ids and without execution noise."""
    text = path.read_bytes().decode("utf-8")
    problems = []
    if len(text.encode("utf-8")) > MAX_BYTES:
        problems.append(f"is larger than {MAX_BYTES / 1e6:.0f} MB: draw smaller figures")
    ids = [cell.get("id") for cell in json.loads(text)["cells"]]
    if None in ids or len(set(ids)) < len(ids):
        problems.append("has cells without an id, or two with the same: give each cell its own id")
    elif text.replace("\r\n", "\n") != notebook.text_of(nb):
        problems.append("is not laid out as nbformat writes it: run `make execute`")
    noise = {"papermill", "execution", "ExecuteTime"}
    if noise & set(nb.metadata) or any(noise & set(cell.metadata) for cell in nb.cells):
        problems.append("holds execution metadata: run `make execute`")
    if any("injected-parameters" in notebook.tags(cell) for cell in nb.cells):
        problems.append("holds papermill's injected parameters: delete that cell")
    counts = [cell.execution_count for cell in notebook.code_cells(nb) if cell.execution_count is not None]
    if counts != list(range(1, len(counts) + 1)):
        problems.append("has execution counts that are not 1, 2, 3, ...: run `make execute`")
    return problems


def is_in_the_book(path: Path, nb: NotebookNode) -> list[str]:
    """Listed in _toc.yml, named NN_topic, kernel python3."""
    toc = yaml.safe_load((notebook.ROOT / "_toc.yml").read_text(encoding="utf-8"))
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


def has_a_card_that_fits_the_stamp(path: Path, nb: NotebookNode) -> list[str]:
    """The longest time in the card's row of the stored run is at least its time, and at most three times that."""
    made = nb.metadata.get("bigmodel", {})
    card = next((cell.source for cell in nb.cells if CARD.match(cell.source)), "")
    row = re.search(rf"(?m)^\| `{made.get('profile')}` \|([^|]*)\|", card)
    if not row or not made.get("duration_s"):
        return [f"has a card without a row `| `{made.get('profile')}` | run time | ...`: add it"]
    seconds = [
        (int(number) if number.isdigit() else NUMBERS[number.lower()]) * SECONDS[unit.lower()]
        for number, unit in TIME.findall(row[1])
    ]
    run = math.ceil(made["duration_s"] / 60)
    longest = math.ceil(max(seconds, default=0) / 60)
    if run <= longest <= 3 * run:
        return []
    return [f"has a card that says {row[1].strip()!r}, and its run took {run} min: correct the card"]


def obeys_the_profile(path: Path, nb: NotebookNode) -> list[str]:
    """The parameters cell feeds get_profile, and the profile scales something."""
    parameters = notebook.tagged(nb, "parameters")
    code = "\n".join(cell.source for cell in notebook.code_cells(nb))
    problems = []
    if len(parameters) != 1 or not re.search(r"(?m)^profile_name = None\b", parameters[0].source):
        problems.append("needs one code cell tagged parameters with the line `profile_name = None`")
    if not re.search(r"(?m)^profile = (?:\w+\.)?get_profile\(profile_name\)", code):
        problems.append("ignores the profile: write `profile = runtime.get_profile(profile_name)`")
    if "profile.pick(" not in code:
        problems.append("never scales with the profile: use profile.pick(smoke=..., laptop=..., gpu=...)")
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
    code = notebook.code_cells(nb)
    if len(after) > 1 or not code or "provenance(" not in code[-1].source:
        problems.append("must end with one code cell that calls runtime.provenance, alone after the summary")
    return problems


def is_stamped(path: Path, nb: NotebookNode) -> list[str]:
    """The stamp is there, fits code, outputs, alternative texts and provenance, and is not of a smoke run."""
    problems = stamps.problems(path.stem, nb)
    made, shown = nb.metadata.get("bigmodel", {}), notebook.provenance_facts(nb)
    if shown is None:
        problems.append("shows no provenance: end it with runtime.provenance(profile, data=...)")
    elif any(made.get(key, value) != value for key, value in shown.items()):
        problems.append("has a stamp that differs from the provenance it shows: run `make execute`")
    if made.get("profile") == "smoke":
        problems.append("holds the outputs of a smoke run: run `make execute PROFILE=laptop`")
    return problems
