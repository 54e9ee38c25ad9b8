"""Show the built book at http://127.0.0.1:PORT: `python -m tools.serve PORT`; with `--try`, only try the port."""

import argparse
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BOOK = Path(__file__).parents[1] / "_build" / "html"


def main() -> None:
    """Serve the book until Ctrl-C, or end with one line that says why not."""
    parser = argparse.ArgumentParser(prog="python -m tools.serve", description=__doc__)
    parser.add_argument("port", type=int, help="1024 to 65535")
    parser.add_argument("--try", dest="only_try", action="store_true")
    options = parser.parse_args()
    handler = partial(SimpleHTTPRequestHandler, directory=str(BOOK))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", options.port), handler)
    except (OSError, OverflowError) as error:
        sys.exit(
            f"port {options.port} cannot be used ({error}): name another one, as in: make serve PORT=8001"
        )
    with server:
        if options.only_try:
            return
        print(f"==> http://127.0.0.1:{options.port} (stop with Ctrl-C)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
