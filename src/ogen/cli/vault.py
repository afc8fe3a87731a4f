"""The texts of secrets, read when a command that contacts hosts needs them, and remembered for redaction."""

from __future__ import annotations

import os
import threading

from ..inventory import secrets
from ..inventory.model import Secret
from ..release.redaction import Redactor


class Vault:
    """Reveals each secret once; safe to be called from many threads."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: dict[Secret | int, str] = {}  # a number for each word that a person typed
        self._lock = threading.Lock()
        self._key = os.urandom(16)
        self._hiding = 0
        self._redactor = Redactor((), self._key)

    def __call__(self, secret: Secret) -> str:
        """The text of `secret`; InventoryError says why it can't be had, and never what it holds."""
        with self._lock:
            if secret not in self._known:
                self._known[secret] = secrets.resolve(secret, self._folder).reveal()
            return self._known[secret]

    def hide(self, text: str) -> None:
        """A secret from elsewhere, not to be shown either."""
        with self._lock:
            self._known[len(self._known)] = text

    def redactor(self) -> Redactor:
        """Hides everything that was revealed so far; marks stay the same within one run."""
        with self._lock:
            if self._hiding != len(self._known):
                self._hiding = len(self._known)
                self._redactor = Redactor(self._known.values(), self._key)
            return self._redactor

    def redact(self, text: str) -> str:
        return self.redactor()(text)
