"""``python -m bigmodel_helpers.inference.listen "recordings/*.wav"``: sounds in, words out.

Introduced in chapter 16.
"""

import argparse
import sys
from typing import Any

from bigmodel_helpers.data import DIGITS, WORDS
from bigmodel_helpers.inference.speech import classify_speech, transcribe_digits


def main(arguments: list[str] | None = None) -> int:
    """Print what is said in the files named on the command line; exit 0 if all were read, 1 if some, 2 if none."""
    parser = argparse.ArgumentParser(
        prog="python -m bigmodel_helpers.inference.listen", description=main.__doc__
    )
    parser.add_argument("sounds", nargs="+", help="files, folders or patterns")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--strings", action="store_true", help="several digits in each file")
    kind.add_argument("--digits", action="store_true", help="one digit in each file")
    parser.add_argument("--top", type=int, default=3, help="words to name, not with --strings")
    options = parser.parse_args(arguments)
    try:
        if options.strings:
            table: Any = transcribe_digits(options.sounds)
            text = "\n".join(map(str, table))
        else:
            table = classify_speech(
                options.sounds, words=DIGITS if options.digits else WORDS, top=options.top
            )
            text = str(table)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        parser.error(str(error))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    problems = [one.problem for one in table]
    return 2 if all(problems) else int(any(problems))


if __name__ == "__main__":
    sys.exit(main())
