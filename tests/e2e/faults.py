"""What can go wrong while a host changes: the steps of an apply, the faults, and how each cell must end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from holds import Point

#: The steps in the order in which they happen, and where the agent is held: just before that work.
STEPS = {
    "connect": Point("session", "start"),
    "hello": Point("session", "open", (".pyz",)),
    "compare": Point("session", "open", ("/manifest.json",)),
    "request": Point(
        "session", "fcntl.flock", (), 3
    ),  # compared, which looks at both, and nothing is locked yet
    "lock": Point("session", "open", ("'/etc/ogen/journal'",), 2),  # both locks are held; 1: it compares
    "stage": Point("session", "open", ("('nginx.conf',",)),
    "models": Point("session", "http.client.send", ("/api/create",)),
    "validate": Point("session", "subprocess.Popen", ("'unshare'", "systemd-analyze")),
    "begin": Point("session", "open", ("'/etc/systemd/system/ogen-recover.service'",)),
    "prepared": Point("session", "open", ("('journal',",)),  # the links are made
    "commit": Point("session", "subprocess.Popen", ("'systemd-run'", "ogen-tx.service")),
    "flip": Point("service", "os.rename", ("'current'",)),
    "daemon-reload": Point("service", "subprocess.Popen", ("'daemon-reload'",)),
    "restart": Point("service", "subprocess.Popen", ("'restart'",)),
    "prove": Point("service", "http.client.send", ("/api/generate",)),
    "reload": Point("service", "subprocess.Popen", ("'reload'",)),
    "contract": Point("service", "subprocess.Popen", ("'stop'", "ogen-balancer-side")),
    "record": Point("service", "open", ("('audit.jsonl',",)),
    "collect": Point("service", "os.rmdir"),
    "revert": Point("service", "subprocess.Popen", ("'daemon-reload'",), 2),
}
_ORDER = list(STEPS)
KILLED = -9


def before_flip(step: str) -> bool:
    return _ORDER.index(step) <= _ORDER.index("flip")


def of_service(step: str) -> bool:
    return STEPS[step].process == "service"


@dataclass(frozen=True)
class Cell:
    """One fault at one step.

    ends: the release in force once the host is left alone: old, new, or the second controller's.
    code: what `ogen apply` exits with. says: words that its output must hold. quick: part of CI.
    """

    fault: str
    step: str
    ends: str
    code: int
    says: tuple[str, ...] = ()
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.fault}-{self.step}"


@dataclass(frozen=True)
class Row:
    """How a cell went: the release in force, apply's exit code, seconds from the fault to a whole host."""

    fault: str
    step: str
    ends: str
    code: int
    seconds: float
    said: str


DOOR = (
    "wrong sudo password",
    "no sudo password",
    "guest without sudo",
    "changed host key",
    "unknown host key",
    "TCP and then silence",
)
QUICK = {
    ("controller", "prepared"),
    ("controller", "commit"),
    ("agent", "stage"),
    ("agent", "prove"),
    ("service", "daemon-reload"),
    ("service", "reload"),
    ("controller, session and service", "restart"),
    ("cable out for 4 s", "prepared"),
    ("power", "prove"),
    ("disk full", "stage"),
    ("no inodes", "begin"),
    ("read-only", "flip"),
    ("clock +10 years", "prepared"),
    ("clock -10 years", "prove"),
    ("second controller", "lock"),
    ("service", "revert"),
    *((fault, "connect") for fault in DOOR),
    ("unit dies after 5 s", "prove"),
    ("wrong card", "prove"),
    ("card gone for good", "prove"),
    ("nginx file with a mistake", "validate"),
    ("port taken after nginx -t", "reload"),
}


def _ends(step: str) -> str:
    """New once the commit is the host's, unless it is on its way back."""
    return "new" if of_service(step) and step != "revert" else "old"


def _watched(step: str) -> int:
    """apply's exit code where the controller learns how the host's own transaction ended."""
    return 6 if step == "revert" else 0


