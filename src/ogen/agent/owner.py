"""Who owns the commit: a service of its own on a live host, so that losing the session changes nothing.

The session's agent stages, then starts the stored agent with `commit TX` through systemd-run and from
there on only reads the progress file that the service writes. At boot `ogen-recover.service` and at
the next contact any session bring to an end what was left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from . import alarm, journal, leftover, locks, recovery, systemd, transaction
from .commit import Transaction
from .disk import above
from .errors import AgentError, Broken, disk_failed
from .store import AGENTS, RECOVER
from .transaction import Host, Locks, Result, Tell

PROGRESS = "/run/ogen/progress.jsonl"
UNIT = "ogen-tx.service"
WANTED = "/etc/systemd/system/basic.target.wants/ogen-recover.service"

ABORTED = {
    "status": "aborted",
    "message": "aborted before the flip, nothing has changed",
    "hint": "apply again",
    "log": [],
}
QUIET = 3.0  # seconds without a word from the commit's service, before it is asked whether it runs
DISK = 3.0  # seconds until a disk that could not be written is tried again

Ask = Callable[[Dict[str, Any]], None]

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
        host.disk.folder(AGENTS, sync=False)  # the journal's BEGIN syncs the folder above
        host.disk.replace(agent_path(host), bundle, 0o644)


def arm(host: Host) -> None:
    """The unit that recovers at boot; written when it is not there yet, or names another agent."""
    if not host.live:
        return
    text, wants = (_RECOVER_TEXT % agent_path(host)).encode(), above(WANTED)
    written, linked = host.disk.read_or(RECOVER) == text, host.disk.link(WANTED) == "../ogen-recover.service"
    if not written:
        host.disk.replace(RECOVER, text, 0o644, sync=False)
    if not linked:
        host.disk.folder(wants, sync=False)
        host.disk.symlink("../ogen-recover.service", WANTED)
    if not (written and linked):
        host.disk.sync_folder(above(RECOVER))


def disarm(host: Host) -> None:
    """Takes that unit away again."""
    if host.live:
        host.disk.remove(WANTED)
        host.disk.remove(RECOVER)
        host.machine.run(["systemctl", "daemon-reload"])


# ------------------------------------------------------------------------------- the session's side
def commit(host: Host, tx: str, held: Locks, tell: Tell, ask: Ask) -> Result:
    """Hands the transaction to its service, and watches; without systemd it is done right here.

    `ask` takes the service's questions to the controller.
    """
    if not host.live:
        _deaf()
        result = Transaction(host, host.journal.records(), tell).run()
        _collect(host, in_force=result["status"] == "applied")
        return result
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
    return follow(host, tx, tell, ask)


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


def follow(host: Host, tx: str, tell: Tell, ask: Optional[Ask] = None) -> Result:
    """The events of a transaction as its service writes them; returns its result."""
    seen, quiet_since = 0, time.monotonic()
    while True:
        lines = _progress(host, tx)
        for line in lines[seen:]:
            if "result" in line:
                return dict(line["result"])
            if "ask" in line:
                if ask:
                    ask(line)
                quiet_since = time.monotonic()
                continue
            tell(line["event"], line["text"], line.get("percent"))
            quiet_since = time.monotonic()
        seen = len(lines)
        if time.monotonic() - quiet_since > QUIET and not _running(host):
            return _ended(host, tx, tell)
        time.sleep(0.03)


def _running(host: Host) -> bool:
    return systemd.states(host.machine, [UNIT])[UNIT].active in ("active", "activating")


def _ended(host: Host, tx: str, tell: Tell) -> Result:
    """The service is gone and left no result: recovery, unless somebody did it meanwhile."""
    lock = locks.Lock(host.disk, locks.JOURNAL)
    lock.take({"what": "recover"}, patience=10.0)
    try:
        result: Optional[Result] = recovery.recover(host, tell)
    except OSError as error:
        message = "the apply did not come to its end, nor did its recovery: %s" % error
        alarm.sound(host, message, alarm.UNFINISHED)
        return {"tx": tx, "status": "stuck", "message": message, "hint": alarm.UNFINISHED, "log": []}
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
    with contextlib.suppress(OSError):  # who reads it looks for its own transaction
        host.disk.folder(os.path.dirname(PROGRESS), sync=False)
        host.disk.remove(PROGRESS, sync=False)


# ------------------------------------------------------------------------------- the service's side
def run_commit(host: Host, tx: str) -> int:
    """What ogen-tx.service runs: the transaction `tx`, if it is still the one that was prepared."""
    _deaf()
    lock = locks.Lock(host.disk, locks.JOURNAL)
    try:
        lock.take({"what": "commit " + tx}, patience=10.0)
        records = _records(host)
        if records is not None and (journal.idle(records) or records[0].get("tx") != tx):
            return 0
        result = _carry_out(host, tx, records)
        _write(host, {"tx": tx, "result": result})
        _collect(host, in_force=result["status"] == "applied")
    except OSError as error:
        plain = disk_failed(error)
        result = {"tx": tx, "status": "stuck", "message": plain.message, "hint": plain.hint, "disk": True}
        _write(host, {"tx": tx, "result": _waiting(result)})
    finally:
        lock.drop()
    if not result.get("disk"):
        return 0
    time.sleep(DISK)
    return 1  # systemd starts the service again


def _carry_out(host: Host, tx: str, records: Optional[List[journal.Record]]) -> Result:
    tell, say = _teller(host, tx), _sayer(host, tx)
    if records is not None and records[-1]["rec"] == "PREPARED":
        result: Optional[Result] = Transaction(host, records, tell, say=say).run()
    else:  # an earlier run of this service was killed
        result = recovery.recover(host, tell, say=say)
    return _waiting(result) if result else {"tx": tx, **ABORTED}


def _waiting(result: Result) -> Result:
    """Where the disk can't be written now, neither forward nor back is possible: the service tries again."""
    if not result.get("disk"):
        return result
    told = "%s; the host goes on with this apply by itself as soon as it can" % result["message"]
    return {"log": [], **result, "status": "waiting", "message": told}


