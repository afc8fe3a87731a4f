"""Journals and the balancers' access logs: evidence of a unit's present run, and lines for people."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import threading
import time
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from .errors import AgentError
from .frames import Message
from .machine import ENV, Machine
from .session import Session

Seen = Dict[str, Any]
Line = List[Any]  # [seconds since 1970, text]
HEAD = 400  # lines of a unit's start that are kept whole
TAIL = 50_000  # lines of its run that are searched
KEPT = 2_000  # of these
LAST = 30  # lines of the unit, whichever run
ACCESS = 4 * 1024 * 1024  # bytes of an access log's end
SERVED = 64 * 1024 * 1024  # bytes of it that are counted for a load
ROWS = 2_000  # kinds of lines that are told apart
FAILED = 500  # failed answers of instances that are kept
PATIENCE = 30.0  # seconds for journalctl

#: what a diagnosis reads; all else (a line for each good request) stays on the host
TELLING = re.compile(
    r"inference compute|loading model via|starting (?:llama-server|runner)|offloaded|msg=offload|overflowing"
    r"|buffer size|out of memory|malloc failed|failed to allocate|unable to allocate|Load failed|load failed"
    r"|error loading|process (?:has|no longer) |panic|fatal|signal|evicting|invalid option|deprecated"
    r"|user overrode|level=(?:WARN|ERROR)|\[GIN\].*\| (?:403|5\d\d) \||\[(?:error|crit|alert|emerg|warn)\]"
    r"|runner exited|upstream|started in",
    re.IGNORECASE,
)
_STAMPED = re.compile(r"(\d{9,}\.\d+) \S+ (?:[^\s:]+(?:\[\d+\])?: ?)?(.*)")


def evidence(machine: Machine, unit: str, state: Seen, since: float) -> Seen:
    """`start`: how the present run began; `lines`: what is telling of the last `since` seconds; `last`."""
    run = state.get("invocation")
    chosen = "_SYSTEMD_INVOCATION_ID=%s" % run if run else "_SYSTEMD_UNIT=%s" % unit
    recent = ["--since=@%d" % (time.time() - since), "-n", str(TAIL), chosen]
    start = [one for one in _read([chosen], HEAD) if TELLING.search(one[1])]
    telling = [line for line in _read(recent, TAIL) if TELLING.search(line[1])]
    last = list(_read(["-n", str(LAST), "-u", unit], LAST))
    return {"start": start, "lines": telling[-KEPT:], "last": last}


def _read(arguments: Sequence[str], most: int) -> Iterator[Line]:
    """Up to `most` lines of the journal, oldest first; a journal of years is not read to its end."""
    command = ["journalctl", "--no-pager", "-q", "-o", "short-unix", *arguments]
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=ENV
        )
    except OSError:
        return
    assert process.stdout is not None
    late = threading.Timer(PATIENCE, process.kill)
    late.start()
    stamp = 0.0
    try:
        for number, data in enumerate(process.stdout):
            if number >= most:
                break
            text = data.decode("utf-8", "replace").rstrip("\n")
            found = _STAMPED.match(text)
            if found:
                stamp, text = float(found.group(1)), found.group(2)
            yield [stamp, text.strip() if not found else text]
    finally:
        late.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


# --------------------------------------------------------------------------------- balancers' logs
def access(balancer: str, since: float) -> Seen:
    """Answers by status, and failed tries by upstream, from the end of a balancer's access log."""
    path = next((p for p in _paths(balancer) if os.path.exists(p)), None)
    statuses: Dict[str, int] = {}
    failed: List[List[Any]] = []
    for entry in _entries(path) if path else ():
        when = _when(str(entry.get("time", "")))
        if when is None or when < time.time() - since:
            continue
        status = str(entry.get("status", ""))
        statuses[status] = statuses.get(status, 0) + 1
        for address, answer in tries(entry):
            if answer.startswith("5"):
                failed.append([when, address, answer])
    return {"path": path or "", "statuses": statuses, "failed": failed[-FAILED:]}


