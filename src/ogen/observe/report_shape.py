"""What a host's answer to the report's question looks like: its words are data, any of them may be wrong."""

from __future__ import annotations

from typing import Any

from ..agent.binned import CARD_BIN

# {int: x} and {str: x} are maps to x, by bins or buckets and by names; (x,) is a list of any length
_NUMBER = (int, float)
_COUNTS = {int: _NUMBER}
_CARD = {"gpu": int, "name": str, "total": _NUMBER, "bins": {int: [_NUMBER] * len(CARD_BIN)}}
_PAIRS = {int: [_NUMBER, _NUMBER]}
_REQUESTS = {"n": int, "kinds": {str: int}, "seconds": _COUNTS, "first": _COUNTS}
_INSTANCE = {"n": int, "bad": int, "seconds": _COUNTS, "bins": _PAIRS}
ANSWER: dict[str, Any] = {
    "cards": {str: _CARD},
    "instances": {str: {"bins": _PAIRS, "models": {str: _PAIRS}}},
    "balancers": {str: {"bins": {int: _REQUESTS}, "by": {str: _INSTANCE}}},
    "notes": {str: int},
    "events": ([_NUMBER, str, str],),
}


def wrong(value: Any, shape: Any = ANSWER, place: str = "past") -> str:
    """The place of what is not as it should be; empty where all is."""
    if isinstance(shape, tuple) and not isinstance(shape[0], type):
        return _list(value, [shape[0]] * len(value), place) if isinstance(value, list) else place
    if isinstance(shape, list):
        return _list(value, shape, place)
    if not isinstance(shape, dict):
        return "" if isinstance(value, shape) and not isinstance(value, bool) else place
    if not isinstance(value, dict):
        return place
    if int in shape or str in shape:
        parts = [(name, *shape.values()) for name in value]
        if int in shape and not all(name.isdecimal() for name in value):
            return place
    else:
        parts = list(shape.items())
    inside = (wrong(value.get(name), part, f"{place}.{name}"[:80]) for name, part in parts)
    return next((found for found in inside if found), "")


def _list(value: Any, shapes: list[Any], place: str) -> str:
    if not isinstance(value, list) or len(value) != len(shapes):
        return place
    return next(
        (found for one, part in zip(value, shapes, strict=True) if (found := wrong(one, part, place))), ""
    )
