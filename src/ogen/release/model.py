"""A release: the file tree of one host, and what the host must do with it.

On a host a release lies in `/etc/ogen/releases/<id>/{tree,manifest.json}`, and `/etc/ogen/current`
is a symlink to the `tree` in force. A file's `path` is where people look for it:

    /etc/ogen/current/X          stored as tree/X; there is nothing else to do
    any other path P             stored as tree/root/P; P is a symlink through /etc/ogen/current
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import Where

CURRENT = "/etc/ogen/current/"
#: folders in which a release may place links; the agent holds the same list


@dataclass(frozen=True, slots=True)
class File:
    path: str  # absolute, logical
    content: bytes
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    secret: bool = False  # content is never shown; 0600 or 0640
    where: Where | None = field(default=None, compare=False, repr=False)  # the inventory line behind it

    @property
    def stored(self) -> str:
        """The path inside of `tree/`."""
        return self.path[len(CURRENT) :] if self.path.startswith(CURRENT) else "root" + self.path

    @property
    def is_link(self) -> bool:
        return not self.path.startswith(CURRENT)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit of the release and what an apply does with it.

    `hash` is over the unit's text without its own `Environment=OGEN_UNIT_HASH=` line, and without its
    `IPAddressAllow=` lines, which systemd applies to what runs; the agent reads it back from the running
    process's environment to know what must restart. kinds:
    instance, balancer: long-running, proven; service: long-running; timer, oneshot; target.
    """

    name: str
    kind: Literal["instance", "balancer", "service", "timer", "oneshot", "target"]
    hash: str
    enable: bool = True


@dataclass(frozen=True, slots=True)
class ModelBuild:
    """A model that the librarian creates before the flip, under an immutable name."""

    name: str  # "ogen/chat:3f9c…": namespace ogen, the model, a hash of everything below
    source: str  # what to pull, or a blob digest ("sha256:…") of a file that was sent
    request: Mapping[str, Any]  # the body of POST /api/create, without "model"
    size: int | None = None  # bytes, for the disk check


@dataclass(frozen=True, slots=True)
class ModelView:
    """A manifest file of an instance's own view: made at stage, by copy from the librarian's store."""

    path: str  # /etc/ogen/current/instances/<instance>/manifests/registry.ollama.ai/library/chat/latest
    model: str  # a ModelBuild's name


@dataclass(frozen=True, slots=True)
class Served:
    """What an instance must show before it counts as proven."""

    model: str  # the name to ask for
    verdict: str  # full | partial | cpu
    gpu_bytes: int  # planned, on cards
    embedding: bool = False
    resident: bool = True  # preloaded, and so provable
    keep_alive: str = "-1"
    stays: bool = True  # False: it has hours, after which it leaves


@dataclass(frozen=True, slots=True)
class InstanceProof:
    unit: str
    instance: str
    port: int
    version: str  # Ollama's, as the plan has it
    gpus: tuple[str, ...]  # UUIDs where known, else indexes as text; () for none
    models: tuple[Served, ...]
    admits: tuple[str, ...] = ()  # addresses of balancers on other hosts


@dataclass(frozen=True, slots=True)
class BalancerProof:
    unit: str
    balancer: str
    config: str  # path of nginx.conf
    socket: str  # unix socket that answers GET /release with `hash`
    hash: str  # over the balancer's files without the line that holds it
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # pool → "host/instance" it lists


@dataclass(frozen=True, slots=True)
class Release:
    """Everything for one host. `id` is a hash of all that the host sees of it."""

    host: str
    files: tuple[File, ...]  # sorted by path
    units: tuple[Unit, ...] = ()
    models: tuple[ModelBuild, ...] = ()
    views: tuple[ModelView, ...] = ()
    instances: tuple[InstanceProof, ...] = ()
    balancers: tuple[BalancerProof, ...] = ()
    librarian: Mapping[str, Any] = field(default_factory=dict)  # unit text's path, port, models_dir, user

    @property
    def id(self) -> str:
        return hashlib.sha256(canonical(self.manifest())).hexdigest()[:16]

    def manifest(self) -> dict[str, Any]:
        """The release without contents, as JSON values: what the agent gets, and keeps on the host."""
        return {
            "format": 1,
            "host": self.host,
            "files": [
                {
                    "path": f.path,
                    "stored": f.stored,
                    "sha256": f.sha256,
                    "size": len(f.content),
                    "mode": f.mode,
                    "owner": f.owner,
                    "group": f.group,
                    "secret": f.secret,
                    "link": f.is_link,
                }
                for f in self.files
            ],
            "units": [_plain(u) for u in self.units],
            "models": [_plain(m) for m in self.models],
            "views": [_plain(v) for v in self.views],
            "instances": [_plain(i) for i in self.instances],
            "balancers": [_plain(b) for b in self.balancers],
            "librarian": dict(self.librarian),
        }


def _plain(value: Any) -> Any:
    """Dataclasses as JSON values."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
