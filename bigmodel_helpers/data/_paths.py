"""Names of files as people type them: expanded, shown in one line, and why one of them is nothing to read."""

import os
import re
import stat
from pathlib import Path

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]|data:image/")  # a drive of Windows has one letter
LONGEST = 500


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with ``~`` replaced by the home folder; it stays where nobody has such a home."""
    try:
        return Path(os.fsdecode(path)).expanduser()
    except RuntimeError:
        return Path(os.fsdecode(path))


def shown(name: object) -> str:
    """Return a name fit for a line of text: what cannot be printed as an escape, a very long one cut short."""
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(name))
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


def mode(path: Path) -> int:
    """Return the bits that say what `path` is, for `stat.S_ISDIR` and the like; 0 where nothing can be said."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # ValueError: no name that a file can have
        return 0


def why_not(path: str | os.PathLike[str], kind: str = "picture") -> str | None:
    """Return cause and cure where `path`, of a `kind` of file, is no file with something in it, else None.

    A pipe or a device can be without an end: it is not opened.
    """
    if not str(path):
        return f"an empty name: pass the path of a {kind}"
    try:
        facts = expanded(path).stat()
    except (OSError, ValueError) as error:
        return refusal(error, path)
    if stat.S_ISDIR(facts.st_mode):
        return f"a folder, not a {kind}: pass its files"
    if not stat.S_ISREG(facts.st_mode):
        return "a pipe or a device, not a file: save what it gives in a file first"
    return None if facts.st_size else "an empty file: get it again"


def whole_file(path: str | os.PathLike[str], kind: str) -> Path:
    """Return the path of a file with something in it, with ``~`` replaced.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, a pipe or empty.
    """
    if cause := why_not(path, kind):
        error = ValueError if mode(expanded(path)) else FileNotFoundError
        raise error(f"{shown(expanded(path).name) or repr(str(path))}: {cause}")
    return expanded(path)


def refusal(error: OSError | ValueError, path: str | os.PathLike[str]) -> str:
    """Return cause and cure where the system refused `path`."""
    if URL.match(str(path)):
        return "a URL: download it first and pass the file"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file: check the path"
    if isinstance(error, PermissionError):
        return "may not be read: change its rights"
    if isinstance(error, OSError):
        return f"cannot be opened ({error.strerror or error}): check the path"
    return "no name that a file can have: check the path"


def own_name(source: object) -> str | None:
    """Return the name of a path, an open file or an open picture, or None where it has none."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source) or "''"
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return name if isinstance(name, str) else None
