"""`ogen apply --prune-models`: models that no release needs, told and removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import HostError
from . import console, failure
from .exits import Exit, worst

if TYPE_CHECKING:
    from ..inventory.model import Host
    from ..push import Outcome, Unused
    from .fleet import Fleet

GIB = 2**30
Found = Mapping[str, "Unused | HostError"]


def hint(outcome: Outcome) -> None:
    """After an apply: what could go."""
    found = [result for result in outcome.results if result.unused.models or result.unused.bytes]
    for result in found:
        console.say(f"note: {result.host} has {_told(result.unused)}, which no release needs any more")
    if found:
        console.say("note: `ogen apply --prune-models` removes such models")


def preview(ready: Fleet, hosts: Sequence[Host]) -> None:
    """What a prune would remove as things are; what the apply itself makes needless stays for a rollback."""
    from .. import push

    for name, found in push.unused(hosts, ready.options).items():
        if isinstance(found, HostError):
            console.say(f"note: {name}: {found.message}")
        elif found.models or found.bytes:
            console.say(f"note: {name} would lose {_told(found)}")


def prune(ready: Fleet, outcome: Outcome, hosts: Sequence[Host]) -> Found:
    """On the hosts where all went well."""
    from .. import push
    from .progress import progress

    good = {result.host for result in outcome.results if result.status in push.WELL}
    chosen = [host for host in hosts if host.name in good and host.root is None]
    with progress(len(chosen), looking=True) as watch:
        return push.prune(chosen, ready.options, watch)


def tell(found: Found) -> Exit:
    for name, one in found.items():
        if isinstance(one, HostError):
            console.tell(failure.as_text(one))
        elif one.models or one.bytes:
            console.say(f"{name}: removed {_told(one)}")
    return exit_of(found)


def exit_of(found: Found) -> Exit:
    return worst(one.exit_code for one in found.values() if isinstance(one, HostError))


def as_json(found: Found) -> dict[str, Any]:
    return {name: asdict(one) for name, one in found.items() if not isinstance(one, HostError)}


def _told(found: Unused) -> str:
    size = f"{found.bytes / GIB:.1f} GiB" if found.bytes >= GIB // 10 else f"{found.bytes / 2**20:.1f} MiB"
    if not found.models:
        return f"{size} of broken downloads"
    shown = ", ".join(found.models[:3]) + (", …" if len(found.models) > 3 else "")
    return f"{console.count(len(found.models), 'model')} of {size} ({shown})"
