"""What the notebook tools share: finding, reading and writing notebooks, what cells show, kernel setup."""

import ast
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
BUILD = ROOT / "_build"
PROVENANCE_MIME = "application/vnd.bigmodel.provenance+json"
# Folders that a path of somebody's machine starts with; the exact paths of this machine are searched as well.
FOREIGN_PATH = re.compile(
    r"(?<![\w.~:/\\])(?:/(?:home|root|Users|tmp|var|opt|mnt|media|srv|etc|usr|private|content|workspaces?)/[\w.-]"
    r"|[A-Za-z]:\\{1,2}\w)"
)


def find(names: list[str], folder: Path = FOLDER) -> list[Path]:
    """Return the notebooks called `names` (``04_cifar_training`` or a path), else all.

    Raises:
        SystemExit: a name fits no notebook, or there is none at all.
    """
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    stems = list(dict.fromkeys(Path(name).name.removesuffix(".ipynb") for name in names)) or list(known)
    for stem in stems:
        if stem not in known:
            raise SystemExit(
                f"notebook {stem!r} does not exist in {folder.name}: choose from {', '.join(known)}"
            )
    if not stems:
        raise SystemExit(f"folder {folder.name} holds no notebook: add one called NN_topic.ipynb")
    return [known[stem] for stem in stems]


def read(path: Path) -> NotebookNode:
    """Return the notebook in file `path` as nbformat 4.

    Raises:
        SystemExit: the file is no notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, TypeError, AttributeError, nbformat.ValidationError) as error:
        reason = str(error).partition("\n")[0][:100]
        raise SystemExit(f"{path.name}: no notebook ({reason}): restore the file") from None


def text_of(nb: NotebookNode) -> str:
    """Return the text form in which notebooks are committed: sorted keys, indent 1, newline at the end."""
    return nbformat.writes(nb).rstrip("\n") + "\n"


def write(path: Path, nb: NotebookNode) -> None:
    """Write `nb` to `path` whole or not at all (a second file, then a rename)."""
    nbformat.validate(nb)
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(text_of(nb).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of `cell`."""
    return cell.metadata.get("tags", [])


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    """Return the code cells that the author wrote, that is without papermill's injected parameters."""
    return [cell for cell in nb.cells if cell.cell_type == "code" and "injected-parameters" not in tags(cell)]


def numbered_code(nb: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Yield each code cell with the name by which problems call it."""
    for number, cell in enumerate(code_cells(nb), start=1):
        yield f"code cell {number} ({cell.get('id', 'no id')})", cell


def tagged(nb: NotebookNode, tag: str) -> list[NotebookNode]:
    """Return the code cells with `tag`."""
    return [cell for cell in code_cells(nb) if tag in tags(cell)]


def syntax_tree(source: str) -> ast.Module:
    """Parse the Python in a cell; lines for IPython (``%pip``, ``!ls``) count as ``pass``."""
    return ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.MULTILINE))


def provenance_facts(nb: NotebookNode) -> dict[str, str] | None:
    """Return the facts in the output of the notebook's provenance cell, or None where there is none."""
    for cell in reversed(code_cells(nb)):
        for output in cell.outputs:
            if PROVENANCE_MIME in output.get("data", {}):
                return dict(output.data[PROVENANCE_MIME])
    return None


def output_texts(cell: NotebookNode) -> list[str]:
    """Return everything in the outputs of `cell` that a reader, or a program, reads as text (no images)."""
    texts = []
    for output in cell.outputs:
        texts += [output.text] if output.output_type == "stream" else []
        for mime, data in output.get("data", {}).items():
            if mime.startswith("image/") and mime != "image/svg+xml":
                continue
            texts.append(data if isinstance(data, str) else json.dumps(data, ensure_ascii=False))
    return texts


def local_paths() -> list[str]:
    """Return the folders of this machine and user that no committed file may name."""
    folders = [ROOT, Path.cwd(), Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix)]
    folders += [Path(os.environ["BIGMODEL_DATA"])] if os.environ.get("BIGMODEL_DATA") else []
    folders += [folder.resolve() for folder in folders]
    named = {str(folder) for folder in folders if folder.is_absolute() and len(folder.parts) > 1}
    return sorted(
        named | {name.replace("\\", "\\\\") for name in named} | {name.replace("\\", "/") for name in named}
    )


def absolute_paths(text: str) -> list[str]:
    """Return the absolute paths of a machine, this one or another, that `text` names."""
    found = [name for name in local_paths() if re.search(rf"(?<![\w.~-]){re.escape(name)}(?![\w-])", text)]
    found = [name for name in found if not any(other != name and name in other for other in found)]
    return found or [
        text[match.start() : match.start() + 40].split()[0] for match in FOREIGN_PATH.finditer(text)
    ]


def output_problems(nb: NotebookNode) -> list[str]:
    """Find outputs that no reader should see: errors, stderr, paths of a machine, memory addresses."""
    problems = []
    for number, cell in enumerate(code_cells(nb), start=1):
        where = f"code cell {number} ({cell.get('id', 'no id')})"
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(
                    f"{where} stores an error, {output.ename}: show expected errors with try/except"
                )
            if output.output_type == "stream" and output.name == "stderr":
                line = (output.text.strip().splitlines() or [""])[-1][:120]
                problems.append(f"{where} stores stderr output, {line!r}: remove its cause")
        for text in output_texts(cell):
            problems += [f"{where} shows the absolute path {path!r}" for path in absolute_paths(text)]
            for address in re.findall(r"\bat 0x[0-9a-fA-F]{6,}", text):
                problems.append(
                    f"{where} shows a memory address, {address!r}: it differs in each run, print less"
                )
    return problems


def kernel_environment(folder: Path) -> dict[str, str]:
    """Prepare `folder` so that the kernel ``python3`` is this very Python, free of the user's own settings.

    Returns the environment variables to set for the process that starts kernels.
    """
    spec = folder / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
    profile = folder / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    quiet = "c = get_config()\nc.IPKernelApp.log_level = 40\nc.HistoryManager.enabled = False\n"
    quiet += "c.InteractiveShell.colors = 'nocolor'\n"
    (profile / "ipython_kernel_config.py").write_text(quiet, encoding="utf-8")
    return {"JUPYTER_PATH": str(folder / "jupyter"), "IPYTHONDIR": str(folder / "ipython")}
