"""For tests of push: hosts behind the embedded SSH server, and releases for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sshd import ADDRESS, Farm

from ogen import push
from ogen.inventory.model import Host, Ssh
from ogen.release.model import File, InstanceProof, Release


def host(farm: Farm, name: str, **ssh: Any) -> Host:
    """A host whose files lie in a folder of the farm."""
    settings = {"user": "tester", "port": farm.port(name), "key": "key", **ssh}
    return Host(name, ADDRESS, root=str(farm.root(name) / "root"), ssh=Ssh(**settings))


def options(farm: Farm, **more: Any) -> push.Options:
    return push.Options(push.Keyring(str(farm.folder), (farm.known_hosts,)), who="tester", **more)


def release(name: str, text: str = "one", *instances: str, count: int = 3) -> Release:
    """`count` files, the first one with this text; proofs for these instances."""
    files = [File(f"/etc/ogen/current/{n}.txt", f"{text if n == 0 else n}\n".encode()) for n in range(count)]
    proofs = tuple(InstanceProof(f"{i}.service", i, 11434, "0.32.15", (), ()) for i in instances)
    return Release(name, tuple(files), instances=proofs)
