"""What monitors and balancers wrote, from hosts over SSH or from copies of their files in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..agent import look_past
from ..agent.binned import Binned
from ..errors import HostError, RemoteError, UsageError
from ..inventory.model import Host, Inventory
from ..push import Options, contact
from ..push.rollout import each
from .report_shape import wrong
from .report_span import Span, span

Answers = dict[str, Mapping[str, Any] | HostError]


def over_ssh(hosts: Sequence[Host], options: Options, asked: Span) -> Answers:
    """Each host's bins, counted there, or the error that kept us from them."""
    request = {"op": "past", "start": asked.start, "end": asked.end, "width": asked.width}

    def one(host: Host) -> Mapping[str, Any] | HostError:
        try:
            with contact(host, options) as opened:
                return _readable(opened.ask(request)[0].get("past"), host.name)
        except HostError as error:
            return error

    return dict(zip((host.name for host in hosts), each(hosts, one, options.parallel), strict=True))


def _readable(said: Any, host: str) -> Mapping[str, Any]:
    if place := wrong(said):
        raise RemoteError(f"its figures can't be read: {place} is not what it should be", host=host)
    return dict(said)


# ------------------------------------------------------------------------------------------- copies
def from_folder(
    folder: Path, hosts: Sequence[Host], since: float, inventory: Inventory
) -> tuple[Span, Answers, tuple[str, ...]]:
    """The bins of `folder`/HOST/…; the span ends with the last time in them. And what is nobody's."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="--from wants a folder with one folder for each host")
    inside = {host.name: _paths(folder / host.name) for host in hosts}
    files = {name: look_past.found(paths) for name, paths in inside.items()}
    ends = [at for found in files.values() if (at := look_past.latest(found)) is not None]
    if not ends:
        raise UsageError(
            f"{folder} holds no file of a monitor or a balancer",
            hint="lay them out as HOST/cards.csv, HOST/models.csv, HOST/balancer-NAME.log; folders between"
            " and rotated files are found too",
        )
    asked = span(max(ends), since, hosts)
    answers = {name: _copied(name, found, inside[name], asked) for name, found in files.items()}
    known = {host.name for host in inventory.hosts}
    strangers = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in known)
    return asked, answers, tuple(strangers)


def _paths(folder: Path) -> list[str]:
    return [str(Path(base, name)) for base, _, names in os.walk(folder) for name in sorted(names)]


def _copied(
    host: str, files: dict[look_past.Place, list[str]], paths: Iterable[str], asked: Span
) -> Mapping[str, Any] | HostError:
    if not files:
        return RemoteError("there are no files of it", host=host)
    binned = Binned(asked.start, asked.end, asked.width)
    look_past.read(binned, files)
    audits = [Path(path).read_bytes() for path in paths if path.endswith("/audit.jsonl")]
    events = look_past.audit(b"\n".join(audits), asked.start, asked.end)
    found = {**binned.answer(), "events": events, "files": sum(map(len, files.values()))}
    return _readable(json.loads(json.dumps(found)), host)  # as it comes from a host
