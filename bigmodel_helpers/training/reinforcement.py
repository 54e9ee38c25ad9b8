"""Learning from a reward: advantages within a group, and a loss that is clipped. Introduced in chapter 13."""

import math

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, *, by_spread: bool = True) -> Tensor:
    """Return how much better each answer is than the others to its prompt (GRPO, Shao et al. 2024, arXiv:2402.03300).

    Args:
        rewards: (P, G): of G answers to each of P prompts.
        by_spread: divide by the standard deviation in the group, as GRPO does; without it, a group that hardly
            differs counts as much less (Liu et al. 2025, arXiv:2503.20783).

    Returns:
        (P, G), mean 0 in each group; all 0 where all answers have the same reward, to about six digits.

    Raises:
        ValueError: the shape is not (P, G) with at least two answers, or a reward is not finite.

    >>> training.group_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), by_spread=False)
    tensor([[ 0.5000, -0.5000],
            [ 0.0000,  0.0000]])
    """
    if rewards.ndim != 2 or len(rewards) < 1 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards of shape {tuple(rewards.shape)}: pass (prompts, answers), a prompt and two answers at least"
        )
    rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    if not rewards.isfinite().all():
        raise ValueError("a reward is not finite: mend the function that gives it")
    apart = rewards.amax(1, keepdim=True) - rewards.amin(1, keepdim=True)
    alike = apart <= 1e-6 * rewards.abs().amax(1, keepdim=True)
    centered = (rewards - rewards.mean(1, keepdim=True)).masked_fill(alike, 0.0)
    if not by_spread:
        return centered
    return centered / rewards.std(1, keepdim=True).masked_fill(alike, 1.0)


def clipped_policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    """Return the policy loss of PPO (Schulman et al. 2017, arXiv:1707.06347) of each token; the smaller, the better.

    Args:
        new: log-probabilities of the tokens that were drawn, under the model that learns.
        old: those under the model that drew them, of the same shape, without gradient.
        advantages: of the answers, without gradient, of as many axes: (B, 1) for tokens (B, T).
        clip: how far the ratio of both probabilities may move from 1, in the direction of the advantage, before the
            gradient ends; infinity for no limit.

    Returns:
        Of the shape of `new`.

    Raises:
        ValueError: the shapes do not fit, or `clip` is not positive.
    """
    sizes = zip(advantages.shape, new.shape, strict=False)
    fits = advantages.ndim == new.ndim and all(one in (1, size) for one, size in sizes)
    if new.shape != old.shape or not fits:
        shapes = ", ".join(str(tuple(one.shape)) for one in (new, old, advantages))
        raise ValueError(f"new, old and advantages have shapes {shapes}: pass (B, T), (B, T) and (B, 1)")
    if not clip > 0:
        raise ValueError(f"clip is {clip:g}: take a positive number, 0.2 is usual")
    change, advantages = new - old.detach(), advantages.detach()
    low = math.log1p(-clip) if clip < 1 else -math.inf
    # Cut before exp: a ratio that overflows would have a gradient of infinity times zero.
    cut = torch.where(advantages < 0, change.clamp(min=low), change.clamp(max=math.log1p(clip)))
    return -advantages * cut.exp()
