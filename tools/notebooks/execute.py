"""Run notebooks with papermill, keep their outputs and stamp into them what made these outputs."""

import argparse
import copy
import os
import re
import tempfile
import time
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from tools.notebooks import bindings, evidence, notebook, stamps

PROGRESS = re.compile(r"\d+%\|.*\|.*\[.*\]|\d+\S* ?\[\d+:\d+.*\]")  # what tqdm draws
NOISE = ("execution", "papermill", "ExecuteTime", "collapsed")
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}


def final_lines(text: str) -> str:
    """Return `text` as a terminal shows it in the end, without overwritten lines and progress bars."""
    kept = []
    for line in text.split("\n"):
        *overwritten, last = line.rstrip("\r").split("\r")
        if not overwritten or (last.strip() and not PROGRESS.search(last)):
            kept.append(last)
    return "\n".join(kept)


def clean_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return `outputs` without noise: the pieces of one stream joined, progress bars dropped.

    A live widget is dropped where the same output also holds HTML: a reader of the stored notebook has no
    kernel, and the HTML needs none.
    """
    cleaned = []
    for output in copy.deepcopy(outputs):
        previous = cleaned[-1] if cleaned else None
        if (
            previous
            and output.output_type == previous.output_type == "stream"
            and output.name == previous.name
        ):
            previous.text += output.text
        else:
            cleaned.append(output)
    for output in cleaned:
        if output.output_type == "stream":
            output.text = final_lines(output.text)
        if "text/html" in output.get("data", {}):
            output.data.pop(WIDGET, None)
    return [output for output in cleaned if output.output_type != "stream" or output.text]


def transplant(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return a copy of `source` (its ids, order and metadata) with the cleaned outputs of `executed`."""
    result = copy.deepcopy(source)
    added = {"injected-parameters", evidence.OURS}
    result.cells = [cell for cell in result.cells if not added & {*notebook.tags(cell)}]
    run = [cell for cell in executed.cells if not added & {*notebook.tags(cell)}]
    for cell, ran in zip(result.cells, run, strict=True):
        cell.metadata = {key: value for key, value in cell.metadata.items() if key not in NOISE}
        if cell.source != ran.source:
            raise RuntimeError(f"cell {cell.id} changed while papermill ran it: please report this as a bug")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = clean_outputs(ran.outputs), ran.execution_count
    count = 0
    for cell in result.cells:
        if cell.cell_type == "code" and cell.execution_count is not None:
            count += 1  # the cells that stood there only while it ran were counted, too
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    metadata = {key: source.metadata[key] for key in source.metadata if key not in (*NOISE, "widgets")}
    metadata |= {"kernelspec": KERNELSPEC, "language_info": LANGUAGE}
    outputs = [output for cell in notebook.code_cells(result) for output in cell.outputs]
    if any(WIDGET in output.get("data", {}) for output in outputs):
        metadata["widgets"] = executed.metadata["widgets"]
    result.metadata = metadata
    return result


def stamp(nb: NotebookNode, profile: str, seconds: float) -> None:
    """Write into the metadata of `nb` what made its outputs.

    Raises:
        ValueError: the notebook shows no provenance, or ran in another profile than it was told to.
    """
    facts = notebook.provenance_facts(nb)
    if facts is None:
        raise ValueError(
            "no cell shows provenance: end the notebook with runtime.provenance(profile, data=...)"
        )
    if facts["profile"] != profile:
        raise ValueError(f"it ran in profile {facts['profile']}: pass profile_name to runtime.get_profile")
    made = {key: facts.get(key, "") for key in stamps.FACTS} | {"duration_s": max(1, round(seconds))}
    if not all(made.values()):
        raise ValueError(
            f"provenance lacks {', '.join(key for key in made if not made[key])}: pass it to provenance()"
        )
    nb.metadata["bigmodel"] = made | stamps.hashes(nb)


def restamp(path: Path) -> list[str]:
    """Stamp the captions and alternative texts of notebook `path` anew, without a run, and print those that changed.

    Bound numbers are put into the prose from the stamp. Returns the problems, none on success: whatever else differs
    from the stamp needs a run.
    """
    nb = notebook.read(path)
    made = nb.metadata.get("bigmodel", {})
    others = copy.deepcopy(nb)
    others.metadata["bigmodel"] = made | {"texts": stamps.texts(nb)}
    if problems := stamps.problems(path.stem, others):
        return problems
    for cell in stamps.changed(made.get("texts", {}), stamps.texts(nb)):
        told = [stamps.descriptions(other) for other in notebook.code_cells(nb) if other.id == cell]
        print(f"{path.stem}, cell {cell}: stamped without a run: {told[0] if told else 'no text'}")
    unwritten = bindings.write(others)
    notebook.write(path, others)
    return unwritten


