"""The spoken words that come with the package, and folders of one's own."""

import csv
from collections import Counter

import pytest
import torch
from rooms import ROOT
from spoken import spoken, tone, wav

from bigmodel_helpers.data import COMMANDS, DIGITS, WORDS, SoundError, SpeechSet, load_speech, read_sound
from bigmodel_helpers.data import speech_folder as read_folder

RECORDINGS = ROOT / "bigmodel_helpers" / "recordings"
ROWS = list(csv.DictReader((RECORDINGS / "clips.csv").read_text(encoding="utf-8").splitlines()))
MADE = ("train", "validation", "test")  # parts


def test_twenty_words():
    assert WORDS == DIGITS + COMMANDS
    assert len({*WORDS}) == 20


def test_what_is_shipped_is_small_and_all_of_it_is_used():
    files = [file for file in RECORDINGS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 5_000_000
    assert {file.stem for file in (RECORDINGS / "voices").glob("*.opus")} == {row["voice"] for row in ROWS}
    assert {row["part"] for row in ROWS} == {*MADE}


def test_no_voice_is_in_two_parts():
    voices = [{*spoken(part).voices} for part in (*MADE, "person")]
    assert len(set().union(*voices)) == sum(map(len, voices))
    assert min(map(len, voices[:3])) >= 10


@pytest.mark.parametrize("part", MADE)
def test_each_voice_says_digits_twice_commands_once_and_two_strings(part):
    found = spoken(part)
    said = {voice: Counter() for voice in found.voices}
    for text, voice in zip(found.texts, found.voices, strict=True):
        assert {*text.split(" ")} <= {*WORDS}
        said[voice][text] += 1
    for texts in said.values():
        assert {text: count for text, count in texts.items() if " " not in text} == dict.fromkeys(
            DIGITS, 2
        ) | dict.fromkeys(COMMANDS, 1)
        strings = [text.split(" ") for text in texts.elements() if " " in text]
        assert len(strings) == 2
        assert all(3 <= len(words) <= 7 and {*words} <= {*DIGITS} for words in strings)
    assert f"{len(said)} synthetic voices for {part}, {len(found):,} sounds" in found.source


@pytest.mark.parametrize("part", [*MADE, "person"])
def test_sounds_are_floats_longer_than_a_frame_and_neither_faint_nor_clipped(part):
    for sound in spoken(part).sounds:
        assert sound.dtype == torch.float32
        assert sound.ndim == 1
        assert 1600 < len(sound) < 16_000 * 5
        assert 0.3 < sound.abs().max() <= 1


def test_a_person_says_the_ten_digits():
    person = spoken("person")
    assert person.texts == DIGITS
    assert {*person.voices} == {"allison"}
    assert "Allison Smith" in person.source


@pytest.mark.parametrize("part", MADE)
def test_the_table_lists_what_is_loaded(part):
    rows, sounds = [row for row in ROWS if row["part"] == part], spoken(part)
    assert [(row["text"], row["voice"], int(row["samples"])) for row in rows] == [
        (text, voice, len(sound))
        for text, voice, sound in zip(sounds.texts, sounds.voices, sounds.sounds, strict=True)
    ]


def test_clips_begin_and_end_where_the_table_says():
    """Clips are cut closely, with 800 samples of silence between them: a shift of 5 ms would be seen."""
    sounds, before, first, after = spoken("validation"), [], [], []
    for name in dict.fromkeys(sounds.voices):
        whole = read_sound(RECORDINGS / "voices" / f"{name}.opus")
        mine = [(int(row["start"]), int(row["samples"])) for row in ROWS if row["voice"] == name]
        assert len(whole) == sum(mine[-1]) + 800
        found = [s for s, voice in zip(sounds.sounds, sounds.voices, strict=True) if voice == name]
        for (start, samples), sound in zip(mine, found, strict=True):
            end = start + samples
            assert torch.equal(whole[start:end], sound)
            assert whole[end + 160 : end + 640].var() < 1e-3 * sound.var()
            after.append(whole[end : end + 80].var() / sound.var())
            first.append(sound[:80].var() / sound.var())
            before += [whole[start - 80 : start].var() / sound.var()] if start else []
    before, first, after = (torch.stack(ratios).quantile(0.9) for ratios in (before, first, after))
    assert before < 0.01
    assert after < 0.01
    assert first > 0.1


@pytest.mark.parametrize("part", ["Train", "all", ""])
def test_there_is_no_such_part(part):
    with pytest.raises(ValueError, match=f"no part '{part}': choose from train, validation, test, person"):
        load_speech(part)


def test_keep_keeps_order_and_what_belongs_together():
    whole = spoken("person")
    found = whole.keep(lambda text, voice: len(text) == 4 and voice == "allison")
    assert found.texts == ("zero", "four", "five", "nine")
    assert all(map(torch.equal, found.sounds, [whole.sounds[i] for i in (0, 4, 5, 9)]))
    assert found.voices == ("allison",) * 4
    assert found.source == whole.source
    assert len(found) == 4
    assert len(whole.keep(lambda text, voice: False)) == 0


def test_a_set_has_as_many_texts_and_voices_as_sounds():
    with pytest.raises(ValueError, match="1 sounds, 2 texts, 1 voices: pass one of each"):
        SpeechSet((tone(400),), ("one", "two"), ("a",), "made up")


# ------------------------------------------------------------------------------------ folders of one's own


@pytest.fixture
def folder(tmp_path):
    """A folder as Speech Commands has it, with what does not belong to the words."""
    sounds = {
        "yes/0a7c2a8d_nohash_0.wav": tone(1600, 400),
        "yes/0a7c2a8d_nohash_1.WAV": tone(1500, 500),
        "no/b_1.wav": tone(1400, 600),
        "no/ann.wav": tone(1300, 700),
        "_background_noise_/white.wav": tone(1200),
        ".hidden/x_1.wav": tone(1200),
        "yes/._0a7c2a8d_nohash_0.wav": None,
        "yes/notes.txt": None,
        "alone.wav": tone(1200),
    }
    for name, sound in sounds.items():
        file = tmp_path / "mine" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"nothing" if sound is None else wav(sound))
    return tmp_path / "mine"


def test_a_folder_with_a_folder_for_each_word(folder):
    for found in (read_folder(folder), read_folder(str(folder))):
        assert found.texts == ("no", "no", "yes", "yes")
        assert found.voices == ("ann", "b", "0a7c2a8d", "0a7c2a8d")
        assert [*map(len, found.sounds)] == [1300, 1400, 1600, 1500]
        assert torch.allclose(found.sounds[0], tone(1300, 700), atol=1e-4)
        assert found.source == "4 sounds of the folder mine"


def test_a_folder_at_another_rate(folder):
    assert [*map(len, read_folder(folder, rate=8000).sounds)] == [650, 700, 800, 750]


def test_a_damaged_sound_is_named(folder):
    (folder / "no" / "c_1.wav").write_bytes(b"RIFF")
    with pytest.raises(SoundError, match=r"c_1\.wav"):
        read_folder(folder)


def test_folders_without_sounds(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere' is no folder"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "a.wav").write_bytes(wav(tone(800)))
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_folder(tmp_path / "a.wav")
    for name in ("", "a\nb"):
        with pytest.raises(FileNotFoundError, match=r"^'[^\n]*' is no folder[^\n]*$"):
            read_folder(name)
    (tmp_path / "_background_noise_").mkdir()
    with pytest.raises(ValueError, match="has no folders with sounds"):
        read_folder(tmp_path)
