"""Spans of time on the command line: "30s", "10m", "2h", "7d", "1h30m"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..inventory.units import duration

if TYPE_CHECKING:
    _Base = click.ParamType[float]
else:
    _Base = click.ParamType


class Span(_Base):
    """Seconds as a float."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = value if isinstance(value, float) else duration(str(value))
        if not found:
            self.fail(f"{value!r} is no span of time; write 30s, 10m, 2h or 7d", param, ctx)
        return found
