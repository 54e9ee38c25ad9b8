"""``python -m bigmodel_helpers.inference photo.jpg "more/*.png"``: pictures in, labels out."""

import argparse

from bigmodel_helpers.inference.photos import classify
from bigmodel_helpers.models.pretrained import NAMES


def main(arguments: list[str] | None = None) -> None:
    """Print what is on the pictures named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bigmodel_helpers.inference", description=main.__doc__)
    parser.add_argument("pictures", nargs="+", help="files, folders or patterns")
    parser.add_argument("--network", default="auto", choices=("auto", *NAMES))
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args(arguments)
    try:
        print(classify(options.pictures, options.network, top=options.top))
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
