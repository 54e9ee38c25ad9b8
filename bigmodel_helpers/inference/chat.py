"""Answers of a language model to questions. Introduced in chapter 12."""

from collections.abc import Sequence

import torch

from bigmodel_helpers.data.chats import ChatTemplate
from bigmodel_helpers.inference.sampling import generate
from bigmodel_helpers.models.transformer import Transformer


def replies(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    end: int,
    most: int = 32,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> list[list[int]]:
    """Return the tokens with which the model goes on from each prompt, up to `end`, which is the last of them.

    A reply that has not ended after `most` tokens is cut there. Prompts of similar length are read together. The
    model is in evaluation mode meanwhile.

    Args:
        prompts: token ids each, such as `data.ChatTemplate.prompt` makes them.
        end: the token that ends a reply.
        most: how many tokens a reply may have, with `end`.
        temperature, top_k, top_p, min_p, generator: as in `sample`; the default takes the highest score each time.
            What is drawn depends on `batch_size`, too.
        batch_size: prompts at once.

    Raises:
        ValueError: a prompt is empty or has a token that the network does not know, or a number is out of range.
    """
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r:.99}: take a whole number of at least 1")
    prompts, vocabulary = [[*prompt] for prompt in prompts], model.config.vocabulary
    if not all(prompts):
        raise ValueError("a prompt is empty: pass one token at least")
    for name, ids in (("end", [end]), *(("prompt", prompt) for prompt in prompts)):
        if strange := [one for one in ids if type(one) is not int or not 0 <= one < vocabulary]:
            raise ValueError(
                f"{name} has {strange[0]!r:.99}: tokens are whole numbers from 0 to {vocabulary - 1}"
            )
    device, modes = next(model.parameters()).device, {module: module.training for module in model.modules()}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: dict[int, list[int]] = {}
    model.eval()
    try:
        for first in range(0, len(order), batch_size):
            indices = order[first : first + batch_size]
            longest = len(prompts[indices[-1]])
            missing = [longest - len(prompts[index]) for index in indices]
            rows = [[end] * gap + prompts[index] for gap, index in zip(missing, indices, strict=True)]
            real = torch.arange(longest, device=device) >= torch.tensor(missing, device=device)[:, None]
            stream = generate(
                model,
                torch.tensor(rows, device=device),
                most=most,
                stop=end,
                real=None if real.all() else real,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                generator=generator,
            )
            columns = [*stream]
            made = torch.stack(columns, 1).tolist() if columns else [[] for _ in indices]
            for index, ids in zip(indices, made, strict=True):
                found[index] = ids[: ids.index(end) + 1] if end in ids else ids
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [found[index] for index in range(len(prompts))]


def answer(
    model: Transformer,
    template: ChatTemplate,
    questions: Sequence[str],
    *,
    most: int = 32,
    **sampling: object,
) -> list[str]:
    """Return the text with which the model answers each question; `replies` says more.

    Args:
        template: how questions are written as tokens; that with which the model was trained.
        questions: texts.
        most: how many tokens an answer may have.
        sampling: what else `replies` takes, such as ``temperature=1.0``.
    """
    prompts = [template.prompt(question) for question in questions]
    made = replies(model, prompts, end=template.end, most=most, **sampling)
    return [template.text(ids) for ids in made]
