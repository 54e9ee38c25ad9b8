"""Sounds in, words out: whatever is given has one row, and what cannot be used a line that says why."""

import io
import sys

import pytest
import torch
from spoken import generator, spoken, wav
from torch import nn

from bigmodel_helpers import evaluation, models
from bigmodel_helpers.data import DIGITS, LETTERS, WORDS, steps_of
from bigmodel_helpers.inference import Utterance, classify_speech, listen, speech, transcribe_digits

RATE = 16_000
NINE, ONE = (spoken("person").sounds[digit] for digit in (9, 1))
PERSON = [(sound, RATE) for sound in spoken("person").sounds]
NOISE = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(5))
SILENCE = torch.zeros(RATE)


@pytest.fixture
def folder(tmp_path):
    """Two words, a broken file, an empty one, and one that is hidden."""
    files = {
        "a_nine.wav": wav(NINE),
        "b_broken.wav": wav(NINE)[:1000],
        "c_one.wav": wav(ONE),
        "d_empty.wav": b"",
        ".hidden.wav": wav(NINE),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def first(table) -> list[str | None]:
    return [one.labels[0] if one.labels else None for one in table]


# ---------------------------------------------------------------------------------------- single words


def test_digits_of_a_person_are_understood():
    table = classify_speech(PERSON, words=DIGITS)
    assert sum(map(str.__eq__, first(table), DIGITS)) >= 8
    assert [one.name for one in table] == [f"sound {i}" for i in range(10)]
    assert all(one.problem is None for one in table)
    assert "synthetic voices" in str(table)
    assert "0.2 M parameters" in table.source


@pytest.mark.parametrize(
    "source",
    [
        wav(NINE),
        bytearray(wav(NINE)),
        memoryview(wav(NINE)),
        (NINE, RATE),
        (NINE.numpy(), RATE),
        (NINE.repeat_interleave(2), 2 * RATE),
        (torch.stack([NINE, NINE], 1), RATE),
    ],
    ids=["bytes", "bytearray", "memoryview", "tensor", "array", "rate", "stereo"],
)
def test_any_kind_of_source_alone_and_in_a_list(source):
    assert first(classify_speech(source)) == ["nine"]
    assert first(classify_speech([source, (ONE, RATE)])) == ["nine", "one"]


def test_files_patterns_and_folders(folder):
    for source in (folder / "a_nine.wav", str(folder / "a_nine.wav"), str(folder / "a*.wav")):
        (one,) = classify_speech(source)
        assert (one.labels[0], one.name) == ("nine", str(folder / "a_nine.wav"))
    with (folder / "c_one.wav").open("rb") as file:
        (one,) = classify_speech(file)
        assert (one.labels[0], one.name) == ("one", str(folder / "c_one.wav"))
        assert not file.closed
    assert first(classify_speech(io.BytesIO(wav(NINE)))) == ["nine"]
    table = classify_speech([str(folder / "[ac]*.wav"), folder / "a_nine.wav", (ONE, RATE)])
    assert first(table) == ["nine", "one", "nine", "one"]
    assert table[3].name == "sound 3"


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_what_is_broken_ends_nothing_and_keeps_its_place(folder, batch_size):
    table = classify_speech(folder, batch_size=batch_size)
    assert first(table) == ["nine", None, "one", None]
    assert "b_broken.wav" in table[1].problem
    assert "d_empty.wav: an empty file: get it again" in table[3].problem
    assert all("\n" not in one.problem for one in table if one.problem)
    assert [row["problem"] is None for row in table.rows()] == [True, False, True, False]


def test_a_batch_is_each_of_its_sounds():
    together = classify_speech(PERSON, top=20)
    for one, sound in zip(together, PERSON, strict=True):
        (alone,) = classify_speech(sound, top=20)
        assert dict(zip(one.labels, one.probabilities, strict=True)) == pytest.approx(
            dict(zip(alone.labels, alone.probabilities, strict=True)), abs=1e-5
        )


@pytest.mark.parametrize("gain", [0.0, 9e-5])
def test_in_silence_nothing_is_heard(gain):
    table = classify_speech([(SILENCE + gain, RATE), (NINE, RATE)])
    assert table[0].problem == "sound 0: nothing is heard in it: record it again, nearer to the microphone"
    assert first(table) == [None, "nine"]


def test_a_faint_word_is_heard():
    assert classify_speech((NINE / NINE.abs().max() * 1.1e-4, RATE))[0].problem is None


@pytest.mark.parametrize("samples", [1, 399, 799, 800, 1600])
def test_what_is_shorter_than_50_milliseconds_is_no_word(samples):
    (one,) = classify_speech((NOISE[:samples], RATE))
    assert len(one.labels) == (3 if samples >= 800 else 0)
    assert one.problem is None or "shorter than 50 ms" in one.problem or "nothing is heard" in one.problem


@pytest.mark.parametrize("offset", [0.001, 0.5, -1.0])
def test_a_constant_is_no_sound(offset):
    (one,) = classify_speech((torch.full((RATE,), offset), RATE))
    assert "nothing is heard in it" in one.problem


def test_who_trains_a_listener_does_not_change_the_answers():
    before = str(classify_speech((NINE, RATE)))
    network = models.load_listener("keywords").train()
    network(torch.randn(8, 98, 40))
    with torch.no_grad():
        network.head.bias[0] += 100
    assert str(classify_speech((NINE, RATE))) == before


@pytest.mark.parametrize("place", [0, 17.3, 39.4])
def test_a_word_is_found_anywhere_in_40_seconds(place):
    sound = 0.001 * torch.randn(40 * RATE, generator=generator())
    start = min(round(place * RATE), len(sound) - len(NINE))
    sound[start : start + len(NINE)] += NINE
    assert first(classify_speech((sound, RATE))) == ["nine"]


def test_batches_are_as_large_as_they_may_be():
    assert [*speech._batches(iter("abcde"), 2)] == [["a", "b"], ["c", "d"], ["e"]]


def test_the_loudest_second_is_the_one_with_the_most_power():
    for seed in range(20):
        sound = torch.rand(17_000 + 100 * seed, generator=generator(seed)) ** 4
        power = sound.double().square().unfold(0, RATE, 1).sum(1)
        found = speech._loudest_second(sound)
        assert len(found) == RATE
        assert float(found.double().square().sum()) == pytest.approx(float(power.max()))
    assert speech._loudest_second(NINE) is NINE


def test_only_the_wanted_words_are_answered():
    (one,) = classify_speech((NINE, RATE), words=("no", "on", "no"), top=5)
    assert sorted(one.labels) == ["no", "on"]
    assert sum(one.probabilities) == pytest.approx(1, abs=1e-5)
    whole, few = (
        dict(zip(one.labels, one.probabilities, strict=True))
        for words in (WORDS, DIGITS)
        for one in classify_speech((NINE, RATE), words=iter(words), top=20)
    )
    digits = sum(whole[word] for word in DIGITS)
    assert few == pytest.approx({word: whole[word] / digits for word in DIGITS}, abs=1e-5)


@pytest.mark.parametrize("top", [1, 3, 25])
def test_top_words_the_likeliest_first(top):
    (one,) = classify_speech((NINE, RATE), top=top)
    assert len(one.labels) == len(one.probabilities) == len({*one.labels}) == min(top, 20)
    assert [*one.probabilities] == sorted(one.probabilities, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top and batch_size must be at least 1, not 0 and 32"),
        ({"batch_size": -1}, "not 3 and -1"),
        ({"words": ["one", "eleven"]}, r"words \['eleven'\]: choose from zero, one"),
        ({"words": []}, r"words \[\]: choose from"),
        ({"words": "one"}, r"words \['o', 'n', 'e'\]: choose from"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        classify_speech((NINE, RATE), **options)


@pytest.mark.parametrize("hear", [classify_speech, transcribe_digits])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "a NoneType is no sound"),
        (7, "a int is no sound"),
        ({"a": (NINE, RATE)}, "a dict is no sound"),
        ([3.5], "a float is no sound"),
        (NINE, r"pass \(samples, rate\)"),
        ((RATE, NINE), r"pass \(samples, rate\)"),
    ],
)
def test_what_is_no_sound(hear, source, message, listener):
    with pytest.raises(TypeError, match=message):
        hear(source)


