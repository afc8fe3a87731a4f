"""Secrets become text here and nowhere else, and only for commands that contact hosts.

`!env` reads a variable, `!file` a file inside the project's folder, `!command` runs a program
without a shell. What comes back shows itself masked wherever it is printed or formatted.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from ..errors import InventoryError
from .model import Secret

MASK = "<redacted>"
MOST_BYTES = 1024 * 1024
COMMAND_SECONDS = 60.0


class Redacted(str):
    """A secret's text. Printing, formatting and repr show a mask; `reveal` is the text itself.

    Encoding gives the text: that is how it is sent. Joining and adding give Redacted again.
    """

    __slots__ = ()

    def reveal(self) -> str:
        return "".join(self)

    def __repr__(self) -> str:
        return repr(MASK)

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __add__(self, other: str) -> Redacted:
        return Redacted(str.__add__(self, other))

    def __radd__(self, other: str) -> Redacted:
        return Redacted(str.__add__(other, self))


def resolve(secret: Secret, folder: Path | str) -> Redacted:
    """The text of `secret`, without the line end that files and programs put after it.

    `folder` is the inventory's. Raises InventoryError, which never quotes what was read.
    """
    if secret.kind == "env":
        text = os.environ.get(str(secret.argument), "")
    elif secret.kind == "file":
        text = _file(secret, Path(folder))
    else:
        text = _command(secret, Path(folder))
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise _failed(secret, "is not set or empty" if secret.kind == "env" else "gives nothing")
    return Redacted(text)


def _failed(secret: Secret, what: str, hint: str | None = None) -> InventoryError:
    return InventoryError(f"the secret {_shown(secret)} {what}", where=secret.where, hint=hint)


def _shown(secret: Secret) -> str:
    argument = secret.argument if isinstance(secret.argument, str) else secret.argument[0]
    return f"!{secret.kind} {argument}"


def _file(secret: Secret, folder: Path) -> str:
    top = Path(os.path.realpath(folder))
    file = Path(os.path.realpath(top / str(secret.argument)))
    if not file.is_relative_to(top):
        raise _failed(secret, "is outside of the project's folder", "put the file inside")
    try:
        # the path has no links left; one put there since then is refused by O_NOFOLLOW
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(secret, f"can't be read: {(error.strerror or '').lower()}") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _failed(secret, "is not a file")
        with os.fdopen(handle, "rb", closefd=False) as opened:
            return _decoded(secret, opened.read(MOST_BYTES + 1))
    finally:
        os.close(handle)


def _command(secret: Secret, folder: Path) -> str:
    try:
        done = subprocess.run(
            list(secret.argument),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, ValueError) as error:
        raise _failed(secret, f"can't be run: {error}") from None
    except subprocess.TimeoutExpired:
        raise _failed(secret, f"took more than {COMMAND_SECONDS:.0f} s") from None
    if done.returncode:
        raise _failed(secret, f"ended with status {done.returncode}", "run it by hand to see why")
    return _decoded(secret, done.stdout)


def _decoded(secret: Secret, data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise _failed(secret, f"is longer than {MOST_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _failed(secret, "is not UTF-8 text") from None
    if "\0" in text:
        raise _failed(secret, "holds a zero byte")
    return text
