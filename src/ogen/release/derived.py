"""Hashes that ogen computes and writes into files: they follow from the rest, and are no setting."""

from __future__ import annotations

import re

_DERIVED = re.compile(
    r"(Environment=OGEN_UNIT_HASH=)[0-9a-f]{16}"  # over a unit's own text, but for who may talk to it
    r"|(Environment=OGEN_CONFIG=)[0-9a-f]{16}"  # over the monitor's script and settings
    r"|(return 200 \")[0-9a-f]{16}(?=\\n\";)"  # over a balancer's files
    r"|(ogen/[a-z0-9._-]+:)[0-9a-f]{16}\b"  # over what a model is made from
)


def masked(text: str) -> str:
    """`text` with every such hash hidden: equal for files that say the same."""
    return _DERIVED.sub(lambda found: (found[found.lastindex or 0]) + "…", text)


def same(first: bytes | None, second: bytes | None) -> bool:
    """Whether two contents are known and equal but for such hashes."""
    if first is None or second is None:
        return False
    if first == second:
        return True
    try:
        return masked(first.decode()) == masked(second.decode())
    except UnicodeDecodeError:
        return False
