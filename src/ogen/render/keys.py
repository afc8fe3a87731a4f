"""A balancer's keys: names in the open, texts only where a command that contacts hosts reveals them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from ..errors import OgenError, RenderError
from ..inventory.checks import CHECKS
from ..inventory.model import Secret
from ..source import parse

Reveal = Callable[[Secret], str]


def key_lines(secret: Secret, reveal: Reveal | None, admins: Iterable[str] = ()) -> list[dict[str, str]]:
    """Names, texts and their sha256, sorted by name; one placeholder for all where nothing is revealed.

    The secret's text is YAML: a map of names to keys. Errors never show any of it.
    """
    if reveal is None:
        return [_line("placeholder", str(secret))]
    try:
        node = parse(reveal(secret), "keys")
        pairs = {name: value.text for name, value in node.items() if value.is_scalar}
    except OgenError:
        raise RenderError("the keys can't be read as YAML", where=secret.where) from None
    if not pairs or len(pairs) != len(dict(node.items())):
        raise RenderError("keys are a map of names to keys", where=secret.where, hint="alice: 3f9c…")
    short = sorted(name for name, text in pairs.items() if len(text) < 16 or " " in text)
    if short:
        raise RenderError(
            f"keys of at least 16 characters without spaces are wanted: {', '.join(short)}",
            where=secret.where,
        )
    odd = sorted(name for name in pairs if not CHECKS["key_name"].passes(name))
    if odd:
        hint = "letters, digits and . _ @ -, at most 63"
        raise RenderError(f"not the name of a key: {odd[0]!r}", where=secret.where, hint=hint)
    lost = sorted(set(admins) - set(pairs))
    if lost:
        raise RenderError(f"admins without a key: {', '.join(lost)}", where=secret.where)
    return [_line(name, pairs[name]) for name in sorted(pairs)]


def _line(name: str, text: str) -> dict[str, str]:
    return {"name": name, "secret": text, "digest": hashlib.sha256(text.encode()).hexdigest()}
