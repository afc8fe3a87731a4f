"""A GGUF header from where a person says it is: a file, a URL, or a file on a host over SSH."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CatalogError

if TYPE_CHECKING:
    from ..catalog.gguf import Header

PATIENCE = 60.0  # seconds for one piece of a header
_SSH = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9._-]+)@)?"
    r"(?P<host>[A-Za-z0-9._][A-Za-z0-9._-]*)(?::(?P<port>\d+))?(?P<path>/.+)"
)


def is_url(ref: str) -> bool:
    return ref.startswith(("http://", "https://", "ssh://"))


def header(ref: str) -> Header:
    """The header of the GGUF at `ref`: a path, http(s)://… or ssh://[user@]host[:port]/path."""
    from ..catalog import gguf, remote

    if ref.startswith(("http://", "https://")):
        return remote.read_url(ref)
    if ref.startswith("ssh://"):
        match = _SSH.fullmatch(ref)
        if match is None:
            raise CatalogError(
                f"not a file on a host: {ref}", hint="ssh://[user@]host[:port]/path/of/the/blob"
            )
        return gguf.parse(remote.HostSource(match["host"], match["path"], _runner(match)))
    return gguf.read(Path(ref))


def _runner(match: re.Match[str]) -> Callable[[Sequence[str]], bytes]:
    """Runs words on the host through the system's own ssh, with the user's settings and known hosts."""
    options = ["-o", "BatchMode=yes"]
    options += ["-p", match["port"]] if match["port"] else []
    options += ["-l", match["user"]] if match["user"] else []

    def run(words: Sequence[str]) -> bytes:
        command = ["ssh", *options, "--", match["host"], shlex.join(words)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
            )
        except FileNotFoundError:
            raise CatalogError("ssh:// needs the OpenSSH client, which is not installed") from None
        except subprocess.TimeoutExpired:
            raise CatalogError(f"{match['host']} did not answer in {PATIENCE:.0f} s") from None
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        if done.returncode or (said and not done.stdout):
            raise CatalogError(f"{match['host']}: {said[-1] if said else 'ssh failed'}")
        return done.stdout

    return run