def _killed_controller() -> Iterator[Cell]:
    for step in STEPS:  # at `commit` the frame has come: the host goes on by itself
        yield Cell("controller", step, "new" if step == "commit" else _ends(step), KILLED)


def _killed_agent(fault: str, steps: Iterable[str]) -> Iterator[Cell]:
    for step in steps:
        if of_service(step):
            yield Cell(fault, step, _ends(step), _watched(step))
        elif step == "commit":
            yield Cell(fault, step, "old", 3, ("nothing has changed", "apply again"))
        elif step in ("connect", "hello"):
            yield Cell(fault, step, "old", 3, ("the agent does not start",))
        else:
            yield Cell(fault, step, "old", 4, ("the connection was lost", "again"))


def _killed_service() -> Iterator[Cell]:
    yield Cell("service", "flip", "old", 3, ("nothing has changed", "apply again"))
    for step in STEPS:
        if of_service(step) and step != "flip":
            yield Cell("service", step, _ends(step), _watched(step))


def _nobody_looks() -> Iterator[Cell]:
    """Controller, session and service die at once, and nobody comes by until the host is whole again."""
    for step in ("prepared", "commit", "flip", "restart", "prove", "reload", "record", "revert"):
        ends = "old" if step == "flip" else _ends(step)
        yield Cell("controller, session and service", step, ends, KILLED)


def _cable() -> Iterator[Cell]:
    for step in ("hello", "lock", "stage", "validate", "prepared", "commit", "restart", "prove", "reload"):
        yield Cell("cable out for 4 s", step, "new", 0)


def _power() -> Iterator[Cell]:
    for step in ("stage", "begin", "prepared"):
        yield Cell("power", step, "old", 4, ("the connection was lost", "apply again"))
    for step in ("commit", "flip"):
        yield Cell("power", step, "old", 3, ("nothing has changed", "apply again"))
    for step in ("daemon-reload", "restart", "prove", "reload", "contract", "revert"):
        yield Cell("power", step, "old", 6, ("apply again",))
    for step in ("record", "collect"):
        yield Cell("power", step, "new", 0)


def _disk() -> Iterator[Cell]:
    for step in ("lock", "stage"):
        yield Cell("disk full", step, "old", 3, ("space",))
        yield Cell("no inodes", step, "old", 3, ("space",))
        yield Cell("read-only", step, "old", 3, ("read-only", "writable"))
    for step in ("begin", "prepared"):
        yield Cell("disk full", step, "new", 0)  # what follows fits into pages that are there
        yield Cell("no inodes", step, "old", 6, ("no space left", "inodes"))
    yield Cell("read-only", "begin", "old", 3, ("read-only", "writable"))
    for step in ("prepared", "commit"):
        yield Cell("read-only", step, "new", 3, ("read-only", "by itself", "writable"))
    for step in ("flip", "restart", "record"):
        yield Cell("disk full", step, "new", 0)
        if step == "restart":
            yield Cell("no inodes", step, "new", 3, ("no space left", "by itself", "inodes"))
        else:  # the flip itself leaves one over
            yield Cell("no inodes", step, "new", 0)
    for step in ("flip", "restart", "prove", "record"):
        yield Cell("read-only", step, "new", 3, ("read-only", "by itself", "writable"))
    yield Cell("read-only", "collect", "new", 0)


def _clock() -> Iterator[Cell]:
    for fault in ("clock +10 years", "clock -10 years"):
        for step in ("lock", "prepared", "flip", "restart", "prove"):
            yield Cell(fault, step, "new", 0)


def _second() -> Iterator[Cell]:
    yield Cell(
        "second controller", "request", "second", 3, ("changed since the plan", "run the command again")
    )
    for step in ("lock", "stage", "prepared", "commit", "flip", "prove", "record"):
        yield Cell("second controller", step, "new", 0)


