"""--batch and --max-fail: numbers of hosts, or parts of them."""

from __future__ import annotations

import click

from ..inventory.units import percent


def _share(text: str, least: int) -> int | str | None:
    """3, or "25%"; None if `text` is neither, or less than `least`."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 7:
        return int(text) if int(text) >= least else None
    part = percent(text)
    return text if part is not None and part >= least else None


def share(_: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """A number of hosts or a part of them."""
    if value is None:
        return None
    found = _share(value, 0)
    if found is None:
        raise click.BadParameter(
            f"{value!r} is no number of hosts, and no part of them such as 10%", param=param
        )
    return found


def batches(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int | str, ...] | None:
    """Sizes with commas between them, each at least one host."""
    if value is None:
        return None
    found: list[int | str] = []
    for one in value.split(","):
        size = _share(one, 1)
        if size is None:
            raise click.BadParameter(
                f"{one.strip()!r} is no size of a batch: numbers and parts, like 1,25%,100%", param=param
            )
        found.append(size)
    return tuple(found)
