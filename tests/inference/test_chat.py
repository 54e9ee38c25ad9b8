"""Answers: together or one by one, ended or cut, and the state of the model after."""

import pytest
import torch
from torch import Tensor

from bigmodel_helpers import models
from bigmodel_helpers.data import ChatTemplate, tokens
from bigmodel_helpers.inference import answer, generate, replies
from bigmodel_helpers.models import published

END = 9
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 1], [2, 2]]


def network(seed: int = 0) -> models.Transformer:
    torch.manual_seed(seed)
    model = models.Transformer(models.TransformerConfig(2, 16, 32, 4, 2, vocabulary=10))
    for block in model.layers:
        torch.nn.init.normal_(block.self_attn.o_proj.weight)
        torch.nn.init.normal_(block.mlp.down_proj.weight)
    torch.nn.init.normal_(model.lm_head.weight)
    return model


def alone(model: models.Transformer, prompt: list[int], most: int) -> list[int]:
    found = [int(one) for one in generate(model.eval(), torch.tensor([prompt]), most=most, stop=END)]
    return found[: found.index(END) + 1] if END in found else found


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("seed", range(4))
def test_together_equals_one_by_one(seed: int, batch_size: int) -> None:
    model = network(seed)
    found = replies(model, PROMPTS, end=END, most=6, batch_size=batch_size)
    assert found == [alone(model, prompt, 6) for prompt in PROMPTS]


def test_a_reply_ends_with_the_mark_or_is_cut() -> None:
    found = [one for seed in range(8) for one in replies(network(seed), PROMPTS, end=END, most=5)]
    assert all(END not in one[:-1] and len(one) <= 5 for one in found)
    assert any(one[-1] == END for one in found)
    assert any(END not in one for one in found)


def test_drawn_replies_depend_on_the_generator() -> None:
    def drawn(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return replies(network(), [[1, 2]] * 8, end=END, most=5, temperature=1.0, generator=generator)

    assert drawn(0) == drawn(0) != drawn(1)
    assert len({tuple(one) for one in drawn(0)}) > 1


@pytest.mark.parametrize("strict", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_the_strictest_filters_take_the_highest_score(strict: dict[str, float]) -> None:
    found = replies(network(), PROMPTS, end=END, most=6, temperature=2.0, **strict)
    assert found == replies(network(), PROMPTS, end=END, most=6)


def test_nothing_to_say_and_nobody_to_ask() -> None:
    assert replies(network(), PROMPTS, end=END, most=0) == [[], [], [], []]
    assert replies(network(), [], end=END) == []


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_of_the_model_is_what_it_was(training: bool) -> None:
    model = network().train(training)
    modes: list[bool] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    replies(model, PROMPTS, end=END, most=2)
    assert model.training is training
    assert not any(modes)
    model.layers[0].mlp.train(not training)
    replies(model, PROMPTS, end=END, most=2)
    assert model.training is training
    assert model.layers[0].mlp.training is not training


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="a prompt is empty"):
        replies(network(), [[1], []], end=END)
    for prompt in ([10], [1.0], [2**70], [-1]):
        with pytest.raises(ValueError, match=r"prompt has .*: tokens are whole numbers from 0 to 9"):
            replies(network(), [[1], prompt], end=END)
    for end in (None, 10, -1):
        with pytest.raises(ValueError, match=f"end has {end}: tokens"):
            replies(network(), PROMPTS, end=end)
    with pytest.raises(ValueError, match="batch_size is 0"):
        replies(network(), PROMPTS, end=END, batch_size=0)


class Echo(torch.nn.Module):
    """Writes the token that follows the same place of the answer that it was given."""

    def __init__(self, ids: list[int], vocabulary: int) -> None:
        super().__init__()
        self.ids, self.config = ids, models.TransformerConfig(1, 4, 4, 1, 1, vocabulary=vocabulary)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.calls = 0

    def forward(self, given: Tensor, **_: object) -> Tensor:
        scores = torch.zeros(*given.shape, self.config.vocabulary)
        scores[..., self.ids[self.calls]] = 1
        self.calls += 1
        return scores


def test_an_answer_is_the_text_before_the_mark() -> None:
    tokenizer = tokens.from_folder(published.base_lm())
    end = tokenizer.token_to_id("<|end|>")
    template = ChatTemplate(tokenizer, end, end)
    written = template.reply("95 kg")
    model = Echo([*written, 7, 7], tokenizer.get_vocab_size())
    assert answer(model, template, ["19 + 76?"], most=len(written) + 2) == ["95 kg"]
    assert model.calls == len(written)
