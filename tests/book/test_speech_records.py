"""The programs that made the spoken words and trained the networks for speech: what they would make again."""

import csv
import hashlib
import json
import subprocess
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rooms import ROOT
from safetensors.torch import load_file
from spoken import made_up, spoken, tone, wav

from bigmodel_helpers import data, models
from tools.records import synthesize_speech, train_speech

ROWS = list(
    csv.DictReader((ROOT / "bigmodel_helpers/recordings/clips.csv").read_text(encoding="utf-8").splitlines())
)
SOUND = torch.cat([torch.zeros(3000), tone(2000, 440), torch.zeros(5000)])


# ---------------------------------------------------------------------------------------------- making


def test_each_voice_of_the_package_is_in_the_part_that_the_program_gives_it():
    parts = synthesize_speech.parts()
    assert {row["voice"]: row["part"] for row in ROWS} == parts
    assert parts == synthesize_speech.parts()


def test_no_family_of_voices_is_in_two_parts():
    found, families = defaultdict(set), set()
    for voice, part in synthesize_speech.parts().items():
        engine, name = voice.split("-", 1)
        if engine == "espeak":
            found[name.rstrip("0123456789") if len(name) > 2 else name].add(part)
            families.add((synthesize_speech.family(name), part))
    assert all(len(parts) == 1 for parts in found.values())
    of = [part for _, part in families]
    assert (of.count("test"), of.count("validation")) == (20, 8)
    assert len({name for name, _ in families}) == len(families)


def test_the_texts_of_the_package_are_those_that_its_voices_say(monkeypatch):
    for engine in ("espeak", "flite"):
        monkeypatch.setattr(synthesize_speech, engine, lambda voice, text, rng: voice)
    texts, names = defaultdict(list), {}
    for row in ROWS:
        texts[row["voice"]].append(row["text"])
    for voice, said in texts.items():
        found = synthesize_speech.say(voice)
        assert [text for text, _ in found] == said
        names[voice] = {name for _, name in found}
    assert names["flite-slt"] == {"slt"}
    assert names["espeak-Alicia"] == {"en-us+Alicia"}


