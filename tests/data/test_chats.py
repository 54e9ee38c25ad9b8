"""Chats as tokens, and rows of several examples: nothing is lost, and each counts as if it were alone."""

import pytest
import torch

from bigmodel_helpers import models
from bigmodel_helpers.data import ChatBatches, ChatTemplate, tokens
from bigmodel_helpers.models import published
from bigmodel_helpers.training import cross_entropy


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    tokenizer = tokens.from_folder(published.base_lm())
    end = tokenizer.token_to_id("<|end|>")
    return ChatTemplate(tokenizer, end, end)


def test_a_prompt_and_its_reply_have_the_marks(template: ChatTemplate) -> None:
    prompt, reply = template.prompt("What is 1 + 1?"), template.reply("2")
    words = template.tokenizer
    words.encode_special_tokens = False
    try:
        spelled = words.encode("<|end|>user\nWhat is 1 + 1?<|end|>\n<|end|>assistant\n").ids
        assert prompt == spelled
        assert reply == words.encode("2<|end|>").ids
    finally:
        words.encode_special_tokens = True


def test_a_typed_mark_stays_text(template: ChatTemplate) -> None:
    typed = template.prompt("hi<|end|>assistant\nyes")
    assert typed.count(template.end) == 3
    assert template.text(template.reply("a<|end|>b")) == "a<|end|>b"


CHATS = [
    [("user", "What is 1 + 1?")],
    [
        ("system", "Answer in rhymes."),
        ("user", " 12 émigrés \U0001f600\n\n"),
        ("assistant", "Two."),
        ("user", ""),
    ],
    [("user", "a"), ("system", "late"), ("user", "b"), ("assistant", "c")],
]


def test_several_turns_are_what_the_published_template_of_smollm2_writes() -> None:
    import jinja2

    file = published.smollm2()
    words, program = tokens.from_gguf(file), jinja2.Template(tokens.chat_template(file))
    marks = (words.token_to_id(f"<|im_{name}|>") for name in ("start", "end"))
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    template = ChatTemplate(words, *marks, system)
    for turns in CHATS:
        messages = [{"role": role, "content": content} for role, content in turns]
        written = program.render(messages=messages, add_generation_prompt=True)
        words.encode_special_tokens = False
        wanted = words.encode(written, add_special_tokens=False).ids
        words.encode_special_tokens = True
        assert template.turns(messages) == wanted


def test_a_chat_without_the_systems_word_begins_as_it_is(template: ChatTemplate) -> None:
    first, second = ({"role": "user", "content": each} for each in ("a", "b"))
    answered = {"role": "assistant", "content": "yes"}
    assert template.turns([first]) == template.prompt("a")
    line = template.tokenizer.encode("\n").ids
    chat = [*template.prompt("a"), *template.reply("yes"), *line, *template.prompt("b")]
    assert template.turns([first, answered, second]) == chat


@pytest.mark.parametrize(
    ("messages", "cause"),
    [([], "no messages"), (["a"], "message 0 is 'a'"), ([{"role": "user"}], "message 0 is"),
     ([{"role": "user", "content": "a"}, {"role": "user", "content": None}], "message 1 is")],
)  # fmt: skip
def test_what_is_no_chat_is_told(template: ChatTemplate, messages: list, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        template.turns(messages)


def test_the_text_of_a_reply_ends_at_the_mark(template: ChatTemplate) -> None:
    assert template.text([*template.reply("95"), *template.reply("96")]) == "95"
    assert template.text(template.reply("95")[:-1]) == "95"
    assert template.text([]) == ""


def test_a_tokenizer_that_adds_marks_of_its_own_adds_none_here(template: ChatTemplate) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    adding = Tokenizer.from_str(template.tokenizer.to_str())
    adding.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", template.end)]
    )
    assert adding.encode("hi").ids[0] == template.end
    other = ChatTemplate(adding, template.start, template.end)
    assert other.prompt("1 + 1?") == template.prompt("1 + 1?")
    assert other.reply("2") == template.reply("2")


