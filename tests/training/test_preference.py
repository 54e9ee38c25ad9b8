"""Preference and reward: losses and gradients against formulas by hand, and against trl's trainer."""

import dataclasses
import math
from pathlib import Path

import datasets
import pytest
import torch
import transformers
import trl
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn

from bigmodel_helpers import models
from bigmodel_helpers.training import (
    clipped_policy_loss,
    cross_entropy,
    dpo_loss,
    group_advantages,
    log_likelihoods,
    token_log_probs,
)


def network(seed: int = 0) -> models.Transformer:
    torch.manual_seed(seed)
    model = models.Transformer(models.TransformerConfig(2, 16, 32, 4, 2, vocabulary=20))
    for block in model.layers:
        nn.init.normal_(block.self_attn.o_proj.weight)
        nn.init.normal_(block.mlp.down_proj.weight)
    return model


def answers(seed: int, rows: int = 3, prompt: int = 2, length: int = 7) -> tuple[Tensor, Tensor]:
    ids = torch.randint(1, 20, (rows, length + 1), generator=torch.Generator().manual_seed(seed))
    targets = ids[:, 1:].clone()
    targets[:, : prompt - 1] = -100
    targets[0, -2:] = -100
    return ids[:, :-1], targets


# --------------------------------------------------------------------------------- likelihoods


def test_the_log_probabilities_are_those_of_the_targets() -> None:
    model, (inputs, targets) = network(), answers(0)
    found = token_log_probs(model, (inputs, targets))
    everything = model(inputs).log_softmax(-1)
    for row, place in torch.cartesian_prod(torch.arange(3), torch.arange(7)).tolist():
        target = targets[row, place]
        wanted = everything[row, place, target] if target >= 0 else torch.tensor(0.0)
        torch.testing.assert_close(found[row, place], wanted)
    torch.testing.assert_close(-found.sum(), cross_entropy(model, (inputs, targets)))
    torch.testing.assert_close(log_likelihoods(model, inputs, targets), found.sum(1))


def test_packed_rows_have_the_log_probabilities_of_each_document() -> None:
    model, (inputs, targets) = network(), answers(1, rows=1)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    found = token_log_probs(model, (inputs, targets, documents))
    apart = [token_log_probs(model, (inputs[:, part], targets[:, part])) for part in (slice(4), slice(4, 7))]
    torch.testing.assert_close(found, torch.cat(apart, 1), rtol=1e-4, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    model, (inputs, targets) = network(), answers(0)
    with pytest.raises(ValueError, match=r"\(3, 7\) and \(7, 3\)"):
        token_log_probs(model, (inputs, targets.T))
    with pytest.raises(ValueError, match="scores tuple"):
        token_log_probs(lambda ids: (model(ids),), (inputs, targets))


# -------------------------------------------------------------------------------------- DPO


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_the_loss_is_that_of_the_bradley_terry_model(beta: float) -> None:
    chosen, rejected = torch.tensor([0.5, -2.0, 3.0]), torch.tensor([1.5, -2.0, -1.0])
    wanted = sum(
        -math.log(1 / (1 + math.exp(-beta * (c - r))))
        for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)
    )
    assert dpo_loss(chosen, rejected, beta).item() == pytest.approx(wanted, rel=1e-5)


def test_many_pairs_in_half_precision_are_summed_in_single() -> None:
    pairs = torch.zeros(100_000, dtype=torch.float16)
    assert dpo_loss(pairs, pairs).item() == pytest.approx(100_000 * math.log(2), rel=1e-4)


def test_large_margins_stay_finite() -> None:
    chosen = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = dpo_loss(chosen, torch.zeros(2))
    loss.backward()
    assert loss.isfinite()
    assert chosen.grad.isfinite().all()


def test_the_gradient_is_the_share_of_the_wrong_order() -> None:
    chosen = torch.tensor([0.0, 5.0, -5.0], requires_grad=True)
    dpo_loss(chosen, torch.zeros(3), beta=0.5).backward()
    torch.testing.assert_close(chosen.grad, -0.5 * torch.sigmoid(-0.5 * chosen.detach()))


