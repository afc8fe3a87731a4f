"""What the agent does to a host, each in a folder, and how the host may look afterwards."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pretend import Controller, Host, Systemd, apply, ask, follow, host

from ogen.agent import alarm, journal, keys, owner, store, transaction
from ogen.release.model import File, ModelBuild, ModelView, Release, Unit

EDIT = "# by hand\n"


def release(text: str, *units: str, program: str = "/bin/true") -> Release:
    """Plain files in two folders, a secret, a model's view, units, and a file of the machine's nginx."""

    def unit(name: str) -> tuple[str, str]:
        digest = hashlib.sha256(f"{name} {text}".encode()).hexdigest()[:16]
        body = f"[Service]\nEnvironment=OGEN_UNIT_HASH={digest}\nExecStart={program}\n"
        return digest, body + "[Install]\nWantedBy=ogen.target\n"

    files = [
        File("/etc/ogen/current/a.txt", text.encode()),
        File("/etc/ogen/current/balancers/api/keys.conf", text.encode(), 0o600, secret=True),
        File(f"/etc/nginx/conf.d/ogen-{text}.conf", b"# " + text.encode()),
        *(File(f"/etc/systemd/system/{name}", unit(name)[1].encode()) for name in units),
    ]
    view = "/etc/ogen/current/instances/gpu0/manifests/registry.ollama.ai/library/chat/latest"
    return Release(
        "gpu1",
        tuple(sorted(files, key=lambda f: f.path)),
        units=tuple(Unit(name, "service", unit(name)[0]) for name in units),
        models=(ModelBuild("ogen/chat:1", "llama3", {"from": "llama3"}),),
        views=(ModelView(view, "ogen/chat:1"),),
    )


A, B, C, D = (f"ogen-{name}.service" for name in "abcd")
EARLIER = release("earlier", A)
OLD = release("old", A, B)
NEW = release("new", B, C)
BAD = release("bad", B, D, program="/bin/false")
NEXT = release("next", A, D)


def _nothing(one: Host) -> None:
    """A host that ogen never saw."""
    for folder in ("etc/systemd/system", "etc/nginx/conf.d", "run"):
        (Path(one.disk.root) / folder).mkdir(parents=True)


def _applied(*releases: Release) -> Callable[[Host], None]:
    def prepare(one: Host) -> None:
        _nothing(one)
        for each in releases:
            assert apply(one, each)["status"] == "applied"

    return prepare


def _failed(one: Host) -> None:
    """A host on which the first apply did not succeed."""
    _nothing(one)
    assert apply(one, BAD)["status"] == "rolled_back"


def _dying(one: Host) -> None:
    """A host on which a unit would not start again."""
    _applied(EARLIER, OLD)(one)
    assert isinstance(one.machine, Systemd)
    one.machine.dying.add(B)


def _edited(one: Host) -> None:
    _applied(OLD)(one)
    place = Path(one.disk.root) / f"etc/systemd/system/{B}"
    text = follow(Path(one.disk.root), f"{store.UNITS}/{B}")
    place.unlink()
    place.write_text(f"{text}{EDIT}")


def _unneeded(one: Host) -> None:
    """Two releases more than anybody needs."""
    _applied(EARLIER, OLD)(one)
    folder = Path(one.disk.root) / "etc/ogen/releases"
    for name in ("0000", "1111"):
        shutil.copytree(folder / EARLIER.id, folder / name)


def _garbled(one: Host) -> None:
    _applied(EARLIER, OLD)(one)
    path = Path(one.disk.root) / "etc/ogen/journal"
    path.write_bytes(b"00000000 {}\n" + path.read_bytes())


@dataclass(frozen=True)
class Scenario:
    """`old` and `new`: what may be in force afterwards; None is nothing at all."""

    name: str
    prepare: Callable[[Host], None]
    act: Callable[[Host, Controller], object]
    old: Release | None
    new: Release | None
    commits: bool = True
    status: str = "applied"  # how it ends when nobody kills it
    keys: Release | None = None  # whose stay in force, if not those of the release that is

    @staticmethod
    def epoch(one: Host) -> int:
        """The host's last epoch, whatever its journal has become."""
        lines = one.disk.read_or(journal.PATH).splitlines(keepends=True)
        return max((journal.epoch(journal.parse(line)) for line in lines), default=0)

    def controller(self, hear: Callable[[dict[str, object]], None] = lambda message: None) -> Controller:
        return Controller(self.commits, hear)


def _apply(wanted: Release) -> Callable[[Host, Controller], object]:
    return lambda one, controller: apply(one, wanted, controller)


SCENARIOS = (
    Scenario("first apply", _nothing, _apply(NEW), None, NEW),
    Scenario("apply", _applied(EARLIER, OLD), _apply(NEW), OLD, NEW),
    Scenario("apply over an edit", _edited, _apply(NEW), OLD, NEW),
    Scenario("rollback", _applied(NEW, OLD), lambda one, c: ask(one, c, "rollback"), OLD, NEW, keys=OLD),
    Scenario("revert", _applied(EARLIER, OLD), _apply(BAD), OLD, OLD, status="rolled_back"),
    Scenario("first apply, revert", _failed, _apply(BAD), None, None, status="rolled_back"),
    Scenario("abort", _applied(EARLIER, OLD), _apply(NEW), OLD, OLD, commits=False, status="aborted"),
    Scenario("stuck", _dying, _apply(BAD), OLD, OLD, status="stuck"),
    Scenario("gc", _unneeded, lambda one, c: ask(one, c, "gc"), OLD, OLD, status="ok"),
    Scenario(
        "unreadable journal",
        _garbled,
        lambda one, c: owner.run_recover(one),
        OLD,
        OLD,
        status="stuck",
    ),
)


