"""What chapter 15 claims about SmolLM2 in fp32: one reader against transformers, sixteen readers against one."""

import tempfile
import time
from collections.abc import Iterator

import torch

from bigmodel_helpers import data, inference, measure
from bigmodel_helpers.data import tokens
from bigmodel_helpers.models import published
from tools.bench.figure import Figure, figure

NEW, PACK = 48, "onednn"  # tokens of an answer; the layout that uses all threads
TOPICS = ("rivers", "stars", "bread", "music", "trains", "cats", "snow", "gold")
ASKED = [f"{verb} in a few sentences about {topic}." for verb in ("Tell me", "Write") for topic in TOPICS]


def serving(images: data.ImageSet) -> Iterator[Figure]:
    """Chapter 15, tokens per second: `Decoder` over `transformers.generate`, sixteen readers of `Engine` over one."""
    from transformers import AutoModelForCausalLM

    model, words = published.load(published.smollm2()), tokens.from_gguf(published.smollm2())
    chat = data.ChatTemplate(words, *(words.token_to_id(f"<|im_{name}|>") for name in ("start", "end")))
    prompts = [chat.prompt(question) for question in ASKED]
    packed = inference.Packed(model, PACK)
    with tempfile.TemporaryDirectory() as folder:
        published.save(model, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids, decoder = torch.tensor(prompts[:1]), inference.Decoder(packed, 256)

    def generate() -> list[int]:
        made = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            pad_token_id=0,
            eos_token_id=None,
        )
        return made[0, len(prompts[0]) :].tolist()

    def decode() -> list[int]:
        decoder.length = 0
        return [*decoder.generate(prompts[0], most=NEW)]

    if decode() != generate():
        raise RuntimeError("the two write different tokens: the comparison would mean nothing")
    ratio = measure.compare(decode, generate, repeats=9)
    what = "tokens/s for one reader, fp32, `Decoder` over transformers.generate, the same tokens"
    yield figure("generate", what, "x", list(ratio.values), floor=1.3, goal=2)
    ratios = [_rate(packed, prompts) / _rate(packed, prompts[:1]) for _ in range(7)]
    what = "tokens/s for sixteen readers over one, fp32, the same kernels"
    yield figure("readers", what, "x", ratios, floor=5, goal=7)


def _rate(packed: inference.Packed, prompts: list[list[int]]) -> float:
    """Return the tokens per second that an engine writes when all prompts have been read."""
    engine = inference.Engine(packed, blocks=16 * len(prompts), budget=512)
    requests = [engine.submit(inference.Request(prompt, NEW)) for prompt in prompts]
    while not all(request.answer for request in requests):
        engine.step()
    before, start = sum(len(request.answer) for request in requests), time.perf_counter()
    engine.run()
    return (sum(len(request.answer) for request in requests) - before) / (time.perf_counter() - start)