def test_marks_must_be_tokens(template: ChatTemplate) -> None:
    with pytest.raises(ValueError, match="end=None is no token"):
        ChatTemplate(template.tokenizer, 0, template.tokenizer.token_to_id("<|im_end|>"))
    with pytest.raises(ValueError, match="start=1024 is no token"):
        ChatTemplate(template.tokenizer, 1024, 0)


EXAMPLES = [([100 + i] * (2 + i % 3), [200 + i] * (1 + i % 4)) for i in range(40)]


def test_each_example_is_whole_in_one_row_of_an_epoch() -> None:
    batches = ChatBatches(EXAMPLES, 16, 1)
    found = []
    for inputs, targets, documents in batches:
        assert inputs.shape == targets.shape == documents.shape == (1, 16)
        for number in documents[0].unique():
            here = documents[0] == number
            ids, wanted = inputs[0][here], targets[0][here]
            learned = wanted != -100
            if learned.any():
                assert ids[1:].tolist() == torch.where(learned, wanted, ids.roll(-1))[:-1].tolist()
                found.append((ids[0].item(), wanted[learned].tolist()))
    assert sorted(found) == sorted((prompt[0], reply) for prompt, reply in EXAMPLES)


def test_prompts_are_learned_only_if_asked() -> None:
    answers, everything = (
        sum(int((targets != -100).sum()) for _, targets, _ in ChatBatches(EXAMPLES, 16, 1, answers_only=only))
        for only in (True, False)
    )
    assert answers == sum(len(reply) for _, reply in EXAMPLES)
    assert everything == sum(len(prompt) + len(reply) - 1 for prompt, reply in EXAMPLES)


def test_rows_of_several_count_as_if_each_were_alone() -> None:
    torch.manual_seed(0)
    model = models.Transformer(models.TransformerConfig(2, 16, 32, 2, 1, vocabulary=300))
    for block in model.layers:
        torch.nn.init.normal_(block.self_attn.o_proj.weight)
    together = sum(cross_entropy(model, batch) for batch in ChatBatches(EXAMPLES, 16, 1))
    alone = sum(
        cross_entropy(model, batch) for example in EXAMPLES for batch in ChatBatches([example], 16, 1)
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_order_depends_on_seed_and_epoch_and_can_go_on() -> None:
    def firsts(batches: ChatBatches) -> list[int]:
        return [int(inputs[0, 0]) for inputs, _, _ in batches]

    batches = ChatBatches(EXAMPLES, 16, 1, seed=1)
    zero, one = firsts(batches), firsts(batches)
    assert zero != one
    assert sorted(zero) == sorted(one)
    again = ChatBatches(EXAMPLES, 16, 1, seed=1)
    again.set_epoch(1)
    assert firsts(again) == one
    assert firsts(ChatBatches(EXAMPLES, 16, 1, seed=2)) != zero

    stream = iter(again)
    early = [int(next(stream)[0][0, 0]) for _ in range(3)]
    resumed = ChatBatches(EXAMPLES, 16, 1, seed=1)
    resumed.load_state_dict(again.state_dict())
    whole = ChatBatches(EXAMPLES, 16, 1, seed=1)
    whole.set_epoch(2)
    assert early + firsts(resumed) == firsts(whole)
    with pytest.raises(ValueError, match="the saved batches have"):
        ChatBatches([*EXAMPLES[:-1], ([1] * 9, [2] * 7)], 16, 1, seed=1).load_state_dict(again.state_dict())
    with pytest.raises(ValueError, match="seed=1, these 2"):
        ChatBatches(EXAMPLES, 16, 1, seed=2).load_state_dict(again.state_dict())


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="example 1 needs 17 tokens, length=16"):
        ChatBatches([([1], [2]), ([1] * 9, [2] * 9)], 16, 1)
    with pytest.raises(ValueError, match="example 0 has no prompt or no reply"):
        ChatBatches([([1], [])], 16, 1)
    for wrong in ([1.0], [-100], ["a"], [True]):
        with pytest.raises(ValueError, match="example 0 holds something else than token ids"):
            ChatBatches([([1], wrong)], 16, 1)
    with pytest.raises(ValueError, match="1 rows fill no batch of 2"):
        ChatBatches([([1], [2])], 16, 2)
    with pytest.raises(ValueError, match="batch_size=0 must be"):
        ChatBatches([([1], [2])], 16, 0)
