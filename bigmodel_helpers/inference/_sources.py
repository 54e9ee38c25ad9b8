"""Which files somebody means: one, those of a folder, or those that fit a pattern."""

import glob
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from bigmodel_helpers.data._paths import URL, expanded, mode, refusal, shown

Problem = TypeVar("Problem", bound=Exception)


def files_of(
    source: str | os.PathLike[str], error: Callable[[str], Problem], *, alone: bool, kind: str = "pictures"
) -> Iterator[tuple[str, str | Path | Problem]]:
    """Yield the file itself, the files of a folder, or those that fit a pattern, in order of their names.

    Args:
        source: what was given.
        error: makes what stands for a folder or a pattern without files.
        alone: nothing else was given; a pattern that nothing fits is an error then.
        kind: what is looked for, a plural.

    Raises:
        FileNotFoundError: `source` is a pattern, `alone`, and no file fits it.
    """
    given, path = os.fsdecode(source), expanded(source)
    here = mode(path) if given else 0
    if not stat.S_ISDIR(here) and (here or URL.match(given) or not glob.has_magic(given)):
        yield given, given
        return
    cause, found = f"an empty folder: put {kind} in it", []
    if stat.S_ISDIR(here):
        try:
            found = [file for file in path.iterdir() if not file.name.startswith(".")]
        except OSError as failure:
            cause = refusal(failure, path)
    else:
        cause = "no file fits the pattern: check it" + (", and write [[] for a [" if "[" in given else "")
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207  (absolute patterns)
    files = sorted(file for file in found if stat.S_ISREG(mode(file)))
    yield from ((str(file), file) for file in files)
    if not files:
        problem = f"{shown(given)}: {cause}"
        if alone and not here:
            raise FileNotFoundError(problem)
        yield given, error(problem)
