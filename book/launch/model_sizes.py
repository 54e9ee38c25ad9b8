"""How large a run of make_model.py is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The sizes of a run; the defaults are those of `laptop`."""

    network: tuple[int, ...] = (5, 192, 512, 6, 3)  # layers, width, hidden, heads, heads of keys and values
    vocabulary: int = 1024
    documents: int = 10_000  # to learn from, at most
    length: int = 256  # tokens in a row
    rows: int = 8  # in a step
    pretrain: int = 1500  # steps
    solved: int = 10_500  # questions with an answer that the network reads
    instruct: int = 800  # steps
    unsolved: int = 10_500  # questions to which it is only told whether it was right
    group: int = 4  # answers to each
    reinforce: int = 300  # steps on its right answers
    control: int = 500  # steps more on the others' answers, about as long as all of that
    items: int = 280  # questions of the test
    draws: int = 4  # answers to each
    counted: int = 1024  # first tokens of each new document


PROFILES = {
    "smoke": Options((1, 32, 64, 2, 1), 300, 30, 256, 2, 4, 140, 4, 70, 2, 3, 3, 14, 2, 64),
    "laptop": Options(),
    # For one card. It has not been run yet, so its sizes are a guess.
    "gpu": Options((8, 384, 1024, 6, 6), rows=64, solved=21_000, instruct=1500, unsolved=21_000, group=8),
}