def _records(host: Host) -> Optional[List[journal.Record]]:
    """None for a journal that can't be read: recovery says so."""
    try:
        return host.journal.records()
    except Broken:
        return None


def _collect(host: Host, in_force: bool = False) -> None:
    """The end of an apply is no worse for a release too many: the next one takes it."""
    try:
        leftover.collect(host)
        if in_force:
            leftover.collect_versions(host)
    except (AgentError, OSError) as error:
        sys.stderr.write("ogen: releases that nobody needs are still there: %s\n" % error)


def run_recover(host: Host) -> int:
    """What ogen-recover.service runs at boot."""
    held = Locks(host)
    held.take({"what": "recovery at boot"}, patience=10.0)
    try:
        result = recovery.recover(host, boot=True)
        _collect(host)
    finally:
        held.drop()
    if result is not None:
        sys.stderr.write("ogen: %s %s\n" % (result["status"], result.get("message", "")))
    return 1 if result is not None and result["status"] == "stuck" else 0


def _teller(host: Host, tx: str) -> Tell:
    def tell(phase: str, text: str, percent: Optional[float] = None) -> None:
        _write(host, {"tx": tx, "event": phase, "text": text, "percent": percent})

    return tell


def _sayer(host: Host, tx: str) -> Ask:
    return lambda line: _write(host, {"tx": tx, **line})


def _write(host: Host, line: Dict[str, Any]) -> None:
    """Progress is for watchers: losing it changes nothing."""
    try:
        host.disk.folder(os.path.dirname(PROGRESS), sync=False)  # /run does not outlive a power cut
        host.disk.append(PROGRESS, json.dumps(line).encode() + b"\n", sync=False)
    except OSError:
        pass


def _deaf() -> None:
    """From the commit on, a lost session or a polite kill means nothing."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
