"""What `ogen apply` and `ogen diff` do from the rendered release on, as a program of its own.

    python benchmarks/_ogen_push.py apply|diff SPEC.json

The benchmark's files are plain ones, which no inventory renders; so the releases are made here. What is
left out of the command line: click, loading and validating an inventory, planning, rendering.
"""

from __future__ import annotations

import gc

gc.set_threshold(100_000)  # as ogen.cli.main does, before it imports anything

import json
import sys
from pathlib import Path
from typing import Any

from ogen import push
from ogen.errors import HostError
from ogen.inventory.model import Host, Ssh
from ogen.release.model import File, Release


def targets(spec: dict[str, Any]) -> list[push.Target]:
    folder = Path(spec["files"])
    files = tuple(
        File(f"/etc/ogen/current/{path.name}", path.read_bytes(), path.stat().st_mode & 0o777)
        for path in sorted(folder.iterdir())
    )
    return [push.Target(_host(one, spec), Release(one["name"], files)) for one in spec["hosts"]]


def _host(one: dict[str, Any], spec: dict[str, Any]) -> Host:
    ssh = Ssh(user=spec["user"], port=one["port"], key=spec["key"])
    return Host(one["name"], one["address"], root=one["root"], ssh=ssh, transport=spec["transport"])


def apply(wanted: list[push.Target], options: push.Options) -> int:
    done = push.apply(wanted, options)
    for result in done.results:
        print(f"{result.host}: {result.status} {result.message}")
    return done.exit_code()


def diff(wanted: list[push.Target], options: push.Options) -> int:
    from ogen.release.diff import diff as differences
    from ogen.release.text import unified

    found = push.compare(wanted, options)
    failed = [one for one in found.values() if isinstance(one, HostError)]
    for error in failed:
        print(error, file=sys.stderr)
    seen = [one.on_host(t.release) for t in wanted if not isinstance(one := found[t.host.name], HostError)]
    print(unified(differences(seen, [t.release for t in wanted])))
    return 3 if failed else 0


def main() -> None:
    verb, path = sys.argv[1:]
    spec = json.loads(Path(path).read_text())
    options = push.Options(push.Keyring(known_hosts=(Path(spec["known_hosts"]),)), who="benchmark")
    code = {"apply": apply, "diff": diff}[verb](targets(spec), options)
    if spec.get("peak"):
        words = Path("/proc/self/status").read_text().split()
        print(f"peak {words[words.index('VmHWM:') + 1]} KiB")  # getrusage's begins with the parent's
    sys.exit(code)


if __name__ == "__main__":
    main()
