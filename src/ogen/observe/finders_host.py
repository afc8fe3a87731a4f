"""Findings about a host as a whole: its release, its clock and disk, services and ports of others."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import Where
from .evidence import Deep
from .finding import Case, Finding, gib
from .log_lines import store_of

STOCK = "ollama.service"
MONITOR = "ogen-monitor.service"
CLOCK = 30.0  # seconds: certificates, expiry of leases and merged logs suffer beyond
ROOM = 5 * 2**30  # bytes: less than a small model
INODES = 0.01
_PROGRAM = re.compile(r'\("([^"]+)",pid=(\d+)')


def release(case: Case) -> Iterator[Finding]:
    seen = case.seen
    if seen.current is None and (case.plan.instances or case.plan.entries):
        yield case.finding(
            "no-release", "", "nothing was applied here yet", ["/etc/ogen/current is not there"], "ogen apply"
        )
    if seen.stuck:
        yield case.finding(
            "stuck",
            "",
            "the last apply could be neither proven nor taken back",
            [seen.stuck],
            "mend what it names, then ogen apply; or remove /etc/ogen/stuck when the host is well",
        )
    elif not seen.idle and not seen.locked:
        yield case.finding(
            "unfinished",
            "",
            "a transaction did not come to its end",
            ["/etc/ogen/journal has no last record, and nobody holds the lock"],
            "ogen apply: it recovers first; `journalctl -u ogen-tx` on the host says what happened",
        )
    if seen.comparison.edited:
        shown = ", ".join(seen.comparison.edited[:5])
        yield case.finding(
            "edited",
            "",
            f"edited by hand: {shown}",
            [f"{path} is not what the release in force holds" for path in seen.comparison.edited],
            "ogen diff shows the edit; put it into the inventory, or `ogen apply` takes it back",
        )


def clock(case: Case) -> Iterator[Finding]:
    off, slack = case.seen.offset, case.seen.slack
    if abs(off) - slack > CLOCK:
        way = "ahead of" if off > 0 else "behind"
        yield case.finding(
            "clock",
            "",
            f"the clock is {abs(off):.0f} s {way} this machine's",
            [f"difference {off:+.1f} s, measured within {slack:.1f} s"],
            "timedatectl set-ntp true on the host; check that it reaches a time server",
        )


def disk(case: Case) -> Iterator[Finding]:
    found = case.seen.deep.disk if case.seen.deep else None
    if found is None:
        return
    if not found.there:
        yield case.finding(
            "store-missing",
            "",
            f"the folder of models {found.folder} is not there",
            [f"{found.folder}: no such folder"],
            "mount it, or set ollama.models_dir; `ogen provision` makes it",
            case.setting("ollama", "models_dir"),
        )
    elif found.free < min(ROOM, found.total // 10) or found.inodes_free < found.inodes * INODES:
        yield case.finding(
            "disk-low",
            "",
            f"{gib(found.free)} of {gib(found.total)} are free in {found.folder}",
            [f"{found.folder}: {found.free} bytes, {found.inodes_free} of {found.inodes} inodes free"],
            "remove models that nobody uses, or set ollama.models_dir to a larger disk",
            case.setting("ollama", "models_dir"),
        )


def blobs(case: Case) -> Iterator[Finding]:
    deep = case.seen.deep or Deep()
    away = {blob for held in deep.elsewhere.values() for blob in held}  # told by `store`
    lacking = [one for one in deep.lacking if one[2] not in away and not deep.unmounted]
    for name, model in sorted({(name, model) for name, model, _ in lacking}):
        files = [blob for n, m, blob in lacking if (n, m) == (name, model)]
        yield case.finding(
            "blobs-missing",
            name,
            f"the files of {model} are not in the store: it can't be loaded again",
            [f"missing: {blob}" for blob in files],
            "ogen apply pulls them again; look for who cleans up the models' folder",
            case.place(name),
        )


def store(case: Case) -> Iterator[Finding]:
    """The models are somewhere else than the inventory and the units say."""
    deep = case.seen.deep or Deep()
    folder = deep.disk.folder if deep.disk else ""
    if deep.unmounted:
        yield case.finding(
            "wrong-store",
            "",
            f"{folder} is on the wrong disk: {deep.unmounted} is not mounted",
            [f"/etc/fstab names {deep.unmounted}, /proc/mounts does not"],
            f"mount {deep.unmounted} on the host, then ogen apply",
            case.setting("ollama", "models_dir"),
        )
    for other, held in deep.elsewhere.items():
        models = sorted({model for _, model, blob in deep.lacking if blob in held})
        yield case.finding(
            "wrong-store",
            "",
            f"the files of {', '.join(models)} are in {other}, not in {folder}",
            [f"{other}/blobs/{blob}" for blob in held],
            "set models_dir to that folder, or move its files; `ogen apply` pulls them once more",
            *case.set(other, "ollama", "models_dir"),
        )
    for instance in case.seen.instances:
        told = store_of(case.log(instance.unit).start)
        if told and told != f"/run/ogen-{instance.name}/models":
            yield case.finding(
                "wrong-store",
                instance.name,
                f"it looks for models in {told}, not in the view of its release",
                [f'msg="server config" OLLAMA_MODELS:{told}'],
                f"`systemctl cat {instance.unit}` shows what sets OLLAMA_MODELS: remove that; ogen apply",
                case.place(instance.name),
            )


def services(case: Case) -> Iterator[Finding]:
    own = {i.unit for i in case.seen.instances} | {b.unit for b in case.seen.balancers} | {STOCK}
    for name, unit in case.seen.units.items():
        bad = unit.active == "failed" or unit.sub == "auto-restart" or (name == MONITOR and not unit.up)
        if bad and name not in own:
            yield case.finding(
                "service-down",
                "",
                f"{name} is {unit.active}",
                [f"systemctl show: {unit.active} ({unit.sub}), result {unit.result}"],
                f"journalctl -u {name}; systemctl restart {name}",
            )


def stock(case: Case) -> Iterator[Finding]:
    """The packaged service takes port 11434 and sees every card."""
    unit = case.unit(STOCK)
    if unit.up and case.seen.instances:
        yield case.finding(
            "stock-service",
            "",
            "the stock ollama.service runs beside ogen's instances: it sees every card and wants port 11434",
            [f"ollama.service is {unit.active} ({unit.sub}), {unit.enabled}"],
            "systemctl disable --now ollama.service on the host",
        )


def servers(case: Case) -> Iterator[Finding]:
    """Somebody's own `ollama serve`, as articles tell to start one for each card."""
    for server in case.seen.deep.servers if case.seen.deep else ():
        if server.unit == STOCK or not case.seen.instances:
            continue
        env = ", ".join(f"{name}={value}" for name, value in server.env.items())
        sees = "" if server.env.get("CUDA_VISIBLE_DEVICES") else ": it sees every card"
        who = f"pid {server.pid}, {server.unit or 'no unit'}"
        yield case.finding(
            "other-ollama",
            "",
            f"another Ollama serves on port {server.port} ({who}){sees}",
            [f"pid {server.pid} listens on port {server.port}; {env or 'no setting of Ollama'}"],
            f"kill {server.pid}, and take out what starts it (crontab, rc.local, a shell)",
        )


