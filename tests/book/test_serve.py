"""`make serve`: the book on this machine, or one line that says why not."""

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def serve(*arguments):
    command = [sys.executable, "-m", "tools.serve", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_taken_port_is_told_in_one_line_before_the_book_is_built():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments in ([port], ["--try", port]):
            result = serve(*arguments)
            assert result.returncode == 1
            assert result.stderr.startswith(f"port {port} cannot be used (")
            assert result.stderr.endswith("name another one, as in: make serve PORT=8001\n")
            assert result.stderr.count("\n") == 1
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nserve:")[1]
    assert recipe.index("tools.serve --try") < recipe.index("book\n")


@pytest.mark.parametrize("port", [70000, -1, "abc"])
def test_a_number_that_is_no_port_is_told(port):
    result = serve("--try", port)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr


def test_the_book_is_served(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "import sys, pathlib; from tools import serve; serve.BOOK = pathlib.Path(sys.argv.pop()); serve.main()"
    (tmp_path / "index.html").write_text("the book", encoding="utf-8")
    command = [sys.executable, "-c", code, str(port), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout.readline().startswith(b"==> http://127.0.0.1:")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as reply:
                assert reply.read() == b"the book"
        finally:
            process.kill()
