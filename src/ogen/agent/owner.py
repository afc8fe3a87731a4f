"""Who owns the commit: a service of its own on a live host, so that losing the session changes nothing.

The session's agent stages, then starts the stored agent with `commit TX` through systemd-run and from
there on only reads the progress file that the service writes. At boot `ogen-recover.service` and at
the next contact any session bring to an end what was left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any, Dict, List, Optional

from . import commit as engine
from . import journal, locks, systemd, transaction
from .errors import AgentError, disk_failed
from .transaction import Host, Locks, Result, Tell

AGENTS = "/etc/ogen/agent"
PROGRESS = "/run/ogen/progress.jsonl"
UNIT = "ogen-tx.service"
ABORTED = {
    "status": "aborted",
    "message": "aborted before the flip, nothing has changed",
    "hint": "apply again",
    "log": [],
}
DISK = 3.0  # seconds until a disk that could not be written is tried again
RECOVER = "/etc/systemd/system/ogen-recover.service"
WANTED = "/etc/systemd/system/basic.target.wants/ogen-recover.service"

_RECOVER_TEXT = """\
# Written by ogen: brings an interrupted apply to its end at boot, before any of its units starts.
[Unit]
Description=ogen: end an interrupted apply
DefaultDependencies=no
RequiresMountsFor=/etc/ogen
After=local-fs.target systemd-journald.socket systemd-tmpfiles-setup.service
Before=basic.target shutdown.target
Conflicts=shutdown.target
ConditionPathExists=/etc/ogen/journal

[Service]
Type=oneshot
ExecStart=/usr/bin/env python3 -I %s recover
TimeoutStartSec=120