def test_patterns_and_folders_without_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file fits the pattern"):
        classify_speech(str(tmp_path / "*.wav"))
    table = classify_speech([tmp_path, tmp_path / "*.wav", tmp_path / "none.wav", "http://a.b/c.wav"])
    for one, problem in zip(
        table,
        ["an empty folder: put sounds in it", "no file fits", "no such file", "a URL: download it first"],
        strict=True,
    ):
        assert problem in one.problem
    assert classify_speech([]) == []


def test_the_table_names_sounds_and_not_pictures():
    page = classify_speech((NINE, RATE))._repr_html_()
    assert "<th>sound</th>" in page
    assert "picture" not in page


# ---------------------------------------------------------------------------------- strings of digits


class Spells(nn.Module):
    """Stands for the network: hears a text in every sound, and notes how long the sounds were."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.steps = text, []

    def forward(self, frames):
        steps = frames.shape[1] // 2
        self.steps.append(steps)
        path = [sign for letter in self.text for sign in (1 + LETTERS.index(letter), 0)]
        path = (path + [0] * steps)[:steps]
        return 20 * torch.eye(1 + len(LETTERS))[path][None]


@pytest.fixture
def listener(monkeypatch):
    """A network for strings that hears "nine one"; the one for words is as it was."""
    network, load = Spells("nine one"), models.load_listener
    monkeypatch.setattr(speech, "_network", lambda name: network if name == "digit_strings" else load(name))
    return network


def test_strings_have_an_utterance_for_each_sound(listener, folder):
    found = transcribe_digits([folder, (NINE, RATE), (SILENCE, RATE), (torch.tile(NOISE, (31,)), RATE)])
    assert [one.text for one in found] == ["nine one", "", "nine one", "", "nine one", "", ""]
    problems = ["b_broken.wav", "an empty file", "sound 5: nothing is heard", "31.0 seconds are more than 30"]
    assert all(map(str.__contains__, [one.problem for one in found if one.problem], problems))
    assert str(found[4]) == "sound 4  nine one"
    assert str(found[5]) == found[5].problem
    assert listener.steps[-1] == steps_of(-(-len(NINE) // 1600) * 1600)


def test_an_utterance_is_one_line():
    assert str(Utterance("a\nb.wav", "one two")) == r"a\nb.wav  one two"
    assert str(Utterance("a.wav", problem="a.wav: empty")) == "a.wav: empty"


@pytest.mark.parametrize("samples", [800, 1600, 30 * RATE])
def test_the_shortest_and_the_longest_string(listener, samples):
    (one,) = transcribe_digits((torch.tile(NOISE, (30,))[:samples], RATE))
    assert one.problem is None


def test_only_digits_are_written_down(listener):
    listener.text = "fove xx"
    (one,) = transcribe_digits((NINE, RATE))
    assert {*one.text.split(" ")} <= {*DIGITS, ""}


def test_the_network_of_the_package_writes_down_strings():
    strings = spoken("test").keep(lambda text, _: " " in text)
    found = transcribe_digits([(sound, RATE) for sound in strings.sounds[:20]])
    assert evaluation.error_rate([one.text for one in found], strings.texts[:20]).value < 0.25


# ------------------------------------------------------------------------------- on the command line


@pytest.mark.parametrize(
    ("names", "code", "rows"),
    [
        (["a_nine.wav"], 0, ["nine"]),
        (["a_nine.wav", "c_*.wav"], 0, ["nine", "one"]),
        ([""], 1, ["nine", "b_broken.wav: ", "one", "d_empty.wav: "]),
        (["b_broken.wav", "none.wav"], 2, ["b_broken.wav: ", "none.wav: no such file"]),
    ],
)
def test_exit_codes_and_rows_of_words(folder, capsys, names, code, rows):
    assert listen.main([str(folder / name) for name in names]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("keywords, 0.2 M parameters")
    assert len(lines) == 1 + len(rows)
    assert all(map(str.__contains__, lines[1:], rows))


def test_options_of_the_command_line(folder, capsys, listener):
    file = str(folder / "a_nine.wav")
    assert listen.main([file, "--top", "20", "--digits"]) == 0
    assert capsys.readouterr().out.count("%") == 10
    assert listen.main([file, "--top", "1"]) == 0
    assert capsys.readouterr().out.count("%") == 1
    assert listen.main([file, str(folder / "b_broken.wav"), "--strings"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}  nine one"
    assert "b_broken.wav: " in lines[1]


@pytest.mark.parametrize("arguments", [[], ["a.wav", "--top", "0"], ["a.wav", "--top", "x"]])
def test_what_the_command_line_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        listen.main(arguments)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--strings"]])
def test_a_pattern_without_files(tmp_path, capsys, listener, options):
    assert listen.main([str(tmp_path / "*.wav"), *options]) == 2
    assert "no file fits the pattern" in capsys.readouterr().out


def test_names_that_the_terminal_cannot_print(folder, monkeypatch):
    strange = folder / "é☃.wav"
    strange.write_bytes(wav(NINE))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert listen.main([str(strange)]) == 0
    out.flush()
    assert rb"\xe9\u2603.wav  nine" in out.buffer.getvalue()
