"""Learning from a reward: advantages within a group, and a loss that is clipped. Introduced in chapter 13."""

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, *, by_spread: bool = True) -> Tensor:
    """Return how much better each answer is than the others to its prompt (GRPO, Shao et al. 2024, arXiv:2402.03300).

    Args:
        rewards: (P, G): of G answers to each of P prompts.
        by_spread: divide by the standard deviation in the group, as GRPO does; without it, a group that hardly
            differs counts as much less (Liu et al. 2025, arXiv:2503.20783).

    Returns:
        (P, G), mean 0 in each group; all 0 where all answers have the same reward.

    Raises:
        ValueError: the shape is not (P, G) with at least two answers, or a reward is not finite.

    >>> training.group_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), by_spread=False)
    tensor([[ 0.5000, -0.5000],
            [ 0.0000,  0.0000]])
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards of shape {tuple(rewards.shape)}: pass (prompts, answers), two answers at least"
        )
    rewards = rewards.float()
    if not rewards.isfinite().all():
        raise ValueError("a reward is not finite: mend the function that gives it")
    centered = rewards - rewards.mean(1, keepdim=True)
    if not by_spread:
        return centered
    spread = rewards.std(1, keepdim=True)
    alike = spread <= 1e-6 * rewards.abs().amax(1, keepdim=True)
    return torch.where(alike, 0.0, centered / spread.masked_fill(alike, 1.0))


def clipped_policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    """Return the policy loss of PPO (Schulman et al. 2017, arXiv:1707.06347) of each token; the smaller, the better.

    Args:
        new: log-probabilities of the tokens that were drawn, under the model that learns.
        old: those under the model that drew them, of the same shape, without gradient.
        advantages: of the answers, of a shape that fits (such as (B, 1) for tokens (B, T)).
        clip: how far the ratio of both probabilities may move from 1 before the gradient ends.

    Returns:
        Of the shape of `new`.

    Raises:
        ValueError: the shapes do not fit, or `clip` is not positive.
    """
    if new.shape != old.shape or torch.broadcast_shapes(new.shape, advantages.shape) != new.shape:
        shapes = ", ".join(str(tuple(one.shape)) for one in (new, old, advantages))
        raise ValueError(f"new, old and advantages have shapes {shapes}: pass those of the same tokens")
    if not clip > 0:
        raise ValueError(f"clip is {clip:g}: take a positive number, 0.2 is usual")
    ratio = (new - old.detach()).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