def run(nb: NotebookNode, **options: object) -> NotebookNode:
    """Run `nb` with papermill and these options; a kernel that does not start gets a second try."""
    options["start_timeout"] = 180
    try:
        return papermill.execute_notebook(copy.deepcopy(nb), **options)
    except DeadKernelError:  # while a cell ran
        raise
    except RuntimeError:
        return papermill.execute_notebook(copy.deepcopy(nb), **options)


def slowest(executed: NotebookNode, count: int = 8) -> str:
    """Name the cells that took longest, with their seconds: what to shorten first."""
    timed = [(cell.metadata.get("papermill", {}).get("duration") or 0, cell.id) for cell in executed.cells]
    return ", ".join(f"{name} {seconds:.1f}" for seconds, name in sorted(timed, reverse=True)[:count])


def execute(path: Path, profile: str, failed: Path) -> list[str]:
    """Run the notebook `path` and write its outputs and stamp into it; on failure leave it alone.

    Returns the problems, none on success. The copy that failed lies in folder `failed`.
    """
    before = path.read_bytes()
    source = notebook.read(path)
    if not any("parameters" in notebook.tags(cell) for cell in source.cells):
        return ["has no cell tagged parameters: add one with `profile_name = None`"]
    if problems := bindings.malformed_numbers(source):
        return problems
    failed.mkdir(parents=True, exist_ok=True)
    copy_path = failed / path.name
    modules = stamps.modules(source)  # now: they may be edited while the notebook runs
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="notebook-", ignore_cleanup_errors=True) as folder:
        try:
            executed = run(
                evidence.with_witness(source),
                output_path=str(copy_path),
                parameters={"profile_name": profile},
                kernel_name="python3",
                cwd=folder,
                progress_bar={"disable": None, "desc": path.stem, "leave": False},  # None: only on a terminal
            )
        except PapermillExecutionError as error:
            name = notebook.read(copy_path).cells[error.cell_index].id
            return [f"cell {name} raised {error.ename}: {error.evalue}\n{error.source}"]
        except DeadKernelError:
            return ["its kernel died, most often for lack of memory: take a smaller profile or free memory"]
        except RuntimeError as error:
            return [f"its kernel did not start, tried twice: {error}; what it wrote stands above"]
        print(f"{path.stem}: slowest cells in s: {slowest(executed)}", flush=True)
        nb = transplant(source, executed)
        problems = notebook.output_problems(nb)
    try:
        stamp(nb, profile, time.perf_counter() - start)
        operands, numbers = evidence.seen(executed)
        nb.metadata["bigmodel"] |= {"modules": modules, "evidence": operands}
        problems += bindings.keep(nb, numbers)
    except ValueError as error:
        problems.append(str(error))
    if path.read_bytes() != before:
        problems.append("the notebook was edited while it ran: run it again")
    if problems:
        return problems
    problems = bindings.write(nb)  # the values are in the stamp: another phrase or format needs no second run
    notebook.write(path, nb)
    copy_path.unlink()
    return problems


def main() -> int:
    """Run the notebooks named on the command line, all without a name; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NB", help="04_cifar_training, or a path; default: all")
    parser.add_argument("--profile", choices=("smoke", "laptop", "gpu"), default="laptop")
    parser.add_argument("--notebooks-dir", type=Path, default=notebook.FOLDER)
    parser.add_argument("--failed-dir", type=Path, default=notebook.BUILD / "failed")
    parser.add_argument("--restamp", action="store_true", help="do not run: stamp edited captions and texts")
    options = parser.parse_args()
    paths = notebook.find(options.names, options.notebooks_dir)
    if options.restamp:
        told = [f"{path.stem}: {problem}" for path in paths for problem in restamp(path)]
        print(*told, sep="\n", end="\n" if told else "")
        return 1 if told else 0
    all_well = True
    with tempfile.TemporaryDirectory(prefix="kernel-", ignore_cleanup_errors=True) as folder:
        os.environ.update(notebook.kernel_environment(Path(folder)))
        for path in paths:
            print(f"{path.stem}: running, profile {options.profile}", flush=True)
            start = time.perf_counter()
            problems = execute(path, options.profile, options.failed_dir)
            for problem in problems:
                print(f"{path.stem}: {problem}", flush=True)
            failed = options.failed_dir / path.name
            verdict = (
                f"FAILED, left as it was; see {failed}"
                if failed.exists()
                else "FAILED"
                if problems
                else "done"
            )
            print(f"{path.stem}: {verdict}, {time.perf_counter() - start:.0f} s", flush=True)
            all_well = all_well and not problems
    return 0 if all_well else 1


if __name__ == "__main__":
    raise SystemExit(main())