def served(balancer: str, mark: Optional[List[int]]) -> Seen:
    """Where a balancer's access log ends now (`mark`), and what came since the mark of an earlier answer.

    `rows`: [client, path, status, upstream that answered, how often]. `whole` is False where the log was
    rotated in between, or so much was logged that its beginning was left out.
    """
    path = next((p for p in _paths(balancer) if os.path.exists(p)), None)
    try:
        with open(path or "", "rb") as file:
            status = os.fstat(file.fileno())
            now = [status.st_ino, status.st_size]
            if mark is None:
                return {"mark": now, "rows": [], "whole": True}
            same = mark[0] == now[0] and mark[1] <= now[1]
            start = max(mark[1] if same else 0, now[1] - SERVED)
            file.seek(start)
            lines = file.read(now[1] - start).splitlines()
    except OSError:
        return {"mark": None, "rows": [], "whole": False}
    counts: Dict[Tuple[str, str, str, str], int] = {}
    for line in lines:
        entry = _entry(line)
        if entry is not None:
            client, uri, answer = (str(entry.get(name, "")) for name in ("client", "uri", "status"))
            row = client, uri, answer, (tries(entry) or [("", "")])[-1][0]
            counts[row] = counts.get(row, 0) + 1
    rows = [[*row, count] for row, count in sorted(counts.items(), key=lambda one: -one[1])[:ROWS]]
    return {"mark": now, "rows": rows, "whole": same and start == mark[1] and len(counts) <= ROWS}


def _paths(balancer: str) -> List[str]:
    return ["/var/log/ogen/balancer-%s.log" % balancer, "/var/log/nginx/ogen-%s.log" % balancer]


def _entries(path: str) -> Iterator[Seen]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - ACCESS))
            data = file.read(ACCESS)
    except OSError:
        return
    for line in data.splitlines():
        entry = _entry(line)
        if entry is not None:
            yield entry


def _entry(line: bytes) -> Optional[Seen]:
    try:
        entry = json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def tries(entry: Seen) -> List[Tuple[str, str]]:
    """nginx writes "a, b" and "502, 200" where a second upstream was tried."""
    split = re.compile(r"\s*[,:]\s+|\s*,\s*")
    addresses = split.split(str(entry.get("upstream", "")))
    answers = split.split(str(entry.get("upstream_status", "")))
    return [(a, s) for a, s in zip(addresses, answers) if a]  # noqa: B905


def _when(text: str) -> Optional[float]:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


# ------------------------------------------------------------------------------------ the operation
def logs(session: Session, message: Message, data: bytes) -> None:
    """The last `lines` of the units of an instance or balancer `name`, or of all: [seconds, who, text]."""
    host = session.host
    if not host.live:
        session.reply(lines=[])
        return
    manifest = host.store.manifest(host.store.current)
    named = {p["instance"]: p["unit"] for p in manifest["instances"]}
    named.update({p["balancer"]: p["unit"] for p in manifest["balancers"]})
    name = message.get("name")
    if name is not None and name not in named:
        raise AgentError(
            "there is no instance or balancer %r here" % name, "there are: %s" % (", ".join(named) or "none")
        )
    wanted = {unit: who for who, unit in named.items() if name in (None, who)}
    session.reply(lines=_lines(host.machine, wanted, int(message["lines"]), message.get("since")))


def _lines(machine: Machine, wanted: Dict[str, str], most: int, since: Optional[float]) -> List[Line]:
    if not wanted:
        return []
    recent = ["--since=@%.3f" % (time.time() - float(since))] if since else []
    fields = "--output-fields=MESSAGE,_SYSTEMD_UNIT,UNIT"
    units = [part for unit in wanted for part in ("-u", unit)]
    command = ["journalctl", "--no-pager", "-q", "-o", "json", fields, "-n", str(most), *recent, *units]
    done = machine.run(command, timeout=PATIENCE)
    if done.code:
        raise AgentError("journalctl failed", log=done.lines[-5:])
    return [line for text in done.lines for line in _plain(text, wanted)]


def _plain(text: str, wanted: Dict[str, str]) -> List[Line]:
    try:
        record = json.loads(text)
    except ValueError:
        return []
    message = record.get("MESSAGE")
    if isinstance(message, list):  # bytes that are no UTF-8
        message = bytes(message).decode("utf-8", "replace")
    unit = record.get("UNIT") or record.get("_SYSTEMD_UNIT") or ""
    stamp = int(record.get("__REALTIME_TIMESTAMP") or 0) / 1e6
    return [[stamp, wanted.get(unit, unit), line] for line in str(message or "").splitlines()]
