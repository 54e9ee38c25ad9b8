"""The files of a folder with one subfolder per class, and why each other one is left out; see `data.image_folder`."""

import os
import stat
from pathlib import Path

NOTES = {".csv", ".db", ".ini", ".json", ".jsonl", ".log", ".md", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
LEFTOVERS = {"__MACOSX", "@eaDir", "lost+found", "System Volume Information", "$RECYCLE.BIN"}  # of systems


def printable(text: str) -> str:
    """Return the text on one line, with what no terminal or UTF-8 file takes written as an escape."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def is_note(file: Path) -> bool:
    """Say whether a file is none of the pictures by its name."""
    return file.suffix.lower() in NOTES


def root_folder(path: str | Path) -> Path:
    """Return the folder, with ``~`` replaced; an OSError where it does not exist or may not be read."""
    root = Path(os.path.expanduser(path))  # noqa: PTH111 -- keeps a ~ where there is no home
    try:
        if not str(path):
            raise FileNotFoundError(0, "an empty path")
        next(root.iterdir(), None)
    except (OSError, ValueError) as error:
        kind = type(error) if isinstance(error, OSError) else FileNotFoundError
        reason = error.strerror if isinstance(error, OSError) else error
        raise kind(
            f"{printable(str(path))!r} is no folder that can be read ({reason}): check the path"
        ) from None
    return root


def class_folders(path: str | Path) -> tuple[list[Path], list[str]]:
    """Return the class folders in `path`, sorted, and one line for each file that lies beside them.

    Raises:
        OSError: the folder does not exist or may not be read, or has fewer than two class folders.
        ValueError: it holds train and test parts, not classes.
    """
    root = root_folder(path)
    place, names, files = next(os.walk(root))
    folders = [Path(place, name) for name in _visible(names)]
    loose = [Path(place, name) for name in _visible(files) if not is_note(Path(name))]
    parts = [folder.name for folder in folders if folder.name.lower() in SPLITS and _has_folders(folder)]
    if len(parts) > 1 or [folder.name for folder in folders] == parts != []:
        raise ValueError(
            f"{printable(str(root))} holds {' and '.join(parts)}, which hold the classes: pass each of them by itself"
        )
    if len(folders) < 2:
        raise FileNotFoundError(
            f"{printable(str(root))} has {len(folders)} class folders, need 2: one folder a class, its pictures in it"
        )
    return folders, [f"{file}: in no class folder: move it into one" for file in loose]


def files_below(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files in `folder` and in its folders, sorted, and one line for whatever else lies there."""
    files, skipped = [], []

    def refuse(error: OSError) -> None:
        skipped.append(
            f"{error.filename}: a folder that may not be read ({error.strerror}): change its rights"
        )

    for place, names, found in os.walk(folder, onerror=refuse):
        names[:] = _visible(names)
        links = [Path(place, name) for name in names if Path(place, name).is_symlink()]
        skipped += [f"{link}: a link to a folder, not followed: put the folder there" for link in links]
        files += [Path(place, name) for name in _visible(found)]
    special = [file for file in files if _is_special(file)]
    skipped += [f"{file}: a pipe, socket or device, not a file: move it away" for file in special]
    return sorted(set(files) - set(special)), skipped


def _visible(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(".") and name not in LEFTOVERS)


def _has_folders(folder: Path) -> bool:
    return any(_visible(names) for _, names, _ in [next(os.walk(folder), ("", [], []))])


def _is_special(file: Path) -> bool:
    """Say whether to open the file could wait forever; what cannot be looked at is left to the reader."""
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False