def _stopped() -> Iterator[Cell]:
    yield Cell("agent stopped for 70 s", "prepared", "old", KILLED)
    yield Cell("controller stopped for 70 s", "prepared", "old", 3, ("nothing has changed",))
    yield Cell("cable out for 70 s", "prepared", "old", 3, ("nothing has changed",))


def _alone() -> Iterator[Cell]:
    """Those that belong to no moment of the agent's; `step` is where they are noticed."""
    yield Cell("unit does not start", "restart", "old", 6, ("gpu1", "failed"))
    yield Cell("unit dies after 5 s", "prove", "old", 6, ("gpu1", "died"))
    for fault, word in (
        ("wrong card", "Vulkan"),
        ("VRAM short", "60 %"),
        ("no card", "CPU"),
        ("out of memory", "memory"),
        ("device node missing", "CPU"),
    ):
        yield Cell(fault, "prove", "old", 6, ("gpu1", word))
    yield Cell("card gone for good", "prove", "old", 3, ("gpu1", "could not be proven"))
    yield Cell("nginx file with a mistake", "validate", "old", 6, ("no_such_directive",))
    yield Cell("port taken after nginx -t", "reload", "old", 6, ("balancer api", "8099"))
    yield Cell("wrong sudo password", "connect", "old", 3, ("does not take the password", "become_password"))
    yield Cell("no sudo password", "connect", "old", 3, ("become_password", "NOPASSWD"))
    yield Cell("guest without sudo", "connect", "old", 3, ("sudoers",))
    yield Cell("changed host key", "connect", "old", 4, ("known_hosts:1", "somebody stands in between"))
    yield Cell("unknown host key", "connect", "old", 4, ("ogen trust",))
    yield Cell("TCP and then silence", "connect", "old", 4, ("does not speak SSH",))


def _all() -> Iterator[Cell]:
    yield from _killed_controller()
    yield from _killed_agent("agent", STEPS)
    yield from _killed_service()
    yield from _killed_agent(
        "session", ("compare", "lock", "stage", "prepared", "restart", "prove", "record")
    )
    yield from _nobody_looks()
    yield from _cable()
    yield from _power()
    yield from _disk()
    yield from _clock()
    yield from _second()
    yield from _stopped()
    yield from _alone()


CELLS: Sequence[Cell] = tuple(
    Cell(c.fault, c.step, c.ends, c.code, c.says, (c.fault, c.step) in QUICK) for c in _all()
)

_HEAD = """\
# Faults and steps

What is left of a host when something dies in the middle of an apply, on real boxes (systemd, sshd, nginx).
`make faults` runs every cell and writes this file; `make soak` runs them, and a few are part of CI.

At each step the real agent is held just before the work that the step is named for, the fault strikes, and
apply goes on or is dead. Then, without any contact of ogen's, the host must become whole within 60 s. It is
read back by other code than ogen's: the release in force is wholly the old one or wholly the new one (every
file's hash, mode and owner, every link, the hash in each running process, nginx's own answer), a request
through nginx and one to each instance are answered, and where nothing was flipped nothing was restarted.
The next apply ends with 0 and nobody's hands, the diff after it too; nothing of the old attempt is left over.

*exit* is what the interrupted `ogen apply` ended with, -9 where it was killed itself. *whole after* counts
from the fault, with what the apply itself still had to do, on two cores that had other work besides.

| fault | step | in force | exit | whole after | apply says |
|---|---|---|---|---|---|
"""


def document(rows: Sequence[Row]) -> str:
    """docs/faults.md, in the order of the cells."""
    by_name = {f"{row.fault}-{row.step}": row for row in rows}
    found = [by_name[cell.name] for cell in CELLS if cell.name in by_name]
    lines = [
        f"| {r.fault} | {r.step} | {r.ends} | {r.code} | {r.seconds:.1f} s | {r.said.replace('|', '/')} |\n"
        for r in found
    ]
    return _HEAD + "".join(lines)
