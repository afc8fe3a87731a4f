"""What push reports: events while it works, comparisons, results per host, the outcome with its exit code."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, Literal

from ..agent import drift
from ..errors import HostError
from ..inventory.model import Host
from ..release.model import File, Release
from .access import Keyring

if TYPE_CHECKING:
    from .listing import Listing
    from .steps import StepResult

Status = Literal[
    "unchanged",
    "applied",
    "rolled_back",
    "failed",
    "unreachable",
    "locked",
    "withheld",  # left as it is, because of what others serve
    "not_started",  # the rollout stopped before its turn
    "interrupted",  # at work when nobody watched any longer
    "skipped",  # out of reach, and left out on request
    "stuck",
    "planned",
]
#: the host is what the inventory says
WELL: frozenset[Status] = frozenset({"applied", "unchanged"})
#: not a failure of this host's own
CONSEQUENCE: frozenset[Status] = frozenset({"withheld", "not_started", "skipped", "planned"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens on a host right now. phases: connect, compare, stage, models, validate,
    commit, drain, restart, start, prove, reload, revert, recover, done. With an empty host it is about the
    whole rollout: phase batch, as in "expand: canary 1/12"."""

    host: str
    phase: str
    message: str = ""
    percent: float | None = None


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """For callers that do not watch."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to work: who we are, how many hosts at once, how patient. Times in seconds."""

    keyring: Keyring = field(default_factory=Keyring)
    parallel: int = 32
    who: str = ""
    git: str = ""
    settle: float = 6.0  # a started unit must stay up for so long, from its start on
    answer: float = 60.0  # until a started instance answers
    load: float = 300.0  # until a model is loaded
    reload: float = 15.0  # until nginx serves the new configuration
    drain: float = 600.0  # until an instance that goes down has ended what it had begun
    outage: bool = False  # whether a pool may be left without an instance that serves
    silence: float = 600.0  # without any word of a host that works
    reconnect: float = 30.0  # for a host whose connection was lost after the commit
    batches: tuple[int | str, ...] = ("100%",)  # hosts with instances that change at once: 3, or "25%"
    downloads: int = 4  # hosts that load models at once
    max_fail: int | str = "100%"  # more failures than this, and no other host is started
    skip_offline: bool = False  # hosts out of reach are left out instead of failed
    stop: Flag = field(default_factory=Flag, compare=False)  # set: start no other host

    def patience(self) -> dict[str, float]:
        names = ("settle", "answer", "load", "reload", "drain")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Target:
    """A host, what it is to become, and which instances of other hosts its balancers list.

    Without `listing` a balancer that needs what is not in force can only keep its configuration.
    """

    host: Host
    release: Release
    needs: frozenset[tuple[str, str]] = frozenset()  # (host, instance)
    uploads: Mapping[str, str] = field(default_factory=dict)  # digest → path of a file to send for a model
    supply: Mapping[str, Any] = field(default_factory=dict)  # where other models come from, for the agent
    listing: Listing | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Base:
    """A file as ogen had put it on the host; `content` where the host still knows it and it was asked for."""

    sha256: str
    mode: int
    owner: str
    group: str
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A file of the release, or of the one in force, as the host has it.

    `state` is one of the words of agent/drift.py, which docs/drift.md explains. All else is unknown for
    what is "same", and for a file that is not there (`kind` is None).
    """

    path: str
    state: str
    secret: bool = False
    content: bytes | None = None  # None: the same as wanted, secret, or too long
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    sha256: str | None = None
    kind: str | None = None  # file | link | other
    target: str | None = None  # of a link
    replaced: bool = False  # it stands in the place of ogen's link
    base: Base | None = None  # of what somebody edited

    @property
    def edited(self) -> bool:
        return self.state in drift.EDITS


@dataclass(frozen=True, slots=True)
class Serving:
    """An instance as it is reached, and the models it has. None: not known."""

    port: int | None = None
    models: frozenset[str] | None = None
    admits: frozenset[str] | None = None  # addresses of balancers on other hosts

    def meets(self, port: int | None, model: str | None, address: str = "") -> bool:
        """Whether it is reached at the port with the model; by the balancer at `address`, if one is given."""
        if address and self.admits is not None and address not in self.admits:
            return False
        return (None in (port, self.port) or port == self.port) and (
            self.models is None or model is None or model in self.models
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A host against its release. Nothing was changed to find out."""

    host: str
    current: str | None  # folder name of the release in force
    release: str | None  # its id
    unchanged: bool  # nothing to do at all
    files: tuple[Seen, ...]
    missing: frozenset[str] = frozenset()  # sha256 of contents to send
    restart: tuple[str, ...] = ()  # units to start or restart
    reload: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # to be pulled or created
    links: tuple[str, ...] = ()  # missing or wrong
    instances: tuple[str, ...] = ()  # of the release in force
    locked: str | None = None  # the holder's note
    skipped: tuple[str, ...] = ()
    room: Mapping[str, Any] = field(
        default_factory=dict
    )  # for its models: need, free (bytes), folder, sources
    short: str = ""  # why that room will not do
    absent: str = ""  # the version of Ollama that `ogen provision` has not put there yet
    serving: Mapping[str, Serving] = field(default_factory=dict)  # instance of the release in force
    pools: Mapping[str, Mapping[str, tuple[str, ...]]] = field(
        default_factory=dict
    )  # what balancers list now
    admission: Mapping[str, str] = field(default_factory=dict)  # instance's unit → whom it lets in wrongly
    why: Mapping[str, str] = field(default_factory=dict)  # unit or link → how it left the release in force

    def on_host(self, wish: Release) -> Release:
        """What the host has, as a release that can be diffed against `wish`."""
        wanted = {f.path: f for f in wish.files}
        files = [
            _as_file(seen, wanted.get(seen.path))
            for seen in self.files
            if (seen.state == drift.SAME or seen.kind is not None) and seen.state != drift.FOREIGN
        ]
        return Release(self.host, tuple(sorted(files, key=lambda f: f.path)))

    @property
    def edited(self) -> tuple[str, ...]:
        """Paths that somebody edited on the host."""
        return tuple(s.path for s in self.files if s.edited)


