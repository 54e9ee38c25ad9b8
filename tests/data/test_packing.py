"""Documents as one stream, and batches that show each window of it once an epoch."""

import pytest
import torch
from torch import nn

from bigmodel_helpers.data import Packed, PackedBatches, pack
from bigmodel_helpers.data.documents import Documents
from bigmodel_helpers.training import fit


def letters(*texts: str) -> Documents:
    return Documents(texts, tuple(f"{index}.txt" for index in range(len(texts))))


def stream(tokens: int = 203, *starts: int) -> Packed:
    """A stream whose tokens are their places."""
    starts = torch.tensor([0, *starts])
    return Packed(torch.arange(tokens, dtype=torch.int32), starts, torch.ones_like(starts))


# ------------------------------------------------------------------------------------- packing


def test_documents_follow_each_other_each_behind_the_token_that_parts_them():
    packed = pack(letters("ab", "", "é中"), str.encode, 256)
    assert isinstance(packed, Packed)
    assert packed.tokens.dtype == torch.int32
    assert packed.starts.dtype == packed.sizes.dtype == torch.int64
    assert packed.tokens.tolist() == [256, *b"ab", 256, 256, *"é中".encode()]
    assert packed.starts.tolist() == [0, 3, 4]
    assert packed.sizes.tolist() == [2, 0, 5]


def test_a_tokenizer_packs():
    from bigmodel_helpers.data import tokens

    texts = ["low lower lowest", "<|end|> is text here"]
    tokenizer = tokens.train_bpe(texts, 270, ["<|end|>"])
    packed = pack(letters(*texts), lambda one: tokenizer.encode(one).ids, tokenizer.token_to_id("<|end|>"))
    bounds = [*packed.starts.tolist(), len(packed.tokens)]
    for text, start, stop in zip(texts, bounds[:-1], bounds[1:], strict=True):
        assert packed.tokens[start] == 0
        assert tokenizer.decode(packed.tokens[start + 1 : stop].tolist()) == text


REFUSED = {
    "1.txt has end=98 among its ids": (str.encode, 98),
    "0.txt has the id -97: ids are at least 0": (lambda one: [-ord(sign) for sign in one], 256),
    "0.txt: encode gives no list of ids .*: mend it": (lambda one: one, 256),
    "0.txt: encode gives no list of ids (.*NoneType.*): mend it": (lambda one: None, 256),
    "0.txt: encode gives no list of ids .*float": (lambda one: [1.0], 256),
    "0.txt: encode gives no list of ids .*: mend": (lambda one: [2**31], 256),
    "end=None is no id of a token": (str.encode, None),
    "end=-1 is no id of a token": (str.encode, -1),
    "end=2147483648 is no id of a token": (str.encode, 2**31),
    "end=1.0 is no id of a token": (str.encode, 1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_ids_that_cannot_be_are_refused(message):
    encode, end = REFUSED[message]
    with pytest.raises(ValueError, match=message) as caught:
        pack(letters("a", "b"), encode, end)
    assert "\n" not in str(caught.value)


def test_no_documents_and_half_characters_are_refused():
    for nothing in (letters(), [], ["text"], "text", None):
        with pytest.raises(ValueError, match=r"no Documents with a text: get some with documents\.folder"):
            pack(nothing, str.encode, 256)
    with pytest.raises(ValueError, match=r"0\.txt: encode gives no list of ids .*surrogates.*: mend"):
        pack(letters("\ud800"), lambda one: [1], 256)


# ------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("tokens", [161, 162, 167, 168, 190, 203])
def test_an_epoch_shows_disjoint_windows_once_with_their_targets_and_documents(tokens):
    packed = stream(tokens, 5, 6, 50, 100)
    batches = PackedBatches(packed, 8, 5, seed=3)
    assert len(batches) == (tokens - 1) // 40
    seen, offsets = [], set()
    for _ in range(200):
        found = list(batches)
        assert len(found) == len(batches)
        for x, y, documents in found:
            assert x.shape == y.shape == documents.shape == (5, 8)
            assert x.dtype == y.dtype == documents.dtype == torch.int64
            assert torch.equal(y, x + 1)
            assert torch.equal(x, x[:, :1] + torch.arange(8))
            assert torch.equal(documents, (x[..., None] >= packed.starts).sum(-1) - 1)
        places = torch.cat([x[:, 0] for x, _, _ in found])
        assert len(places.unique()) == len(places) == 5 * len(batches)
        assert len((places % 8).unique()) == 1  # a cut of the stream: windows never overlap
        offsets.add(int(places[0]) % 8)
        seen += [x for x, _, _ in found]
    assert offsets == {*range(min(8, tokens - 40 * len(batches)))}
    shown = torch.cat(seen).unique()
    assert shown.tolist() == [*range(tokens - 1)]  # every token is an input in some epoch


def test_order_depends_on_seed_and_epoch_only():
    def shown(batches):
        return [batch[0].tolist() for batch in batches]

    batches = PackedBatches(stream(), 8, 5, seed=1)
    first, second = shown(batches), shown(batches)
    assert first != second
    torch.manual_seed(5)
    again = PackedBatches(stream(), 8, 5, seed=1)
    again.set_epoch(1)
    assert shown(again) == second
    assert shown(PackedBatches(stream(), 8, 5, seed=2)) != first
    places = torch.tensor(first).flatten(0, 1)[:, 0]
    assert not torch.equal(places, places.sort().values)
    with pytest.raises(ValueError, match="epoch -1 does not exist"):
        batches.set_epoch(-1)


def test_without_boundaries_a_batch_is_what_fit_takes():
    with_them, without = (PackedBatches(stream(), 8, 5, boundaries=on) for on in (True, False))
    for (x, y, _), pair in zip(with_them, without, strict=True):
        assert len(pair) == 2
        assert torch.equal(pair[0], x)
        assert torch.equal(pair[1], y)


@pytest.mark.parametrize("taken", range(6))
def test_batches_go_on_from_any_place(taken):
    whole = [x.tolist() for x, _, _ in PackedBatches(stream(), 8, 5, seed=1)]
    batches = PackedBatches(stream(), 8, 5, seed=1)
    for _, _ in zip(range(taken), batches, strict=False):
        pass
    resumed = PackedBatches(stream(), 8, 5, seed=1)
    resumed.load_state_dict(batches.state_dict())
    assert [x.tolist() for x, _, _ in resumed] == whole[taken:]
    assert resumed.state_dict()["epoch"] == 1
    assert len(list(resumed)) == len(resumed) == len(whole)


def test_a_place_in_another_order_is_refused():
    options = {"length": 8, "batch_size": 5, "seed": 1, "rank": 0, "ranks": 2}
    state = PackedBatches(stream(), **options).state_dict()
    for name, value in {"length": 7, "batch_size": 4, "seed": 2, "rank": 1, "ranks": 1}.items():
        with pytest.raises(ValueError, match=f"the saved batches have {name}={options[name]}, these {value}"):
            PackedBatches(stream(), **(options | {name: value})).load_state_dict(state)
    with pytest.raises(ValueError, match="the saved batches have tokens=203, these 204"):
        PackedBatches(stream(204), **options).load_state_dict(state)


@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 5), (3, 2), (4, 6), (25, 1)])
def test_ranks_share_the_windows_of_an_epoch(ranks, batch_size):
    alone = PackedBatches(stream(), 8, batch_size * ranks, seed=4)
    shared = [PackedBatches(stream(), 8, batch_size, seed=4, rank=rank, ranks=ranks) for rank in range(ranks)]
    for _ in range(3):
        together = [torch.cat([x for x, _, _ in batch]) for batch in zip(*shared, strict=True)]
        whole = [x for x, _, _ in alone]
        assert [part.tolist() for part in together] == [part.tolist() for part in whole]
        places = torch.cat(together)[:, 0]
        assert len(places.unique()) == len(places) == len(alone) * ranks * batch_size


