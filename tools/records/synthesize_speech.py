"""Make the spoken words that the package ships, with two free synthesizers (Debian: espeak-ng, flite).

Run it as ``python -m tools.records.synthesize_speech --out bigmodel_helpers/recordings``. Each voice says the digits
twice, the commands once, and two strings of three to seven digits, at a pitch and a speed of its own.
"""

import argparse
import csv
import io
import random
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from bigmodel_helpers.data import COMMANDS, DIGITS

RATE = 16_000
QUALITY = 0.944  # of libsndfile's Opus: about 20 kilobits per second
ACCENTS = [
    "en-gb",
    "en-us",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-rp",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
]
VARIANTS = [
    "Alex",
    "Alicia",
    "Andrea",
    "Andy",
    "Annie",
    "Denis",
    "Diogo",
    "Gene",
    "Gene2",
    "Henrique",
    "Hugo",
    "Jacky",
    "Lee",
    "Marco",
    "Mario",
    "Michael",
    "Mike",
    "Nguyen",
    "RicishayMax",
    "RicishayMax2",
    "RicishayMax3",
    "Tweaky",
    "adam",
    "anika",
    "announcer",
    "antonio",
    "aunty",
    "belinda",
    "benjamin",
    "boris",
    "caleb",
    "david",
    "ed",
    "edward",
    "edward2",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "grandma",
    "grandpa",
    "gustave",
    "iven",
    "iven2",
    "iven3",
    "iven4",
    "john",
    "kaukovalta",
    "klatt",
    "klatt2",
    "klatt3",
    "klatt4",
    "klatt5",
    "klatt6",
    "linda",
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "marcelo",
    "max",
    "michel",
    "miguel",
    "norbert",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "robert",
    "sandro",
    "shelby",
    "steph",
    "steph2",
    "steph3",
    "travis",
    "victor",
    "zac",
]
FAMILIES = ("Gene", "RicishayMax", "edward", "iven", "klatt", "steph")  # variants of one voice stay together
FLITE = {"kal16": "train", "rms": "train", "awb": "validation", "slt": "test"}
VALIDATION, TEST = 8, 20  # voices of eSpeak NG


def espeak(voice: str, text: str, rng: random.Random) -> np.ndarray:
    """Return the samples of a text, said by eSpeak NG."""
    pitch, speed = str(rng.randint(25, 75)), str(rng.randint(125, 200))
    command = ["espeak-ng", "--stdout", "-v", voice, "-p", pitch, "-s", speed, text]
    return tidy(subprocess.run(command, capture_output=True, check=True).stdout)


def flite(voice: str, text: str, rng: random.Random) -> np.ndarray:
    """Return the samples of a text, said by Flite."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "said.wav")
        stretch = f"duration_stretch={rng.uniform(0.85, 1.25):.2f}"
        subprocess.run(["flite", "-voice", voice, "--setf", stretch, "-t", text, "-o", file], check=True)
        return tidy(file.read_bytes())


def tidy(file: bytes) -> np.ndarray:
    """Return the samples at 16 kHz, without the silence around them, the loudest one at 0.6."""
    samples, rate = soundfile.read(io.BytesIO(file))
    divisor = np.gcd(RATE, rate)
    samples = resample_poly(samples, RATE // divisor, rate // divisor)
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    power = (frames**2).mean(1)
    (loud,) = np.nonzero(power > 1e-4 * power.max())
    samples = samples[max(0, loud[0] * 160 - 480) : (loud[-1] + 1) * 160 + 800]
    return samples / np.abs(samples).max() * 0.6


def family(variant: str) -> str:
    """Return the name that variants of one voice share."""
    return next((name for name in FAMILIES if variant.startswith(name)), variant)


def parts() -> dict[str, str]:
    """Return the part of each voice; a family of variants is in one part."""
    names = sorted({family(variant) for variant in VARIANTS})
    random.Random(1).shuffle(names)
    of = {
        name: "test" if i < TEST else "validation" if i < TEST + VALIDATION else "train"
        for i, name in enumerate(names)
    }
    return {f"espeak-{variant}": of[family(variant)] for variant in VARIANTS} | {
        f"flite-{name}": part for name, part in FLITE.items()
    }


def say(voice: str) -> list[tuple[str, np.ndarray]]:
    """Return each text that a voice says, and its samples."""
    rng = random.Random(voice)
    engine, name = voice.split("-", 1)
    if engine == "espeak":
        speak, name = espeak, f"{ACCENTS[VARIANTS.index(name) % len(ACCENTS)]}+{name}"
    else:
        speak = flite
    strings = [" ".join(rng.choices(DIGITS, k=rng.randint(3, 7))) for _ in range(2)]
    return [(text, speak(name, text, rng)) for text in (*DIGITS, *DIGITS, *COMMANDS, *strings)]


def main(arguments: list[str] | None = None) -> None:
    """Write one Opus file for each voice, and the table of what is said where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--voices", type=int, help="only so many voices (a test of this script)")
    options = parser.parse_args(arguments)
    (options.out / "voices").mkdir(parents=True, exist_ok=True)
    rows = []
    for voice, part in list(parts().items())[: options.voices]:
        start, pieces = 0, []
        for text, samples in say(voice):
            rows.append((part, voice, text, start, len(samples)))
            pieces += [samples, np.zeros(800)]
            start += len(samples) + 800
        file = options.out / "voices" / f"{voice}.opus"
        soundfile.write(
            file, np.concatenate(pieces), RATE, format="OGG", subtype="OPUS", compression_level=QUALITY
        )
    with (options.out / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("part", "voice", "text", "start", "samples"))
        table.writerows(rows)


if __name__ == "__main__":
    main()
