"""What one page says of another page, of the package or of itself, and what a reader of both would see is wrong."""

import re
import tomllib
from collections.abc import Callable

from tools.notebooks import bindings, notebook, page_numbers
from tools.notebooks.prose import END, numbers_to_bind

MARKDOWN_LINK = re.compile(r"\[([^\]]*)\]\(\s*[^)\s]*?\b(\d\d)_\w+(?:\.ipynb)?[^)]*\)")
ROLE_LINK = re.compile(r"\{doc\}`([^<`]+?)\s*<[^>`]*?\b(\d\d)_\w+>`")
REFERENCE = re.compile(
    r"\{(?:eq|numref|ref)\}`(?:[^<`]*<)?(?:eq|fig|ex)-(\d\d)-[\w-]+>?`"
    r"(?:\s+(?:of|in|from)\s+\[?chapter\s+(\d+))?"
)
NEWER = r"(?= (?:or|and) (?:newer|later|higher|up|above)\b|\+|; name a newer|; try| and torch)"
PYTHON = re.compile(
    rf"(?i:python) ?(3\.\d+){NEWER}|(?i:python) ?(?:>=|≥) ?(3\.\d+)|at least Python (3\.\d+)"
    r"|version_info < \((3, \d+)\)"
)
TORCH = re.compile(rf"(?i:torch)\b[^.]{{0,40}}?\b(2\.\d+){NEWER}|(?i:torch) ?(?:>=|≥) ?(2\.\d+)")
TYPED = re.compile(
    r"\b(?:(?i:equation|figure|table|exercise|section)s?|[Ee]qs?\.|[Ff]igs?\.)\s\(?\d+\.\d+(?!\w|\.\d)\)?"
)


def pages() -> dict[str, str]:
    """Return the Markdown of every page, chapter and guide, by the file's name from the root."""
    names = ["README.md", "CONTRIBUTING.md", "Makefile"]
    names += [f"book/{path.name}" for path in sorted((notebook.ROOT / "book").glob("*.md"))]
    found = {name: (notebook.ROOT / name).read_text(encoding="utf-8") for name in names}
    for path in notebook.find([]):
        cells = [cell.source for cell in notebook.read(path).cells if cell.cell_type == "markdown"]
        found[f"notebooks/{path.name}"] = "\n\n".join(cells)
    return found


def chapter_links(_name: str, text: str) -> list[str]:
    """The number in a link's words is that of the chapter to which it leads."""
    found = []
    for words, target in [*MARKDOWN_LINK.findall(text), *ROLE_LINK.findall(text)]:
        said = [int(a or b) for a, b in re.findall(r"(?i)chapter\s+(\d+)|^(\d+)\b", words)]
        if said and int(target) not in said:
            found.append(f"the link {words!r} leads to chapter {int(target)}: correct one of them")
    return found


def torn_links(_name: str, text: str) -> list[str]:
    """No space tears the words of a link from its address, and no picture is without words."""
    torn = re.findall(r"(?<!\[ )\]\s+\((?:https?:|[\w./-]+\.(?:md|ipynb|html|svg|png)\b)[^)]*\)?", text)
    torn += re.findall(r"\)\[https?:[^\]]*\]", text)
    bare = re.findall(r"!\[\s*\]\([^)]*\)", text)
    return [f"has {link!r}: write [words](address)" for link in torn] + [
        f"has {picture!r}: describe the picture in words" for picture in bare
    ]


def versions(_name: str, text: str) -> list[str]:
    """The oldest versions of Python and torch are those of pyproject.toml."""
    project = tomllib.loads((notebook.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = project["requires-python"].removeprefix(">=")
    torch = next(line for line in project["dependencies"] if line.startswith("torch>="))[7:]
    flat = " ".join(text.split())
    found = [("Python", "".join(said).replace(", ", "."), python) for said in PYTHON.findall(flat)]
    found += [("torch", "".join(said), torch) for said in TORCH.findall(flat)]
    return [f"says {what} {said}, pyproject.toml {true}" for what, said, true in found if said != true]


def references(name: str, text: str) -> list[str]:
    """A reference into another chapter says which one, and says it rightly; numbers of equations are not typed."""
    own = re.match(r"notebooks/(\d+)_", name)
    found = []
    for sentence in END.split(text):
        said = {int(number) for number in re.findall(r"(?i)\bchapter\s+(\d+)", sentence)}
        for match in REFERENCE.finditer(sentence):
            label, told = int(match[1]), int(match[2]) if match[2] else None
            foreign = own is None or label != int(own[1])
            if (told is not None and told != label) or (foreign and label not in said):
                found.append(f"has {match[0]!r}, which is in chapter {label}: say so")
    found += [
        f"has {typed!r}: write {{eq}}`label` or {{numref}}`label`, which counts by itself"
        for typed in TYPED.findall(text)
    ]
    return found


def numbers(name: str, text: str) -> list[str]:
    """A number on a page of the book or in the README says where it comes from; chapters have a rule for this."""
    if not re.fullmatch(r"README\.md|book/\w+\.md", name):
        return []
    return numbers_to_bind(name, bindings.without(text, page_numbers.bound().get(name, [])))


def years(bibliography: str) -> list[str]:
    """The year in the key of an entry is the year of the entry."""
    found = []
    for key, fields in re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", bibliography, re.MULTILINE | re.DOTALL):
        year = re.search(r"(?m)^  year = \{(\d{4})\}", fields)
        if not year or year[1] not in re.findall(r"\d{4}", key):
            found.append(f"book/references.bib: {key} is of {year and year[1]}: correct the key or the year")
    return found


CHECKS: list[Callable[[str, str], list[str]]] = [
    chapter_links,
    torn_links,
    versions,
    references,
    numbers,
]


def problems() -> list[str]:
    """Return what the checks find on all pages, in their bound numbers and in the bibliography."""
    found = [
        f"{name}: {problem}"
        for name, text in pages().items()
        for check in CHECKS
        for problem in check(name, text)
    ]
    found += page_numbers.problems()
    return found + years((notebook.ROOT / "book" / "references.bib").read_text(encoding="utf-8"))


if __name__ == "__main__":
    print(*problems(), sep="\n")
