"""What brings an interrupted transaction to its end: at boot, at the restart of its service, at the next
contact. One function; docs/transaction.md holds its table.

BEGIN, PREPARED          FLIP … RELOADED               PROVEN              END
abort: nothing changed   forward once, else back       forward to END      nothing to do

It removes no release: whoever asked for an apply has counted on the contents that are on the host.
"""

from __future__ import annotations

from typing import List, Optional

from . import alarm, keys, leftover, links
from .commit import Transaction
from .errors import AgentError
from .gate import Say
from .journal import Record, idle
from .transaction import Host, Result, Tell, abort, flip, quiet


def recover(
    host: Host, tell: Tell = quiet, boot: bool = False, say: Optional[Say] = None
) -> Optional[Result]:
    """Brings an unfinished transaction to its end; None if there is none. Both locks must be held.

    `say` reaches a controller that watches: without one, no instance that serves is restarted."""
    leftover.sweep(host)
    try:
        records = host.journal.records()
        if idle(records):
            return None
        host.journal.settle()
        how = outcome(records, host.store.current, host.machine.boot())
        tell("recover", "an earlier apply did not end: " + how, None)
        if how == "abort":
            abort(host, records[0], "recovered")
            return None
        transaction = Transaction(host, records, tell, quick=boot, say=say)
    except AgentError as error:  # the journal, or a release that it names, can't be read
        return _unreadable(host, error)
    if how == "finish":
        keys.take(host.disk, records[0])
        for after_flip in (False, True):  # a way back that failed may have begun with them
            links.add_links(host.disk, records[0]["add"], after_flip)
        return transaction.finish()
    if how == "forward":
        transaction.record("AGAIN")
        return transaction.run()
    why = next((str(r["why"]) for r in records if r["rec"] == "REVERTING"), "the apply was interrupted")
    return transaction.back(AgentError(why, "apply again"))


def outcome(records: List[Record], current: Optional[str], boot: str) -> str:
    """What recovery does: abort, forward, back or finish; pure, see the table in the module's head."""
    first, seen = records[0], [r["rec"] for r in records]
    flipped = "FLIP" in seen and (current == first["to"])
    if "REVERTING" in seen or ("PROVEN" in seen and not flipped):  # the way back could not be recorded
        return "back"
    if "PROVEN" in seen:
        return "finish"
    if not flipped:
        return "abort"
    same_boot = first["boot"] == boot
    return "forward" if same_boot and "AGAIN" not in seen else "back"


def _unreadable(host: Host, error: AgentError) -> Result:
    """Nobody knows what happened. In force stays, or comes, a release that is what its manifest says;
    the next apply starts from it."""
    name = next((n for n in (host.store.current, host.store.previous) if _whole(host, n)), None)
    if name is not None:
        if name != host.store.current:
            flip(host, name)
        links.settle(host.disk, host.store.links(name))
    message = "%s; in force is %s" % (error.message, name or "%s, damaged" % host.store.current)
    hint = error.hint or "apply again: it starts from the release in force"
    alarm.sound(host, message, hint)
    host.journal.give_up(message)
    return {"status": "stuck", "message": message, "hint": hint, "log": []}


def _whole(host: Host, name: Optional[str]) -> bool:
    try:
        return name is not None and not host.store.damage(name)
    except AgentError:
        return False