def _as_file(seen: Seen, wish: File | None) -> File:
    if seen.state == drift.SAME and wish:
        return wish
    content = seen.content
    if content is None:
        content = wish.content if wish and wish.sha256 == seen.sha256 else f"sha256 {seen.sha256}\n".encode()
    return File(
        seen.path, content, seen.mode or 0o644, seen.owner or "root", seen.group or "root", secret=seen.secret
    )


def comparison(host: str, report: Mapping[str, Any], texts: bytes) -> Comparison:
    """From the agent's report and the texts that came with it."""
    source = io.BytesIO(texts)
    return Comparison(
        host=host,
        current=report["current"],
        release=report["release"],
        unchanged=report["unchanged"],
        files=tuple(_seen(one, source) for one in report["files"]),
        missing=frozenset(report["missing"]),
        locked=report["locked"],
        absent=report.get("absent", ""),
        room=dict(report["room"]),
        short=report["short"],
        serving={i: _serving(one) for i, one in report["serving"].items()},
        pools={b: {p: tuple(m) for p, m in pools.items()} for b, pools in report["pools"].items()},
        why=dict(report["why"]),
        admission=dict(report["admission"]),
        **{
            k: tuple(report[k])
            for k in ("restart", "reload", "stop", "models", "links", "instances", "skipped")
        },
    )


def _serving(one: Mapping[str, Any]) -> Serving:
    admits = one.get("admits")
    return Serving(one["port"], frozenset(one["models"]), None if admits is None else frozenset(admits))


def _seen(one: Mapping[str, Any], texts: io.BytesIO) -> Seen:
    """A file of the report; its texts are the next ones of `texts`."""
    found, was = (texts.read(one[key]) if key in one else None for key in ("text", "base_text"))
    plain = ("path", "state", "mode", "owner", "group", "sha256", "kind", "target", "secret", "replaced")
    return Seen(
        content=found,
        base=Base(**one["base"], content=was) if "base" in one else None,
        **{key: one[key] for key in plain if key in one},
    )


@dataclass(frozen=True, slots=True)
class Unused:
    """Models of a host that none of its releases needs, or that were removed as such."""

    models: tuple[str, ...] = ()
    bytes: int = 0

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Unused:
        return cls(tuple(map(str, said.get("models", ()))), int(said.get("bytes", 0)))


@dataclass(frozen=True, slots=True)
class HostResult:
    """How it ended on one host."""

    host: str
    status: Status
    message: str = ""
    error: HostError | None = None
    before: str | None = None  # folder names of releases
    after: str | None = None
    seconds: float = 0.0
    restarted: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # checks that could not be made there
    without: tuple[str, ...] = ()  # "host/instance" that its balancers should list, but that are not in force
    committed: bool = False  # failed, but only after its release was in force
    steps: tuple[StepResult, ...] = ()  # what its play's other tasks did
    comparison: Comparison | None = None
    unused: Unused = Unused()

    @property
    def serves(self) -> bool:
        """Whether its release is in force."""
        return self.status in WELL or self.committed


@dataclass(frozen=True, slots=True)
class Outcome:
    """All hosts, in the order of the targets."""

    results: tuple[HostResult, ...]

    def exit_code(self) -> int:
        """0 done · 6 rolled back · 3 failed · 4 unreachable · 5 locked: in this order of weight."""
        codes = {r.error.exit_code for r in self.results if r.error} - {0}
        return next((code for code in (6, 3, 4, 5) if code in codes), 0)

    @property
    def changed(self) -> tuple[str, ...]:
        return tuple(r.host for r in self.results if r.status == "applied")

    def failed(self) -> Sequence[HostResult]:
        return [r for r in self.results if r.error]