def ports(case: Case) -> Iterator[Finding]:
    for instance in case.seen.instances:
        if case.unit(instance.unit).up:
            continue
        for line in case.seen.deep.listeners if case.seen.deep else ():
            words = line.split()
            if len(words) > 3 and words[3].endswith(f":{instance.port}"):
                who = _PROGRAM.search(line)
                by = f"{who[1]} (pid {who[2]})" if who else "another program"
                yield case.finding(
                    "port-taken",
                    instance.name,
                    f"port {instance.port} is held by {by}, {instance.unit} can't have it",
                    [line],
                    f"stop that program, or set another port under `instances:` of {case.seen.host}",
                    _port_place(case, instance.name),
                )
                break


def _port_place(case: Case, name: str) -> Where | None:
    planned = case.instance(name)
    if planned and planned.where in [pin.where for pin in case.plan.host.pins]:
        return case.places.under(planned.where, "port")
    return case.setting("ollama", "first_port")


def dropins(case: Case) -> Iterator[Finding]:
    """Somebody's settings over those of a unit; whom an instance lets in is told by `admission`."""
    for one in case.seen.comparison.files:
        unit = one.path.split("/")[-2].removesuffix(".d") if one.path.count("/") > 1 else ""
        if one.state == "foreign" and unit not in case.seen.comparison.admission:
            yield case.finding(
                "drop-in",
                "",
                f"{one.path} changes {unit}",
                [f"{one.path} is not of the release; apply leaves it"],
                "put what it sets into the inventory (`env`), and remove it; or, if it is to stay, a line"
                f" `# ogen: keep` into it; systemctl cat {unit}",
                case.setting("env"),
            )


FINDERS = (release, clock, disk, store, blobs, services, stock, servers, ports, dropins)