def tiny_trainer(folder: Path) -> trl.DPOTrainer:
    """Make trl's trainer for a Llama of two layers and three pairs of answers of different lengths."""
    signs = {sign: number for number, sign in enumerate(["<pad>", "<end>", *"abcdefgh"])}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(signs, unk_token="<pad>")), pad_token="<pad>", eos_token="<end>"
    )
    tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    config = transformers.LlamaConfig(
        vocab_size=10, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model, reference = (transformers.LlamaForCausalLM(config) for _ in range(2))
    pairs = {
        "prompt": ["a b ", "c ", "d e f "],
        "chosen": ["c d", "e f g h", "a"],
        "rejected": ["h", "a b", "b c d"],
    }
    options = trl.DPOConfig(
        str(folder), beta=0.3, per_device_train_batch_size=3, use_cpu=True, bf16=False, report_to=[],
        activation_checkpointing=False,
    )  # fmt: skip
    return trl.DPOTrainer(
        model,
        reference,
        args=options,
        train_dataset=datasets.Dataset.from_dict(pairs),
        processing_class=tokenizer,
    )


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_loss_and_gradients_equal_those_of_trl(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    theirs = trainer.model.eval()
    wanted = trainer._compute_loss(theirs, dict(batch), return_outputs=False)
    wanted.backward()
    gradients = {name: one.grad.clone() for name, one in theirs.named_parameters()}
    theirs.zero_grad()

    rows, learned = batch["input_ids"], batch["completion_mask"].bool()
    targets = rows[:, 1:].masked_fill(~learned[:, 1:], -100)

    def likelihoods(model: nn.Module) -> Tensor:
        def scores(ids: Tensor) -> Tensor:
            return model(ids, attention_mask=batch["attention_mask"][:, :-1]).logits

        return log_likelihoods(scores, rows[:, :-1], targets)

    with torch.no_grad():
        known = likelihoods(trainer.ref_model)
    chosen, rejected = (likelihoods(theirs) - known).chunk(2)
    ours = dpo_loss(chosen, rejected, beta=trainer.beta) / len(chosen)
    assert len(chosen) == 3
    assert abs(ours.item() - math.log(2)) > 0.01
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)
    ours.backward()
    for name, one in theirs.named_parameters():
        torch.testing.assert_close(one.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_defaults_of_trl_are_those_that_chapter_13_tells() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(trl.GRPOConfig)}
    assert defaults["beta"] == 0.0
    assert defaults["epsilon"] == 0.2
    assert defaults["num_iterations"] == 1
    assert defaults["loss_type"] == "dapo"
    assert defaults["scale_rewards"] == "group"


def test_wrong_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        dpo_loss(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="beta is inf"):
        dpo_loss(torch.zeros(2), torch.zeros(2), beta=math.inf)
    with pytest.raises(ValueError, match="beta is 0"):
        dpo_loss(torch.zeros(2), torch.zeros(2), beta=0)


# ----------------------------------------------------------------------------------- rewards


def test_advantages_are_centered_and_scaled_in_each_group() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0], [5, 7, 9, 11]])
    found = group_advantages(rewards)
    torch.testing.assert_close(found.mean(1), torch.zeros(2))
    torch.testing.assert_close(found.std(1), torch.ones(2))
    plain = group_advantages(rewards, by_spread=False)
    torch.testing.assert_close(plain, rewards - rewards.mean(1, keepdim=True))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("by_spread", [True, False])
def test_equal_rewards_teach_nothing(value: float, by_spread: bool) -> None:
    found = group_advantages(torch.full((2, 7), value), by_spread=by_spread)
    assert (found == 0).all()


def test_rewards_of_other_types_are_compared_in_their_own() -> None:
    whole = torch.tensor([[1, 2, 4]])
    torch.testing.assert_close(group_advantages(whole), group_advantages(whole.float()))
    large = torch.tensor([[1e39, 2e39]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(large), torch.tensor([[-1, 1]], dtype=torch.float64) / 2**0.5)


def test_wrong_rewards_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        group_advantages(torch.zeros(3))
    with pytest.raises(ValueError, match="two answers at least"):
        group_advantages(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="not finite"):
        group_advantages(torch.tensor([[1.0, math.nan]]))


def test_the_loss_is_clipped_where_the_ratio_has_left_its_limits() -> None:
    ratios = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5])
    old = torch.full((5,), -1.0)
    for advantage, moves in ((1.0, [1, 1, 1, 1, 0]), (-1.0, [0, 1, 1, 1, 1])):
        new = (old + ratios.log()).requires_grad_()
        loss = clipped_policy_loss(new, old, torch.full((5,), advantage))
        limit = ratios.clamp(max=1.2) if advantage > 0 else ratios.clamp(min=0.8)
        torch.testing.assert_close(loss, -advantage * limit)
        loss.sum().backward()
        torch.testing.assert_close(new.grad, -advantage * ratios * torch.tensor(moves))


@pytest.mark.parametrize("advantage", [1.0, 0.0])
@pytest.mark.parametrize("old", [-100.0, -math.inf])
def test_a_ratio_that_overflows_has_no_gradient(advantage: float, old: float) -> None:
    new = torch.zeros(1, requires_grad=True)
    loss = clipped_policy_loss(new, torch.tensor([old]), torch.tensor([advantage]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(-1.2 * advantage)
    assert new.grad.item() == 0


def test_without_limits_the_loss_is_the_ratio() -> None:
    new, old, advantages = torch.randn(5), torch.randn(5), torch.randn(5)
    torch.testing.assert_close(
        clipped_policy_loss(new, old, advantages, clip=math.inf), -advantages * (new - old).exp()
    )


def test_the_first_step_is_reinforce_and_the_old_policy_gets_no_gradient() -> None:
    new = torch.randn(3, 4, requires_grad=True)
    advantages = torch.randn(3, 1)
    clipped_policy_loss(new, new, advantages).sum().backward()
    torch.testing.assert_close(new.grad, -advantages.expand(3, 4))


def test_wrong_policies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\), \(2, 4\)"):
        clipped_policy_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"\(3, 3\), \(3,\)"):
        clipped_policy_loss(torch.zeros(3, 3), torch.zeros(3, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="clip is 0"):
        clipped_policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1), clip=0)


def test_the_mean_reward_rises_in_a_world_of_three_answers() -> None:
    scores = torch.zeros(3, requires_grad=True)
    optimizer, chance = torch.optim.SGD([scores], lr=0.5), torch.Generator().manual_seed(0)
    for _ in range(60):
        drawn = torch.multinomial(scores.detach().softmax(0), 16, True, generator=chance)
        advantages = group_advantages((drawn == 2).float()[None])[0]
        new = scores.log_softmax(0)[drawn]
        clipped_policy_loss(new, new.detach(), advantages).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert scores.softmax(0)[2] > 0.9
