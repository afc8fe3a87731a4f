"""A balancer's keys: names in the open, texts only where a command that contacts hosts reveals them."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import OgenError, RenderError
from ..inventory.model import Secret
from ..source import parse

Reveal = Callable[[Secret], str]


def key_lines(secret: Secret, reveal: Reveal | None) -> list[dict[str, str]]:
    """Names and texts, sorted by name; one placeholder for all of them where nothing is revealed.

    The secret's text is YAML: a map of names to keys. Errors never show any of it.
    """
    if reveal is None:
        return [{"name": "placeholder", "secret": str(secret)}]
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
    return [{"name": name, "secret": pairs[name]} for name in sorted(pairs)]