# --------------------------------------------------------------------------------- what must hold
def in_force(one: Host, wanted: Release | None, keys_of: Release | None = None) -> list[str]:
    """What is wrong with the host if exactly this release is to be in force, with its or another's keys."""
    name, found = one.store.current, []
    if (name.split("-")[0] if name else None) != (wanted.id if wanted else None):
        return [f"current names {name}"]
    if name:
        found += [f"damaged: {path}" for path in one.store.damage(name)]
    found += _wrong_keys(one, keys_of or wanted)
    wish = one.store.links(name)
    there = _links(Path(one.disk.root))
    edit = f"{store.UNITS}/{B}"
    if (Path(one.disk.root) / edit[1:]).is_file() and edit not in there:  # the edited file itself
        wish.pop(edit, None)
    found += [f"link {path} is missing" for path in sorted(wish.keys() - there.keys())]
    found += [f"link {path} is left over" for path in sorted(there.keys() - wish.keys())]
    return found + [
        f"link {p} leads to {there[p]}" for p in wish.keys() & there.keys() if wish[p] != there[p]
    ]


def _wrong_keys(one: Host, wanted: Release | None) -> list[str]:
    place = Path(one.disk.root) / "etc/ogen/keys/api.conf"
    if wanted is None:
        return ["keys are left over"] if place.is_symlink() else []
    text = next(f.content for f in wanted.files if f.path.endswith("/keys.conf"))
    there = place.read_bytes() if place.exists() else b""
    return [] if there == text else [f"the keys in force are {there!r}, not {text!r}"]


def _links(root: Path) -> dict[str, str]:
    """Symlinks outside of /etc/ogen, but for the recovery unit's."""
    return {
        "/" + str(path.relative_to(root)): str(path.readlink())
        for folder in ("etc/systemd", "etc/nginx")
        for path in (root / folder).rglob("*")
        if path.is_symlink() and not path.name.startswith("ogen-recover.service")
    }


def left_over(one: Host, collected: bool) -> list[str]:
    """Files that nobody needs; `collected`: releases too."""
    root = Path(one.disk.root)
    found = [str(path.relative_to(root)) for path in root.rglob("*.new")]
    found += [str(path.relative_to(root)) for path in (root / "etc/ogen/releases").glob(".*")]
    if collected:
        held = {one.store.current, one.store.previous, *keys.releases(one.disk)}
        found += [f"release {name}" for name in one.store.names() if name not in held]
    return [f"left over: {path}" for path in found]


def books(one: Host, before: int, epoch: int = 0) -> list[str]:
    """The journal is at its end, the audit says once what it says; `before`, `epoch`: as they were."""
    records = one.journal.records()
    if not journal.idle(records):
        return [f"the journal ends with {records[-1]['rec']}"]
    found = []
    end = records[-1] if records else {}
    entries = [e for e in transaction.history(one) if e["tx"] == (records[0].get("tx") if records else "")]
    statuses = [entry["status"] for entry in entries]
    how = end.get("how", end.get("rec"))
    wanted = {"applied": "applied", "rolled back": "rolled_back", "STUCK": "stuck"}.get(how)
    if statuses[-1:] != [wanted][: wanted is not None] or len(statuses) != len(set(statuses)):
        found.append(f"the journal says {how}, the audit {statuses}")
    if journal.epoch(records) < epoch:
        found.append(f"the epoch went back from {epoch} to {journal.epoch(records)}")
    if len(transaction.history(one)) < before:
        found.append("the audit has lost lines")
    return found


def edit_is_kept(one: Host) -> list[str]:
    places = (f"etc/systemd/system/{B}", f"etc/ogen/edited/etc/systemd/system/{B}")
    texts = [path.read_text() for path in (Path(one.disk.root) / p for p in places) if path.is_file()]
    return [] if any(text.endswith(EDIT) for text in texts) else ["the edit is lost"]


def runs(one: Host, machine: Systemd) -> list[str]:
    """Exactly the units of the release in force, each from its text."""
    units = one.store.manifest(one.store.current)["units"]
    wish = {u["name"]: u["hash"] for u in units if u["name"] not in machine.dying}
    found = {name: digest for name, digest in machine.running.items() if name not in machine.dying}
    return [] if found == wish else [f"running: {found}, wanted: {wish}"]


def previous(one: Host) -> list[str]:
    name = one.store.previous
    return [] if name is None or name in one.store.names() else [f"previous names {name}, which is not there"]


def next_apply(folder: Path, machine: Systemd | None = None) -> list[str]:
    """By somebody who knows of nothing: compare, then apply; and once more, which changes nothing."""
    changes: list[object] = []
    one = host(folder, changes.append, machine)
    said = apply(one, NEXT)
    if said.get("status") != "applied":
        return [f"the next apply says {said}"]
    found = in_force(one, NEXT) + left_over(one, True) + books(one, 0) + previous(one)
    if alarm.heard(one.disk):
        found.append("the alarm is still heard")
    if machine is not None:
        found += runs(one, machine)
    return [f"after the next apply: {text}" for text in found]
