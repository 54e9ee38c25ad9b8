"""One download: whole or not at all, checked, and given up where the host is silent or far too slow."""

import hashlib
import os
import time
import urllib.request
from pathlib import Path

from tqdm import tqdm

SILENCE_S = 10  # give up on a host that sends nothing for so long
PATIENCE_S = 1200  # give up on a host that would need longer than this for the whole file


class NoPlaceError(OSError):
    """A download has no place to go to, whatever its host says."""


def fetch(
    url: str, target: Path, sha256: str, silence_s: float = SILENCE_S, patience_s: float = PATIENCE_S
) -> None:
    """Fetch `url` into `target`, whole or not at all; `sha256` may be the beginning of the hash only.

    Raises:
        NoPlaceError: the folder of `target` cannot be made or written; the host was not asked.
        OSError, http.client.HTTPException: the host cannot be reached, fails, or is too slow.
        ValueError: the file that came has another hash.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise NoPlaceError(f"{target.parent} cannot be written ({error.strerror})") from None
    try:
        digest = _fetch(url, part, silence_s, patience_s)
        if not digest.startswith(sha256):
            raise ValueError(
                f"{url} sent a file with SHA-256 {digest[:16]}..., not {sha256[:16]}...: try again"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _fetch(url: str, part: Path, silence_s: float, patience_s: float) -> str:
    """Write what `url` sends to `part` and return its SHA-256."""
    digest, received, start = hashlib.sha256(), 0, time.monotonic()
    with urllib.request.urlopen(url, timeout=silence_s) as reply, part.open("wb") as file:
        total = int(reply.headers.get("Content-Length") or 0)
        with tqdm(desc=url.rsplit("/", 1)[-1], total=total or None, unit="B", unit_scale=True) as bar:
            while chunk := reply.read1(1 << 16):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
                received += len(chunk)
                seconds = time.monotonic() - start
                if seconds > silence_s and seconds * total > patience_s * received:
                    raise TimeoutError(f"too slow, {received / seconds / 1000:.1f} kB/s")
    if received < total:
        raise ConnectionError(f"only {received:,} of {total:,} bytes came")
    return digest.hexdigest()
