"""Drafts: what comes out is distributed as the network says, and each usual mistake is found."""

from collections.abc import Callable, Sequence

import pytest
import torch
from tiny_transformers import CONFIGS, network
from torch import Tensor

from bigmodel_helpers import models
from bigmodel_helpers.inference.chat import replies
from bigmodel_helpers.inference.packed import Decoder, Packed
from bigmodel_helpers.inference.sampling import chances
from bigmodel_helpers.inference.speculative import (
    Counts,
    Draft,
    Lookup,
    acceptance,
    expected_tokens,
    speculate,
    verify,
)

Verify = Callable[[Sequence[int], Tensor, Tensor, torch.Generator], list[int]]
P = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.5, 0.4], [0.3, 0.2, 0.5]])  # of the next token, by the last one
Q = torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.3, 0.6, 0.1]])
LENGTH, DRAFTS = 3, 2


def draw(weights: Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(weights, 1, generator=generator))


def first_rejected(drafts: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator) -> int | None:
    chances_to_keep = [float(p[place, token] / q[place, token]) for place, token in enumerate(drafts)]
    numbers = torch.rand(len(drafts), generator=generator).tolist()
    pairs = zip(numbers, chances_to_keep, strict=True)
    return next((place for place, (number, keep) in enumerate(pairs) if number >= keep), None)


# ------------------------------------------------------------------------------- the usual mistakes


def no_residual(drafts: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator) -> list[int]:
    place = first_rejected(drafts, q, p, generator)
    place = len(drafts) if place is None else place
    return [*drafts[:place], draw(p[place], generator)]


def kept_where_p_is_larger(
    drafts: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator
) -> list[int]:
    for place, token in enumerate(drafts):
        if p[place, token] <= q[place, token]:
            return [*drafts[:place], draw((p[place] - q[place]).clamp(min=0), generator)]
    return [*drafts, draw(p[len(drafts)], generator)]


def bonus_of_the_row_before(
    drafts: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator
) -> list[int]:
    made = verify(drafts, q, p, generator)
    return made if len(made) <= len(drafts) else [*drafts, draw(p[-2], generator)]


def residual_after_all_were_kept(
    drafts: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator
) -> list[int]:
    made = verify(drafts, q, p, generator)
    return made if len(made) <= len(drafts) else [*drafts, draw((p[-1] - q[-1]).clamp(min=1e-9), generator)]


def bonus_forgotten(drafts: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator) -> list[int]:
    return verify(drafts, q, p, generator)[: len(drafts)]


# ----------------------------------------------------------------------------------------- the fit


def p_value(found: Tensor, wanted: Tensor) -> float:
    """Return the probability of a fit that is no better, by Pearson's chi-square test."""
    found, wanted = found.double().flatten(), wanted.double().flatten()
    assert wanted[wanted > 0].min() * found.sum() >= 4
    if (found[wanted == 0] > 0).any():
        return 0.0
    found, wanted = found[wanted > 0], wanted[wanted > 0] * found.sum()
    statistic = ((found - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(found) - 1) / 2).double(), statistic / 2))


def texts(verify: Verify, count: int) -> Tensor:
    """Return how often each text of three tokens after token 0 is made."""
    generator, found = torch.Generator().manual_seed(1), torch.zeros(3, 3, 3)
    for _ in range(count):
        text = [0]
        while len(text) <= LENGTH:
            before = text[-1:]
            for _ in range(DRAFTS):
                before.append(draw(Q[before[-1]], generator))
            text += verify(before[1:], Q[before[:-1]], P[before], generator)
        found[tuple(text[1 : LENGTH + 1])] += 1
    return found


WANTED = P[0][:, None, None] * P[:, :, None] * P[None]


def test_texts_come_with_the_probability_that_the_network_gives_them() -> None:
    assert p_value(texts(verify, 2000), WANTED) > 1e-5


