"""Networks that listen: pieces as the whole, padding without effect, chunks without a view of what follows."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from spoken import generator, noise, spoken, tone

from bigmodel_helpers import data, models
from bigmodel_helpers.models import listeners

CONFIG = models.TransformerConfig(2, 16, 32, 2, 1, vocabulary=7)
FRAMES = torch.randn(1, 53, 40, generator=generator()) * 4 - 6


@pytest.fixture(scope="module")
def encoder():
    """A network whose blocks do something: they begin as the identity."""
    torch.manual_seed(0)
    network = models.SpeechEncoder(CONFIG).eval()
    for block in network.layers:
        torch.nn.init.normal_(block.self_attn.o_proj.weight, std=0.5)
        torch.nn.init.normal_(block.mlp.down_proj.weight, std=0.5)
    return network.requires_grad_(False)


def steps_changed(network, frame: int, **options) -> list[int]:
    """Return the steps whose scores change when one frame does."""
    other = FRAMES.clone()
    other[:, frame] += 5
    difference = (network(FRAMES, **options) - network(other, **options)).abs().amax((0, 2))
    return (difference > 1e-5).nonzero().flatten().tolist()


# ------------------------------------------------------------------------------------------ the encoder


@pytest.mark.parametrize("frames", [2, 3, 98])
def test_a_step_stands_for_two_frames(encoder, frames):
    assert encoder(torch.zeros(3, frames, 40)).shape == (3, frames // 2, 7)
    odd = torch.cat([FRAMES[:, :50], 9 + FRAMES[:, 50:51]], 1)
    assert torch.equal(encoder(odd), encoder(odd[:, :50]))


@pytest.mark.parametrize("chunk", [1, 3, 8, 26, 40])
@pytest.mark.parametrize("frames", [2, 16, 53])
def test_pieces_give_the_scores_of_the_whole(encoder, chunk, frames):
    sound, state, found = FRAMES[:, : frames // 2 * 2], None, []
    for piece in sound.split(2 * chunk, 1):
        scores, state = encoder.stream(piece, state)
        found.append(scores)
    assert torch.allclose(torch.cat(found, 1), encoder(FRAMES[:, :frames], chunk=chunk), atol=1e-5)
    assert len(state.cache) == frames // 2


def test_a_stream_begins_with_nothing_heard(encoder):
    state = models.Listening(models.Cache(CONFIG.layers))
    found, _ = encoder.stream(FRAMES[:, :8], state)
    assert torch.equal(found, encoder.stream(FRAMES[:, :8])[0])
    assert len(state.cache) == 0


def test_one_can_go_on_twice_from_one_place(encoder):
    _, here = encoder.stream(FRAMES[:, :8])
    first, there = encoder.stream(FRAMES[:, 8:16], here)
    second, _ = encoder.stream(FRAMES[:, 8:16], here)
    assert torch.equal(first, second)
    assert (len(here.cache), len(there.cache)) == (4, 8)


def test_zeros_stand_before_the_first_frame_in_both_convolutions(encoder):
    x = F.pad((FRAMES[:, :8].transpose(1, 2) + 6) / 4, (2, 0))
    x = F.gelu(encoder.conv2(F.pad(F.gelu(encoder.conv1(x)), (1, 0)))).transpose(1, 2)
    assert torch.allclose(encoder._convolve(FRAMES[:, :8], None), x, atol=1e-6)


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_padding_does_not_change_the_scores_of_real_steps(encoder, chunk):
    lengths = torch.tensor([26, 11, 1])
    batch = FRAMES.expand(3, -1, -1).clone()
    batch[1, 22:], batch[2, 2:] = 9, -14
    found = encoder(batch, lengths, chunk=chunk)
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(batch[row : row + 1, : 2 * length], chunk=chunk)[0]
        assert torch.allclose(found[row, :length], alone, atol=1e-5)
    assert found.isfinite().all()
    whole = torch.full((3,), 26)
    assert torch.allclose(encoder(batch, whole, chunk=chunk), encoder(batch, chunk=chunk), atol=1e-5)


@pytest.mark.parametrize("frame", [0, 7, 30, 51])
def test_without_chunks_every_step_sees_every_frame(encoder, frame):
    assert steps_changed(encoder, frame) == [*range(26)]


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("frame", [0, 13, 14, 37, 51])
def test_with_chunks_no_step_sees_what_follows_its_chunk(encoder, chunk, frame):
    first = frame // 2 // chunk * chunk  # of the chunk that the frame belongs to
    assert steps_changed(encoder, frame, chunk=chunk) == [*range(first, 26)]


def test_gradients_reach_all_parameters_after_one_step():
    torch.manual_seed(0)
    network = models.SpeechEncoder(CONFIG)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        network(FRAMES, torch.tensor([20]), chunk=3).square().sum().backward()
        optimizer.step()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_blocks_add_nothing_at_the_beginning():
    torch.manual_seed(0)
    network = models.SpeechEncoder(CONFIG)
    wanted = network(FRAMES)
    network.layers = torch.nn.ModuleList()
    assert torch.equal(network(FRAMES), wanted)


def test_streams_do_not_meet(encoder):
    wanted, _ = encoder.stream(FRAMES[:, 10:20], encoder.stream(FRAMES[:, :10])[1])
    _, one = encoder.stream(FRAMES[:, :10])
    encoder.stream(FRAMES[:, 20:30])
    assert torch.equal(encoder.stream(FRAMES[:, 10:20], one)[0], wanted)


@pytest.mark.parametrize(
    ("frames", "chunk", "message"),
    [
        (torch.zeros(4, 40), None, r"shape \(4, 40\): pass \(batch, at least 2 frames, mels\)"),
        (torch.zeros(1, 1, 40), None, "at least 2 frames"),
        (torch.zeros(1, 4, 40), 0, "a chunk of 0 steps: take 1 or more, or None"),
    ],
)
def test_what_the_encoder_refuses(encoder, frames, chunk, message):
    with pytest.raises(ValueError, match=message):
        encoder(frames, chunk=chunk)


@pytest.mark.parametrize("shape", [(2, 40), (1, 0, 40), (1, 3, 40)])
def test_what_the_stream_refuses(encoder, shape):
    with pytest.raises(ValueError, match=r"pass \(1, an even number of frames, mels\)"):
        encoder.stream(torch.zeros(shape))


# --------------------------------------------------------------------------------- the network for words


@pytest.mark.parametrize("name", ["new", "keywords"])
def test_a_word_may_stand_eight_frames_later_inside_silence(name):
    torch.manual_seed(0)
    network = models.KeywordNet(20).eval() if name == "new" else models.load_listener(name)
    silence = data.log_mel(torch.zeros(32_000))
    word = data.log_mel(noise(4000) + tone(4000))
    found = []
    for place in (64, 72, 120):
        frames = silence.clone()
        frames[place : place + len(word)] = word
        found.append(network(frames[None]).detach())
    assert torch.allclose(found[0], found[1], atol=1e-4)
    assert torch.allclose(found[0], found[2], atol=1e-4)


def test_sounds_of_any_length_have_one_row_of_scores_and_gradients_reach_all_parameters():
    network = models.KeywordNet(3, width=8, mels=20)
    for frames in (1, 50, 98):
        assert network(torch.zeros(2, frames, 20)).shape == (2, 3)
    network(torch.randn(4, 50, 20)).square().sum().backward()
    assert all(p.grad.any() for p in network.parameters())


# --------------------------------------------------------------------------------------- trained networks


@pytest.mark.parametrize("name", listeners.LISTENERS)
def test_a_card_is_of_its_weights(name):
    network, card = models.load_listener(name), models.listener_card(name)
    file = Path(listeners.__file__).parents[1] / "weights" / f"{name}.safetensors"
    assert card["name"] == name
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["architecture"] == f"bigmodel_helpers.models.speech.{type(network).__name__}"
    assert not network.training
    assert models.load_listener(name) is not network
    if name == "keywords":
        assert tuple(card["classes"]) == data.WORDS
        assert network.head.out_features == 20
    else:
        assert card["letters"] == data.LETTERS
        assert network.head.out_features == 1 + len(data.LETTERS) == card["config"]["vocabulary"]


def test_the_keywords_are_understood_as_well_as_the_card_says():
    card, test = (
        models.listener_card("keywords"),
        spoken("test").keep(lambda text, _: " " not in text),
    )
    with torch.inference_mode():
        scores = models.load_listener("keywords")(data.log_mel(data.pad_sounds(test.sounds, 16_000)))
    labels = torch.tensor([data.WORDS.index(text) for text in test.texts])
    right, digits = scores.argmax(1) == labels, labels < 10
    assert card["test_sounds"] == len(test)
    assert float(right.float().mean()) == pytest.approx(card["test_accuracy"], abs=0.005)
    right = scores[digits, :10].argmax(1) == labels[digits]
    assert float(right.float().mean()) == pytest.approx(card["test_accuracy_digits"], abs=0.005)


@pytest.mark.parametrize("call", [models.load_listener, models.listener_card])
def test_there_is_no_such_network(call):
    with pytest.raises(ValueError, match="no network 'words': choose from keywords, digit_strings"):
        call("words")


def test_a_damaged_file_is_refused(monkeypatch, tmp_path):
    for ending in ("json", "safetensors"):
        content = bytearray(listeners._file(f"keywords.{ending}").read_bytes())
        content[-1000] ^= ending == "safetensors"
        (tmp_path / f"keywords.{ending}").write_bytes(content)
    monkeypatch.setattr(listeners, "_file", tmp_path.joinpath)
    with pytest.raises(ValueError, match=r"keywords\.safetensors is not the file of its card"):
        listeners.load_listener("keywords")


@pytest.mark.parametrize(("old", "new"), [("head", "tail"), (None, "more")])
def test_weights_of_another_architecture_are_refused(monkeypatch, old, new):
    weights = dict(models.load_listener("keywords").state_dict())
    weights = {name.replace(old, new) if old else name: value for name, value in weights.items()}
    weights |= {} if old else {new: torch.zeros(1)}
    monkeypatch.setattr(listeners, "load", lambda content: weights)
    with pytest.raises(ValueError, match="does not fit its architecture: install the package again"):
        listeners.load_listener("keywords")


def test_a_network_can_be_trained_further_whoever_loaded_it():
    with torch.inference_mode():
        network = listeners.load_listener("keywords")
    network(torch.zeros(1, 98, 40)).sum().backward()
    assert network.head.weight.grad.any()
