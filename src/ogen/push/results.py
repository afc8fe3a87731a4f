"""What push reports: events while it works, comparisons, results per host, the outcome with its exit code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import Any, Literal

from ..errors import HostError
from ..inventory.model import Host
from ..release.model import File, Release
from .access import Keyring

Status = Literal[
    "unchanged", "applied", "rolled_back", "failed", "unreachable", "locked", "withheld", "stuck", "planned"
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens on a host right now. phases: connect, compare, stage, models, validate,
    commit, restart, start, prove, reload, revert, recover, done."""

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
    silence: float = 600.0  # without any word of a host that works
    reconnect: float = 30.0  # for a host whose connection was lost after the commit
    stop: Flag = field(default_factory=Flag, compare=False)  # set: start no other host

    def patience(self) -> dict[str, float]:
        return {"settle": self.settle, "answer": self.answer, "load": self.load, "reload": self.reload}


@dataclass(frozen=True, slots=True)
class Target:
    """A host, what it is to become, and which instances of other hosts its balancers list."""

    host: Host
    release: Release
    needs: frozenset[tuple[str, str]] = frozenset()  # (host, instance)
    uploads: Mapping[str, str] = field(default_factory=dict)  # digest → path of a file to send for a model


@dataclass(frozen=True, slots=True)
class Seen:
    """A file of the release, or of the one in force, as the host has it.

    state: same · missing (new) · differs (not yet applied) · edited (on the host) · removed (no longer
    wanted) · gone (no longer wanted, and not there).
    """

    path: str
    state: str
    secret: bool = False
    edited: bool = False
    content: bytes | None = None  # None: the same as wanted, secret, or too long
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    sha256: str | None = None


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

    def on_host(self, wish: Release) -> Release:
        """What the host has, as a release that can be diffed against `wish`."""
        wanted = {f.path: f for f in wish.files}
        files = [
            _as_file(seen, wanted.get(seen.path))
            for seen in self.files
            if seen.state not in ("missing", "gone")
        ]
        return Release(self.host, tuple(sorted(files, key=lambda f: f.path)))

    @property
    def edited(self) -> tuple[str, ...]:
        """Paths that somebody edited on the host."""
        return tuple(s.path for s in self.files if s.edited)


def _as_file(seen: Seen, wish: File | None) -> File:
    if seen.state == "same" and wish:
        return wish
    content = seen.content
    if content is None:
        content = wish.content if wish and wish.sha256 == seen.sha256 else f"sha256 {seen.sha256}\n".encode()
    return File(
        seen.path, content, seen.mode or 0o644, seen.owner or "root", seen.group or "root", secret=seen.secret
    )


def comparison(host: str, report: Mapping[str, Any], texts: bytes) -> Comparison:
    """From the agent's report and the texts that came with it."""
    files, at = [], 0
    for one in report["files"]:
        size = one.get("text")
        content = texts[at : at + size] if size is not None else None
        at += size or 0
        files.append(_seen(one, content))
    return Comparison(
        host=host,
        current=report["current"],
        release=report["release"],
        unchanged=report["unchanged"],
        files=tuple(files),
        missing=frozenset(report["missing"]),
        locked=report["locked"],
        **{
            k: tuple(report[k])
            for k in ("restart", "reload", "stop", "models", "links", "instances", "skipped")
        },
    )


def _seen(one: Mapping[str, Any], content: bytes | None) -> Seen:
    return Seen(
        path=one["path"],
        state=one["state"],
        secret=one["secret"],
        edited=one["state"] == "edited" or bool(one.get("edited")),
        content=content,
        mode=one.get("mode"),
        owner=one.get("owner"),
        group=one.get("group"),
        sha256=one.get("sha256"),
    )


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
    comparison: Comparison | None = None


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