@pytest.mark.parametrize(
    "wrong",
    [no_residual, kept_where_p_is_larger, bonus_of_the_row_before, residual_after_all_were_kept],
)
def test_each_usual_mistake_shows(wrong: Verify) -> None:
    assert p_value(texts(wrong, 1000), WANTED) < 1e-12


def per_pass(verify: Verify, p: Tensor, q: Tensor, drafts: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    many = torch.multinomial(q.expand(600, -1), drafts, replacement=True, generator=generator).tolist()
    rows = q.expand(drafts, -1), p.expand(drafts + 1, -1)
    return torch.tensor([float(len(verify(some, *rows, generator))) for some in many])


@pytest.mark.parametrize("drafts", [1, 4])
def test_a_forgotten_bonus_shows_in_the_tokens_per_pass(drafts: int) -> None:
    p, q = P[0], Q[1]
    expected = expected_tokens(float(acceptance(p, q)), drafts)
    for way, fits in ((verify, True), (bonus_forgotten, False)):
        made = per_pass(way, p, q, drafts)
        standard_error = float(made.std() / len(made) ** 0.5)
        assert (abs(float(made.mean()) - expected) <= 4 * standard_error) is fits


def test_acceptance_is_one_minus_the_total_variation_distance() -> None:
    torch.testing.assert_close(acceptance(P, Q), 1 - (P - Q).abs().sum(-1) / 2)
    assert acceptance(P, P).tolist() == pytest.approx([1, 1, 1])
    assert acceptance(torch.eye(2), torch.eye(2).flip(0)).tolist() == [0, 0]
    kept = per_pass(verify, P[0], Q[1], 1) - 1
    assert float(kept.mean()) == pytest.approx(float(acceptance(P[0], Q[1])), abs=0.07)


def test_expected_tokens_are_a_geometric_sum() -> None:
    assert expected_tokens(0.0, 4) == 1
    assert expected_tokens(1.0, 4) == 5
    assert expected_tokens(0.7, 3) == pytest.approx((1 - 0.7**4) / (1 - 0.7))
    assert expected_tokens(0.7, 0) == 1
    for chance, count in ((1.1, 2), (-0.1, 2), (0.5, -1), (0.5, 2.0)):
        with pytest.raises(ValueError, match=r"^chance is .*, count is .*: take 0 to 1"):
            expected_tokens(chance, count)


def test_a_rejection_by_rounding_alone_draws_from_p() -> None:
    p = torch.tensor([[0.0, 0.5], [1.0, 0.0]])
    found = {
        tuple(verify([1], torch.tensor([[0.5, 1.0]]), p, torch.Generator().manual_seed(seed)))
        for seed in range(20)
    }
    assert found == {(1, 0), (1,)}


@pytest.mark.parametrize(
    ("drafts", "q", "p", "why"),
    [
        ([1], P[:2], P[:2], "1 drafts, q of (2, 3), p of (2, 3): pass a row of q for each draft"),
        ([1], P[:1], P[:1], "1 drafts, q of (1, 3), p of (1, 3)"),
        ([1], P[:1, :2], P[:2], "1 drafts, q of (1, 2), p of (2, 3)"),
        ([2], torch.tensor([[0.5, 0.5, 0.0]]), P[:2], "a draft has probability 0 in q: pass the"),
    ],
)
def test_rows_that_do_not_fit_are_refused(drafts: list[int], q: Tensor, p: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        verify(drafts, q, p)
    assert str(caught.value).startswith(why)


# -------------------------------------------------------------------------------------- the drafters


def test_lookup_goes_on_as_the_text_did() -> None:
    lookup = Lookup(10)
    assert lookup.propose([1, 2, 3, 4, 9, 1, 2, 3], 2)[0] == [4, 9]
    assert lookup.propose([1, 2, 5, 0, 1, 2, 6, 1, 2], 1)[0] == [6], "the last place counts"
    assert lookup.propose([7, 1, 2, 5, 8, 1, 2, 6, 7, 1, 2], 1)[0] == [5], "the longest match counts"
    assert lookup.propose([3, 3, 3], 4)[0] == [3], "a match may overlap"
    for text in ([1, 2, 3], [5, 1, 5], [5]):
        drafts, q = lookup.propose(text, 4)
        assert drafts == []
        assert q.shape == (0, 10)
    assert Lookup(10, shortest=1).propose([5, 1, 5], 4)[0] == [1, 5]
    drafts, q = lookup.propose([1, 2, 3, 1, 2], 3)
    assert drafts == [3, 1, 2]
    assert torch.equal(q, torch.eye(10)[drafts])


@pytest.mark.parametrize("numbers", [(0, 3, 2), (10, 1, 2), (10, 3, 0), (10, 3.0, 2)])
def test_lookup_refuses_sizes_without_a_meaning(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(
        ValueError, match=r"^Lookup\(.*\): take whole numbers of at least 1, longest not below"
    ):
        Lookup(*numbers)


def tiny(seed: int, vocabulary: int = 4) -> Packed:
    torch.manual_seed(seed)
    model = models.Transformer(models.TransformerConfig(1, 16, 24, 2, 1, vocabulary)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.4 * torch.randn_like(parameter))
    return Packed(model)


def test_a_draft_reads_what_is_new_and_forgets_what_was_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    once = Decoder.read

    def spied(self: Decoder, tokens: list[int], rows: int = 1) -> Tensor:
        read.append(len(tokens))
        return once(self, tokens, rows)

    monkeypatch.setattr(Decoder, "read", spied)
    draft, text = Draft(Decoder(tiny(0), 20)), [1, 2, 3, 0, 1]
    first, _ = draft.propose(text, 3, chances, torch.Generator().manual_seed(1))
    assert read == [5, 1, 1]
    for kept in (3, 2, 1, 0):
        longer = [*text, *first[:kept], 3]
        fresh = Draft(Decoder(tiny(0), 20)).propose(longer, 3, chances, torch.Generator().manual_seed(2))
        draft.propose([*text, *first[:2], 1], 3, chances, torch.Generator().manual_seed(1))
        del read[:]
        found = draft.propose(longer, 3, chances, torch.Generator().manual_seed(2))
        assert sum(read) < 7
        assert found[0] == fresh[0]
        torch.testing.assert_close(found[1], fresh[1])
    assert draft.propose(text, 0, chances)[1].shape == (0, 4)


def test_a_draft_that_failed_goes_on_rightly() -> None:
    draft = Draft(Decoder(tiny(0), 6))
    draft.propose([1, 2, 3], 2, chances)
    with pytest.raises(ValueError, match="do not fit into 6"):
        draft.propose([1, 0, 0, 0, 0], 4, chances)
    fresh = Draft(Decoder(tiny(0), 6)).propose([1, 2, 3, 1], 1, chances)[1]
    torch.testing.assert_close(draft.propose([1, 2, 3, 1], 1, chances)[1], fresh)


# ------------------------------------------------------------------------------------------ together


@pytest.mark.parametrize("filters", [{"temperature": 4.0}, {"temperature": 4.0, "top_k": 2}])
def test_two_networks_give_the_distribution_of_the_larger(filters: dict[str, float]) -> None:
    large, small = (Decoder(tiny(seed, 3), 8) for seed in (1, 2))
    first = chances(large.read([1, 2]), **filters)[0]
    wanted = torch.zeros(3, 3)
    for token in range(3):
        large.length = 2
        wanted[token] = first[token] * chances(large.read([token]), **filters)[0]
    generator, found, counts = torch.Generator().manual_seed(0), torch.zeros(3, 3), Counts()
    draft = Draft(small)
    for _ in range(300):
        options = filters | {"generator": generator, "counts": counts}
        found[tuple(speculate(large, draft, [1, 2], most=2, count=2, **options))] += 1
    assert 0 < counts.kept < counts.drafted
    assert p_value(found, wanted) > 1e-5


@pytest.mark.parametrize("filters", [{"top_p": 0.6}, {"min_p": 0.7}])
def test_what_a_filter_leaves_out_never_comes(filters: dict[str, float]) -> None:
    target, drafter = Decoder(tiny(1), 30), Draft(Decoder(tiny(2), 30))
    generator = torch.Generator().manual_seed(0)
    options = filters | {"temperature": 3.0, "generator": generator}
    tokens = [1, *speculate(target, drafter, [1], most=25, **options)]
    target.length = 0
    possible = chances(target.read(tokens[:-1], 25), temperature=3.0, **filters)
    assert (possible == 0).any()
    assert (possible[range(25), tokens[1:]] > 0).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "qwen3"])
def test_the_highest_scores_are_those_of_the_network_alone(name: str) -> None:
    model = network(CONFIGS[name])
    alone = Packed(model)
    target, own = Decoder(alone, 60), Draft(Decoder(alone, 60))
    other = Draft(Decoder(tiny(3, 97), 60))
    prompts = [[1, 2, 3], [5, 6, 7, 5, 6]]
    for prompt, wanted in zip(prompts, replies(model, prompts, end=3, most=24), strict=True):
        for drafter in (own, other, Lookup(97)):
            counts = Counts()
            assert [*speculate(target, drafter, prompt, most=24, end=3, counts=counts)] == wanted
            assert counts.made == counts.passes + counts.kept
            assert counts.kept == counts.drafted or drafter is not own
            assert target.length == len(prompt) + counts.made - 1


def test_a_text_ends_at_its_end_and_after_the_budget() -> None:
    packed = tiny(1)
    free = [*Decoder(packed, 30).generate([1, 2], most=12)]
    for most in range(9):
        target = Decoder(packed, max(most + 1, 2))  # the last token is not read
        drafter = Draft(Decoder(packed, max(most + 1, 2)))
        assert [*speculate(target, drafter, [1, 2], most=most, count=5)] == free[:most]
    end = free[5]
    wanted = free[: free.index(end) + 1]
    target, drafter = Decoder(packed, 30), Draft(Decoder(packed, 30))
    assert [*speculate(target, drafter, [1, 2], most=12, count=8, end=end)] == wanted
    assert [*speculate(target, drafter, [1, 2], most=12, count=0)] == free, "without drafts"


class Talkative:
    """Proposes more than it is asked for."""

    def propose(
        self, tokens: list[int], count: int, distribution: object, generator: object
    ) -> tuple[list[int], Tensor]:
        return [1] * 9, torch.eye(4)[[1] * 9]


def test_a_drafter_that_proposes_too_much_does_no_harm() -> None:
    packed = tiny(1)
    free = [*Decoder(packed, 30).generate([1, 2], most=6)]
    assert [*speculate(Decoder(packed, 30), Talkative(), [1, 2], most=6, count=2)] == free


def test_the_generator_decides() -> None:
    packed = tiny(1)
    first, second, third = (
        [
            *speculate(
                Decoder(packed, 30),
                Draft(Decoder(tiny(2), 30)),
                [1],
                most=20,
                temperature=2.0,
                generator=torch.Generator().manual_seed(seed),
            )
        ]
        for seed in (1, 1, 2)
    )
    assert first == second != third


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"prompt": []}, "the prompt is empty: pass one token at least"),
        ({"prompt": [4]}, "token 4: tokens are whole numbers from 0 to 3"),
        ({"most": -1}, "most is -1: take a whole number of at least 0"),
        ({"count": 2.0}, "count is 2.0: take a whole number"),
        ({"temperature": -1.0}, "temperature is -1.0"),
    ],
)
def test_what_cannot_go_on_is_refused(wrong: dict[str, object], why: str) -> None:
    options = {"target": Decoder(tiny(1), 10), "drafter": Lookup(4), "prompt": [1], "most": 3} | wrong
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        [*speculate(**options)]
    assert str(caught.value).startswith(why)


def test_one_decoder_for_both_is_refused() -> None:
    decoder = Decoder(tiny(1), 10)
    with pytest.raises(ValueError, match=r"^drafter and network share a decoder: make one for each of them$"):
        next(speculate(decoder, Draft(decoder), [1], most=3))
