"""The texts of secrets, read when a command that contacts hosts needs them, and remembered for redaction."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

from ..errors import UsageError
from ..inventory.model import Secret
from ..release.plaintext import one_line
from ..release.redaction import Redactor

MAX_BYTES = 1024 * 1024
PATIENCE = 120.0  # seconds for a command; a password manager may ask the person first


class Vault:
    """Reveals each secret once; safe to be called from many threads."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._known: dict[Secret, str] = {}
        self._lock = threading.Lock()
        self._key = os.urandom(16)
        self._hiding = 0
        self._redactor = Redactor((), self._key)

    def __call__(self, secret: Secret) -> str:
        """The text of `secret`; UsageError says why it can't be had, and never what it holds."""
        with self._lock:
            if secret not in self._known:
                text = self._read(secret)
                if not text:
                    raise UsageError(f"{secret} is empty", where=secret.where)
                self._known[secret] = text
            return self._known[secret]

    def redactor(self) -> Redactor:
        """Hides everything that was revealed so far; marks stay the same within one run."""
        with self._lock:
            if self._hiding != len(self._known):
                self._hiding = len(self._known)
                self._redactor = Redactor(self._known.values(), self._key)
            return self._redactor

    def redact(self, text: str) -> str:
        return self.redactor()(text)

    def _read(self, secret: Secret) -> str:
        argument = secret.argument
        if secret.kind == "command":
            return self._run(secret, [argument] if isinstance(argument, str) else list(argument))
        assert isinstance(argument, str)
        if secret.kind == "env":
            if argument not in os.environ:
                hint = f"set it: export {argument}=…"
                raise UsageError(f"the variable {argument} is not set", where=secret.where, hint=hint)
            return os.environ[argument]
        return self._file(secret, self._folder / Path(argument).expanduser())

    def _file(self, secret: Secret, path: Path) -> str:
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise UsageError(f"{secret} can't be read: {why}", where=secret.where) from None
        return self._text(secret, data)

    def _run(self, secret: Secret, words: list[str]) -> str:
        try:
            done = subprocess.run(
                words,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = (
                f"no end after {PATIENCE:.0f} s"
                if isinstance(error, subprocess.TimeoutExpired)
                else error.strerror
            )
            raise UsageError(f"{secret} can't be run: {why}", where=secret.where) from None
        if done.returncode != 0:
            said = one_line(done.stderr.decode("utf-8", "replace"))
            raise UsageError(f"{secret} ended with {done.returncode}: {said}", where=secret.where)
        return self._text(secret, done.stdout)

    def _text(self, secret: Secret, data: bytes) -> str:
        if len(data) > MAX_BYTES:
            raise UsageError(f"{secret} is longer than {MAX_BYTES} bytes", where=secret.where)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{secret} is not UTF-8 text", where=secret.where) from None
        return text.removesuffix("\n").removesuffix("\r")