class Synthesizers:
    """Stand for both programs: say a tone, and note what they were asked for."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def run(self, command, *, check, capture_output=False):
        assert check
        self.commands.append(command)
        if command[0] == "flite":
            Path(command[command.index("-o") + 1]).write_bytes(wav(SOUND[::2], 8000))
            return None
        assert capture_output
        return subprocess.CompletedProcess(command, 0, stdout=wav(SOUND))


def plain(commands):
    """Leave out the temporary files."""
    return [[part for part in command if not isinstance(part, Path)] for command in commands]


@pytest.fixture
def synthesizers(monkeypatch):
    found = Synthesizers()
    monkeypatch.setattr(synthesize_speech.subprocess, "run", found.run)
    return found


@pytest.mark.parametrize("voice", ["espeak-Alex", "flite-awb"])
def test_a_voice_says_each_text_in_its_own_way_and_the_same_again(synthesizers, voice):
    said = synthesize_speech.say(voice)
    first = plain(synthesizers.commands)
    synthesize_speech.say(voice)
    again = plain(synthesizers.commands[32:])
    assert first == again
    assert len(said) == 32
    assert all(text in command for (text, _), command in zip(said, first, strict=True))
    assert len({tuple(command) for command in first}) == 32  # no text is said twice alike


def test_sounds_are_cut_to_what_is_heard_and_made_equally_loud(synthesizers):
    for voice in ("espeak-Alex", "flite-awb"):
        for _, samples in synthesize_speech.say(voice)[::9]:
            assert np.abs(samples).max() == pytest.approx(0.6)
            loud = np.flatnonzero(np.abs(samples) > 0.05)
            assert 480 <= loud[0] < 480 + 480
            assert 800 <= len(samples) - loud[-1] < 800 + 480


def test_the_program_writes_voices_and_a_table_that_are_read_again(synthesizers, tmp_path, monkeypatch):
    synthesize_speech.main(["--out", str(tmp_path / "recordings"), "--voices", "2"])
    monkeypatch.setattr(data.speech.resources, "files", lambda package: tmp_path)
    found = data.load_speech("train")
    wanted = synthesize_speech.parts()
    assert [*dict.fromkeys(found.voices)] == [*wanted][:2] == ["espeak-Alex", "espeak-Alicia"]
    assert len(found) == 64
    for sound, (_, said) in zip(found.sounds, synthesize_speech.say("espeak-Alex"), strict=False):
        assert len(sound) == len(said)
        assert np.corrcoef(sound, said)[0, 1] > 0.98
    assert {file.name for file in (tmp_path / "recordings").iterdir()} == {"voices", "clips.csv"}
    info = soundfile.info(tmp_path / "recordings" / "voices" / "espeak-Alex.opus")
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "OPUS")


# -------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", ["keywords", "digit_strings"])
def test_training_writes_weights_and_a_card_that_the_package_reads(name, tmp_path, monkeypatch):
    asked, small = [], made_up(data.WORDS, voices=4)

    def load(part):
        asked.append(part)
        return small.keep(lambda text, voice: (voice in ("voice 0", "voice 1")) == (part == "test"))

    monkeypatch.setattr(train_speech.data, "load_speech", load)
    monkeypatch.setitem(train_speech.SIZES, "width", 16)
    monkeypatch.setitem(train_speech.SIZES, "hidden", 32)
    if name == "keywords":
        batches = data.keyword_batches
        monkeypatch.setattr(
            train_speech.data, "keyword_batches", lambda *a, **options: batches(*a, batch_size=8, **options)
        )
    cards = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        train_speech.main([name, "--steps", "2", "--seed", "3", "--out", str(folder)])
        cards.append(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    assert asked == ["train", "test"] * 2
    for card in cards:
        assert card.pop("train_seconds") >= 0
        assert card.pop("train_cpu_seconds") >= 0
    assert cards[0] == cards[1]  # the weights, too: their hash is in it
    card, file = cards[0], tmp_path / "one" / f"{name}.safetensors"
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["seed"] == 3
    assert card["recipe"].endswith(f"{name}, 2 steps")
    assert card["changes"]["speed"] == data.SoundChanges().speed
    assert card.get("test_sounds", 40) == 40
    assert card.get("test_strings", 4) == 4
    assert 0 <= card.get("test_accuracy", 0) <= 1
    assert card.get("test_word_error_rate", 0) >= 0
    monkeypatch.setattr(models.listeners, "_file", (tmp_path / "one").joinpath)
    network = models.listeners.load_listener(name)
    assert sum(p.numel() for p in network.parameters()) == card["parameters"]
    assert all(
        torch.equal(network.state_dict()[key], value.float()) for key, value in load_file(file).items()
    )


def test_cards_of_the_package_are_of_this_program():
    for name in ("keywords", "digit_strings"):
        card = models.listener_card(name)
        assert card["recipe"] == f"tools/records/train_speech.py {name}, {train_speech.STEPS[name]} steps"
        assert card["changes"] == vars(train_speech.CHANGES)
        assert card["limits"] == train_speech.LIMITS
        strings = spoken("test").keep(lambda text, _: " " in text)
        assert card.get("test_strings", len(strings)) == len(strings)
        assert card.get("config", train_speech.SIZES) == train_speech.SIZES


def test_the_strings_are_understood_as_well_as_the_card_says():
    card, network = models.listener_card("digit_strings"), models.load_listener("digit_strings")
    strings = spoken("test").keep(lambda text, _: " " in text)
    with torch.inference_mode():
        scores = [network(data.log_mel(sound)[None])[0] for sound in strings.sounds]
    heard = [train_speech.inference.ctc_beam(one, data.LETTERS, words=data.DIGITS, width=8) for one in scores]
    found = train_speech.evaluation.error_rate(heard, strings.texts, voices=strings.voices)
    assert found.value == pytest.approx(card["test_word_error_rate"], abs=0.01)
    assert card["test_interval"][0] <= found.value <= card["test_interval"][1]
