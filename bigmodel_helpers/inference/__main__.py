"""``python -m bigmodel_helpers.inference photo.jpg "more/*.png"``: pictures in, labels out."""

import argparse
import sys

from bigmodel_helpers.inference.photos import classify
from bigmodel_helpers.models.pretrained import NAMES


def main(arguments: list[str] | None = None) -> int:
    """Print what is on the pictures named on the command line; exit with 0 if all were read, 1 if some, 2 if none."""
    parser = argparse.ArgumentParser(prog="python -m bigmodel_helpers.inference", description=main.__doc__)
    parser.add_argument("pictures", nargs="+", help="files, folders or patterns")
    parser.add_argument("--network", default="auto", choices=("auto", *NAMES))
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args(arguments)
    try:
        table = classify(options.pictures, options.network, top=options.top)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # without a terminal there may be no stdout
    print(str(table).encode(encoding, "backslashreplace").decode(encoding))
    problems = [one.problem for one in table]
    return 2 if all(problems) else int(any(problems))


if __name__ == "__main__":
    sys.exit(main())
