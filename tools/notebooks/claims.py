"""Sentences of a chapter that compare or judge, and the asserts that back them.

The metadata of a text cell names the cell whose assert holds what a sentence says::

    "bigmodel": {"claims": [{"phrase": "look worst by far", "cell": "gray-assert"}]}

``python -m tools.notebooks.claims [NB ...]`` lists the sentences with the assert that backs each.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from tools.notebooks import bindings, evidence, notebook, prose
from tools.notebooks.layout import CARD

EXEMPT = Path(__file__).with_name("exempt_claims.txt")
JUDGES = re.compile(
    r"(?i)\b(?:hardly|barely|almost|nearly|mostly|most|least|best|worst|better|worse|faster|fastest|slower|slowest"
    r"|larger|largest|smaller|smallest|higher|highest|lower|lowest|cheaper|cheapest|fewer|falls?|fell|rises?|rose"
    r"|drops?|dropped|shrinks?|shrank|grows?|grew|improves?|improved|loses?|lost|wins?|won|beats?|outperforms?"
    r"|level with|no difference|far (?:behind|ahead|below|above|off)|(?:more|less) (?:accurate|memory|time|than))\b"
)


def of(cell: NotebookNode) -> list[dict[str, Any]]:
    """Return the claims of a text cell that name their assert."""
    return cell.metadata.get("bigmodel", {}).get("claims", []) if cell.cell_type == "markdown" else []


def judging(cell: NotebookNode) -> Iterator[str]:
    """Yield each sentence of a text cell that compares or judges and cites nobody, on one line."""
    text = re.sub(r"(?m)^#.*", "", prose.sentences(cell.source))
    for sentence in prose.END.split(text):
        words = " ".join(sentence.split())
        if JUDGES.search(re.sub(r"`[^`]*`", " ", words)) and not re.search(r"\?$|\{cite", words):
            yield words


def backing(cell: NotebookNode, sentence: str) -> list[str]:
    """Return what backs a sentence: the cell whose assert it names, or a number of it that is bound."""
    named = [each["cell"] for each in of(cell) if " ".join(each["phrase"].split()) in sentence]
    numbers = [bindings.place(cell.source, each)[0] for each in bindings.of(cell)]
    return named + ["bound number" for text in numbers if " ".join(text.split()) in sentence]


def texts(nb: NotebookNode) -> list[NotebookNode]:
    """Return the cells whose sentences count: all texts but the card."""
    return [cell for cell in nb.cells if cell.cell_type == "markdown" and not CARD.match(cell.source)]


def has_backed_claims(path: Path, nb: NotebookNode) -> list[str]:
    """Each sentence that compares or judges names the assert that holds what it says."""
    allowed = prose.exempt(EXEMPT).get(path.stem, set())
    found = malformed(nb)
    if found or bindings.malformed_numbers(nb):
        return found
    for cell in texts(nb):
        found += [
            f"text cell {cell.id} claims {sentence!r}: name the cell whose assert holds it, in the metadata "
            "(tools/notebooks/claims.py), or cite"
            for sentence in judging(cell)
            if sentence not in allowed and not backing(cell, sentence)
        ]
    return found


def malformed(nb: NotebookNode) -> list[str]:
    """Say which claims stand nowhere, or name a cell that asserts nothing."""
    asserting = {
        cell.id
        for cell in notebook.code_cells(nb)
        if any(evidence.operands(node.test, cell.source) for node, _ in evidence.asserts(cell.source))
    }
    found = []
    for cell in nb.cells:
        text = " ".join(prose.sentences(cell.source).split()) if of(cell) else ""
        for each in of(cell):
            if set(each) != {"phrase", "cell"}:
                found.append(f"text cell {cell.id} has a claim with {sorted(each)}: phrase, cell")
            elif text.count(" ".join(each["phrase"].split())) != 1:
                found.append(f"text cell {cell.id} does not say {each['phrase']!r}, once")
            elif each["cell"] not in asserting:
                found.append(
                    f"text cell {cell.id} claims {each['phrase']!r} by cell {each['cell']}, which asserts nothing"
                )
    return found


def main() -> None:
    """List the sentences that compare or judge, with what backs them."""
    parser = argparse.ArgumentParser(
        description="List the sentences that compare or judge, with what backs them."
    )
    parser.add_argument("names", nargs="*", metavar="NB", help="04_cifar_training, or a path; default: all")
    for path in notebook.find(parser.parse_args().names):
        nb = notebook.read(path)
        for cell in texts(nb):
            for sentence in judging(cell):
                print(f"{path.stem} {cell.id} [{', '.join(backing(cell, sentence)) or '-'}] {sentence}")


if __name__ == "__main__":
    main()
