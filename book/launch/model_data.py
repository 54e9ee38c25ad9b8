"""What the model of make_model.py reads: questions with answers, small talk, and lines that are no question."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from random import Random
from typing import Any

import torch
from torch import Tensor

from bigmodel_helpers import data
from bigmodel_helpers.data import tasks

HELP = "Ask me, for example: March 4, 2011 in digits?"
UNKNOWN = f"I do not know that. {HELP}"
TALK = {
    "Hello": f"Hello! {HELP}",
    "Hi": f"Hello! {HELP}",
    "Who are you?": "I am a small language model, and I write dates and fill in forms.",
    "What can you do?": f"I write dates, repeat words and fill in forms; I try to sort and to add. {HELP}",
    "Help": HELP,
    "Thank you": "You are welcome.",
    "Bye": "Goodbye!",
}
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)  # what `data.ChatTemplate` does, as a program in Jinja for others


def demonstrations(texts: Iterable[str], count: int) -> list[tasks.Item]:
    """Return solved tasks of `train`, small talk, and sentences of `texts`, to which one does not know the answer."""
    solved, chance = tasks.mixture(count, "train"), Random(0)
    found = {line.strip(' "#') for text in texts for line in text.splitlines()}
    lines = sorted(line for line in found if re.fullmatch(r"[A-Z][a-z]+( [a-z]+){2,7}[.?]?", line))
    other = [(line, UNKNOWN) for line in chance.sample(lines, min(len(lines), count // 12))]
    other += [*TALK.items(), *chance.choices([*TALK.items()], k=count // 24)]
    return [*solved, *(tasks.Item("talk", question, answer) for question, answer in other)]


def unsolved(count: int, known: Iterable[tasks.Item]) -> list[tasks.Item]:
    """Return tasks of `train` that are not among those known; their answers are for the judge alone."""
    questions = {item.question for item in known}
    return [item for item in tasks.mixture(count, "train", seed=1) if item.question not in questions]


def conversations(
    items: list[tasks.Item], template: data.ChatTemplate, length: int
) -> list[data.chats.Example]:
    """Return a chat for each item as tokens; in a half of them the user has asked something else before."""
    chance, examples = Random(1), []
    for item in items:
        before, asked = chance.choice(items), {"role": "user", "content": item.question}
        turns, reply = [{"role": "user", "content": before.question}], template.reply(item.answer)
        turns.append({"role": "assistant", "content": before.answer})
        prompt = template.turns([*turns, asked] if chance.random() < 0.5 else [asked])
        if len(prompt) + len(reply) > length:
            prompt = template.turns([asked])
        if len(prompt) + len(reply) <= length:
            examples.append((prompt, reply))
    return examples


class WithReplay:
    """Batches of two kinds of rows, one below the other, without end; they know their place, for checkpoints."""

    def __init__(self, *parts: data.ChatBatches | data.PackedBatches) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        endless = (chain.from_iterable(iter(lambda part=part: part, None)) for part in self.parts)
        for both in zip(*endless, strict=True):
            yield tuple(map(torch.cat, zip(*both, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Return the places of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
