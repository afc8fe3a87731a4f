"""Secrets are recognised by value, wherever they turn up, and shown as a mark instead.

A mark is the prefix of a keyed hash. The key is new in every run, so that a mark says "changed" or
"the same on both hosts" within one output, and nobody can try out guesses against it afterwards.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from urllib.parse import quote

_TOKEN = re.compile(r"[^\s\"'`,;:{}\[\]()<>=]{8,}|[\w+/=.~-]{8,}")
# a value under a name that speaks for itself, and a header's bearer token
_SUSPECT = re.compile(
    r"(?i)(?P<name>(?:\b|_)(?:token|secret|passw(?:or)?d|passphrase|api_?key|credentials?)\w*[\"']?\s*[=:]\s*[\"']?"
    r"|\bbearer +)(?P<value>[^\s\"';,<>]{4,})"
)
_SHORT = 4  # a shorter secret is only looked for as a whole word


def suspicious(text: str) -> bool:
    """Whether something in `text` looks like a secret."""
    return _SUSPECT.search(text) is not None


class Redactor:
    """Replaces the `values` of secrets in any text; `key` is for tests that compare outputs."""

    def __init__(self, values: Iterable[str] = (), key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(16) if key is None else key
        self._marks = {form: self.mark(value) for value in values for form in _forms(value)}
        long_first = sorted(self._marks, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(_whole, long_first))) if long_first else None

    def mark(self, content: str | bytes) -> str:
        """What is shown instead of `content`."""
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        return f"<secret:{hmac.new(self._key, data, 'sha256').hexdigest()[:8]}>"

    def suspect(self, text: str) -> str:
        """`text` without what looks like a secret: nobody declares those that are typed on a host."""
        return _SUSPECT.sub(lambda found: found["name"] + self.mark(found["value"]), text)

    def __call__(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: self._marks[found[0]], text)


def _forms(value: str) -> set[str]:
    """The ways in which a secret, or a part of one of several words, may be written somewhere."""
    parts = {value, value.strip()}
    lines = [line.strip() for line in value.splitlines()]
    if len(value.split()) > 1:  # a file of keys, PEM text: whoever quotes it may quote a part
        parts |= {line for line in lines if len(line) >= 6}
        parts |= {token for line in lines for token in _TOKEN.findall(line)}
    forms = set(parts)
    for part in parts:
        forms.add(base64.b64encode(part.encode("utf-8", "surrogateescape")).decode())
        forms.add(quote(part, safe="", errors="replace"))
        forms.add(json.dumps(part)[1:-1])
        forms.add(re.escape(part))  # as nginx's maps and shells hold it: once, and inside of quotes
        forms.add(re.escape(part).replace("\\", "\\\\"))
    return {form for form in forms if form.strip()}


def _whole(form: str) -> str:
    escaped = re.escape(form)
    return rf"(?<!\w){escaped}(?!\w)" if len(form) < _SHORT else escaped