def test_ranks_show_all_that_one_process_shows():
    alone = PackedBatches(stream(193), 8, 3, seed=4)  # 24 windows
    shared = [PackedBatches(stream(193), 8, 3, seed=4, rank=rank, ranks=4) for rank in range(4)]
    windows = [row for batches in shared for x, _, _ in batches for row in x.tolist()]
    assert sorted(windows) == sorted(row for x, _, _ in alone for row in x.tolist())
    assert len(windows) == 24


def test_a_stream_that_is_too_short_is_refused_with_numbers():
    assert len(PackedBatches(stream(81), 8, 5, ranks=2)) == 1
    message = r"^80 tokens are too few, a batch of 5 windows of 8 tokens on 2 ranks needs 81: add text or use [^\n]*$"
    with pytest.raises(ValueError, match=message):
        PackedBatches(stream(80), 8, 5, ranks=2)


@pytest.mark.parametrize("name", ["length", "batch_size", "ranks"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "2", None])
def test_numbers_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r} must be a whole number of at least 1"):
        PackedBatches(stream(), **({"length": 8, "batch_size": 5} | {name: value}))


def test_other_ranks_and_streams_are_refused():
    for rank in (-1, 2, 0.5, None):
        with pytest.raises(ValueError, match=f"rank={rank} must be one of 2 ranks, counted from 0"):
            PackedBatches(stream(), 8, 5, rank=rank, ranks=2)
    with pytest.raises(TypeError, match="a Tensor is no Packed: make one with pack"):
        PackedBatches(torch.arange(99), 8, 5)


# ------------------------------------------------------------------------------------- training


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(203, 4), nn.Linear(4, 203)
        self.seen = []

    def forward(self, tokens):
        self.seen.append(tokens.tolist())
        return self.head(self.embedding(tokens))


@pytest.mark.parametrize("stop_at", [1, 3, 5, 7, 10, 13])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_was_killed_shows_the_same_batches(tmp_path, stop_at, accumulate):
    """Five batches an epoch: the run ends in the middle of one, and at its end."""

    def run(folder, stop_at=None):
        class Stop:
            def after_step(self, run):
                if run.step - 1 == stop_at:
                    raise KeyError("killed")

        model, batches = Tiny(), PackedBatches(stream(), 8, 5, seed=1, boundaries=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        options = {"every": 1, "accumulate": accumulate, "unit": "tokens", "checkpoints": folder}
        fit(model, batches, optimizer, steps=15, callbacks=[Stop()], progress=False, **options)
        return model

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyError, match="killed"):
        run(tmp_path / "broken", stop_at)
    resumed = run(tmp_path / "broken")
    assert resumed.seen == whole.seen[stop_at * accumulate :]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