[Install]
WantedBy=basic.target
"""


def agent_path(host: Host) -> str:
    return "%s/%s.pyz" % (AGENTS, host.agent)


def keep_agent(host: Host, bundle: bytes) -> None:
    """Stores the running agent, so that the next contact need not send it."""
    if bundle and host.agent and host.disk.read_or(agent_path(host)) != bundle:
        host.disk.folder(AGENTS, 0o755)
        host.disk.replace(agent_path(host), bundle, 0o644)


def arm(host: Host) -> None:
    """The unit that recovers at boot; written when it is not there yet, or names another agent."""
    if not host.live:
        return
    text = (_RECOVER_TEXT % agent_path(host)).encode()
    if host.disk.read_or(RECOVER) != text:
        host.disk.replace(RECOVER, text, 0o644)
    if host.disk.link(WANTED) != "../ogen-recover.service":
        host.disk.folder(WANTED.rsplit("/", 1)[0])
        host.disk.symlink("../ogen-recover.service", WANTED)


# ------------------------------------------------------------------------------- the session's side
def commit(host: Host, tx: str, held: Locks, tell: Tell) -> Result:
    """Hands the transaction to its service, and watches; without systemd it is done right here."""
    if not host.live:
        _deaf()
        return engine.Transaction(host, host.journal.records(), tell).run()
    _forget_progress(host)
    held.journal.drop()  # the service takes it; the session's own lock keeps others out
    done = host.machine.run(command(host, tx))
    if done.code:
        _clear_away(host)
        done = host.machine.run(command(host, tx))
    if done.code:
        held.journal.take({"what": "abort"}, patience=5.0)
        transaction.abort(host, host.journal.records()[0], "systemd-run failed")
        raise AgentError("the commit's service does not start: %s" % done.text.strip())
    return follow(host, tx, tell)


def _clear_away(host: Host) -> None:
    """An earlier run of the service that waits for its disk: what it was to end has been ended since."""
    for verb in (["kill", "-s", "KILL"], ["stop"], ["reset-failed"]):
        host.machine.run(["systemctl", *verb, UNIT])


def command(host: Host, tx: str) -> List[str]:
    """A failure or a kill restarts the service, as often as it takes: it goes on where the journal says."""
    options = ["Type=exec", "Restart=on-failure", "RestartSec=1", "StartLimitIntervalSec=0"]
    options += ["KillMode=mixed", "OOMScoreAdjust=-500"]
    properties = [part for option in options for part in ("-p", option)]
    program = [sys.executable or "/usr/bin/python3", "-I", agent_path(host), "commit", tx]
    return ["systemd-run", "--quiet", "--collect", "--unit=" + UNIT, *properties, "--", *program]


def follow(host: Host, tx: str, tell: Tell) -> Result:
    """The events of a transaction as its service writes them; returns its result."""
    seen, quiet_since = 0, time.monotonic()
    while True:
        lines = _progress(host, tx)
        for line in lines[seen:]:
            if "result" in line:
                return dict(line["result"])
            tell(line["event"], line["text"], line.get("percent"))
            quiet_since = time.monotonic()
        seen = len(lines)
        if time.monotonic() - quiet_since > 3.0 and not _running(host):
            return _ended(host, tx, tell)
        time.sleep(0.03)


def _running(host: Host) -> bool:
    return systemd.states(host.machine, [UNIT])[UNIT].active in ("active", "activating")


def _ended(host: Host, tx: str, tell: Tell) -> Result:
    """The service is gone and left no result: recovery, unless somebody did it meanwhile."""
    lock = locks.Lock(host.disk, locks.JOURNAL)
    lock.take({"what": "recover"}, patience=10.0)
    try:
        result = engine.recover(host, tell)
    finally:
        lock.drop()
    if result is not None and result.get("tx") == tx:
        return result
    for entry in reversed(transaction.history(host)):
        if entry.get("tx") == tx:
            return {**entry, "current": host.store.current, "restarted": [], "log": []}
    return {"tx": tx, **ABORTED}


def _progress(host: Host, tx: str) -> List[Dict[str, Any]]:
    found = []
    for text in host.disk.read_or(PROGRESS).decode("utf-8", "replace").splitlines(keepends=True):
        try:
            line = json.loads(text) if text.endswith("\n") else {}
        except ValueError:
            line = {}
        if line.get("tx") == tx:
            found.append(line)
    return found


def _forget_progress(host: Host) -> None:
    host.disk.folder(os.path.dirname(PROGRESS))
    host.disk.remove(PROGRESS, sync=False)


# ------------------------------------------------------------------------------- the service's side
def run_commit(host: Host, tx: str) -> int:
    """What ogen-tx.service runs: the transaction `tx`, if it is still the one that was prepared."""
    _deaf()
    lock = locks.Lock(host.disk, locks.JOURNAL)
    try:
        lock.take({"what": "commit " + tx}, patience=10.0)
        records = host.journal.records()
        if not records or records[0].get("tx") != tx or journal.idle(records):
            return 0
        result = _carry_out(host, tx, records)
    except OSError as error:
        result = _waiting(tx, disk_failed(error))
    finally:
        lock.drop()
    _write(host, {"tx": tx, "result": result})
    if result["status"] != "waiting":
        return 0
    time.sleep(DISK)
    return 1  # systemd starts the service again


def _carry_out(host: Host, tx: str, records: List[journal.Record]) -> Result:
    tell = _teller(host, tx)
    if records[-1]["rec"] == "PREPARED":
        return engine.Transaction(host, records, tell).run()
    found = engine.recover(host, tell)  # an earlier run of this service was killed
    return found or {"tx": tx, **ABORTED}


def _waiting(tx: str, error: AgentError) -> Result:
    """For a disk that can't be written now: neither forward nor back is possible."""
    message = "%s; the host goes on with this apply by itself as soon as it can" % error.message
    return {"tx": tx, "status": "waiting", "message": message, "hint": error.hint, "log": []}


def run_recover(host: Host) -> int:
    """What ogen-recover.service runs at boot."""
    held = Locks(host)
    held.take({"what": "recovery at boot"}, patience=10.0)
    try:
        result = engine.recover(host, boot=True)
    finally:
        held.drop()
    if result is not None:
        sys.stderr.write("ogen: %s %s\n" % (result["status"], result.get("message", "")))
    return 1 if result is not None and result["status"] == "stuck" else 0


def _teller(host: Host, tx: str) -> Tell:
    def tell(phase: str, text: str, percent: Optional[float] = None) -> None:
        _write(host, {"tx": tx, "event": phase, "text": text, "percent": percent})

    return tell


def _write(host: Host, line: Dict[str, Any]) -> None:
    """Progress is for watchers: losing it changes nothing."""
    try:
        host.disk.folder(os.path.dirname(PROGRESS))
        host.disk.append(PROGRESS, json.dumps(line).encode() + b"\n", sync=False)
    except OSError:
        pass


def _deaf() -> None:
    """From the commit on, a lost session or a polite kill means nothing."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
