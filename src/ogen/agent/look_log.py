"""Journals: evidence of a unit's present run, and lines for people."""

from __future__ import annotations

import json
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
PATIENCE = 30.0  # seconds for journalctl
QUEUES = ("ogen-queue-redis-", "ogen-queue-front-", "ogen-queue-worker-")

#: what a diagnosis reads; all else (a line for each good request) stays on the host
TELLING = re.compile(
    r"inference compute|loading model via|starting (?:llama-server|runner)|offloaded|msg=offload|overflowing"
    r"|buffer size|out of memory|malloc failed|failed to allocate|unable to allocate|Load failed|load failed"
    r"|error loading|process (?:has|no longer) |panic|fatal|signal|evicting|invalid option|deprecated"
    r"|user overrode|level=(?:WARN|ERROR)|\[GIN\].*\| (?:403|5\d\d) \||\[(?:error|crit|alert|emerg|warn)\]"
    r"|runner exited|upstream|started in|server config| MiB free$|gpu memory|timed out waiting",
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


# ------------------------------------------------------------------------------------ the operation
def logs(session: Session, message: Message, data: bytes) -> None:
    """The last `lines` of an instance, a balancer or a queue `name`, or of all: [seconds, who, text].

    `after`: the `cursor` of an earlier answer; only what came since then.
    """
    host = session.host
    if not host.live:
        session.reply(lines=[], cursor=None)
        return
    wanted = journals(host.store.manifest(host.store.current), message.get("name"))
    after = message.get("after")
    lines, cursor = _lines(host.machine, wanted, int(message["lines"]), message.get("since"), after)
    session.reply(lines=lines, cursor=cursor)


def journals(manifest: Seen, name: Optional[str]) -> Dict[str, str]:
    """Units of the release with what they are called in the logs: all, or those of `name`."""
    named = {p["unit"]: p["instance"] for p in manifest["instances"]}
    named.update({p["unit"]: p["balancer"] for p in manifest["balancers"]})
    mine = {unit for unit, who in named.items() if who == name}
    parts = {
        unit["name"]: unit["name"][len("ogen-") : -len(".service")]
        for unit in manifest["units"]
        if unit["name"].startswith(QUEUES)
    }
    workers = ["worker-%s-%s" % (name, p["instance"]) for p in manifest["instances"]]
    of_queue = {"queue-" + part for part in ("redis-%s" % name, "front-%s" % name, *workers)}
    mine |= {unit for unit, who in parts.items() if who == name or who in of_queue}
    named.update(parts)
    if name is None:
        return named
    if not mine:
        raise AgentError(
            "there is no instance, balancer or queue %r here" % name,
            "there are: %s" % (", ".join(named.values()) or "none"),
        )
    return {unit: named[unit] for unit in mine}


def _lines(
    machine: Machine,
    wanted: Dict[str, str],
    most: int,
    since: Optional[float] = None,
    after: Optional[str] = None,
) -> Tuple[List[Line], Optional[str]]:
    """Lines, and where the journal goes on after them."""
    if not wanted:
        return [], after
    recent = ["--after-cursor=%s" % after] if after else []
    recent += ["--since=@%.3f" % (time.time() - float(since))] if since else []
    fields = "--output-fields=MESSAGE,_SYSTEMD_UNIT,UNIT"
    units = [part for unit in wanted for part in ("-u", unit)]
    command = ["journalctl", "--no-pager", "-q", "-o", "json", fields, "-n", str(most), *recent, *units]
    done = machine.run(command, timeout=PATIENCE)
    if done.code:
        raise AgentError("journalctl failed", log=done.lines[-5:])
    records = [record for record in map(_record, done.lines) if record]
    cursor = records[-1].get("__CURSOR") if records else after
    return [line for record in records for line in _plain(record, wanted)], cursor


def _record(text: str) -> Seen:
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _plain(record: Seen, wanted: Dict[str, str]) -> List[Line]:
    message = record.get("MESSAGE")
    if isinstance(message, list):  # bytes that are no UTF-8
        message = bytes(message).decode("utf-8", "replace")
    unit = record.get("UNIT") or record.get("_SYSTEMD_UNIT") or ""
    stamp = int(record.get("__REALTIME_TIMESTAMP") or 0) / 1e6
    return [[stamp, wanted.get(unit, unit), line] for line in str(message or "").splitlines()]
