"""`ogen trust`: shows the host keys of hosts that are not known yet, and pins them once a person agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ..errors import ConnectError, HostError
from . import console, failure, options, terminal
from .exits import Exit, worst
from .vault import Vault

if TYPE_CHECKING:
    import paramiko

    from ..inventory.model import Host
    from ..push.access import Access, Keyring
    from ..push.ssh import Connection

State = Literal["known", "new", "authority"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A host's key as it shows it now; `line` is what known_hosts would hold."""

    host: str
    name: str
    kind: str
    fingerprint: str
    line: str
    state: State  # authority: a certificate authority vouches for the host, there is nothing to pin
    file: Path  # where it would be pinned
    jump: bool = False  # a jump on the way to the host

    @property
    def label(self) -> str:
        return f"{self.host} (jump)" if self.jump else self.host


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen on the way to one host; `error` ended it, `unseen` is left to look at."""

    seen: tuple[Shown, ...]
    error: HostError | None = None
    unseen: bool = False


@click.command()
@options.inventory
@click.option("--yes", "-y", is_flag=True, help="Pin without asking: for networks that you trust.")
@options.limit
@options.shape("text", "json")
@options.parallel
def command(path: Path, yes: bool, limit: str | None, shape: str, parallel: int) -> Exit:
    """Show host keys, and pin those that are new.

    Compare the fingerprints with what the hosts' consoles show (ssh-keygen -lf on the host). A host
    whose key is known but shows another one is an error, and nothing is overwritten. Jumps come first:
    what lies behind one is looked at through it, once its own key is pinned. Without a terminal
    and without --yes, keys are only shown; exit code 2 says that some are new.
    """
    from ..inventory import load
    from ..push.access import Keyring
    from . import project

    inventory = load(path)
    names = project.limited(inventory, limit)
    hosts = [h for h in inventory.hosts if h.name in names and h.state == "in" and h.connection == "ssh"]
    vault = Vault(inventory.folder)
    console.hide(vault.redact)
    # logins are made at jumps only, and no secret of the inventory is for them
    keyring = Keyring(inventory.folder, reveal=lambda secret: "", ask=terminal.asker(vault))
    told: dict[str, Shown] = {}
    pinned: set[str] = set()
    while True:
        looked = _round(hosts, keyring, parallel)
        fresh = _fresh(looked, told)
        told |= {one.line: one for one in fresh}
        if shape == "text":
            _tell(fresh)
        new = [one for one in fresh if one.state == "new"]
        if not new or not _agreed(len(new), yes):
            break
        _pin(new)
        pinned |= {one.line for one in new}
        if not any(one.unseen for one in looked):
            break
    return _report(looked, tuple(told.values()), pinned, shape)


def _round(hosts: Sequence[Host], keyring: Keyring, parallel: int) -> list[Looked]:
    from ..push.rollout import each

    return each(hosts, lambda host: _look(host, keyring), parallel)


def _fresh(looked: Sequence[Looked], told: dict[str, Shown]) -> list[Shown]:
    """What was not told yet; a jump of many hosts once."""
    seen = {one.line: one for looks in looked for one in looks.seen}
    jumps = [one for one in seen.values() if one.jump]
    return [one for one in (*jumps, *(o for o in seen.values() if not o.jump)) if one.line not in told]


def _report(looked: Sequence[Looked], found: Sequence[Shown], pinned: set[str], shape: str) -> Exit:
    errors = [one.error for one in looked if one.error]
    if shape == "json":
        rows = [_row(one, pinned) for one in found]
        console.document({"hosts": rows, "errors": list(map(failure.as_json, errors))})
    else:
        for error in errors:
            console.tell(failure.as_text(error))
    left = sum(o.state == "new" and o.line not in pinned for o in found)
    if left and shape == "text":
        how = "compare the fingerprints with the hosts' own, then run it at a terminal, or with --yes"
        console.say(f"{console.count(left, 'new key')} not pinned: {how}")
    pending = [Exit.CHANGES] if left else []
    return worst([*(error.exit_code for error in errors), *pending])


# -------------------------------------------------------------------------------------- one host
def _look(host: Host, keyring: Keyring) -> Looked:
    """The keys on the way to a host, held against what is known, as far as the way is open."""
    from ..push import jumps, ssh

    seen: list[Shown] = []
    made = ssh.Connection(host.name)
    try:
        hops = jumps.way(host, keyring)
        for number, hop in enumerate(hops):
            jump = number < len(hops) - 1
            shown = _show(made, hop, jump=jump)
            seen.append(shown)
            if jump and shown.state != "known":
                return Looked(tuple(seen), _closed(shown, hop, host.name), unseen=True)
            if jump:
                ssh.enter(made, hop, keyring)
        return Looked(tuple(seen))
    except HostError as error:
        return Looked(tuple(seen), error)
    finally:
        made.close()


def _show(made: Connection, hop: Access, *, jump: bool) -> Shown:
    """The key that the hop's sshd shows; ConnectError where it contradicts what is known."""
    from ..push import handshakes, known

    if hop.odd:
        hint = f"`ssh {hop.name}` once, and compare there"
        raise ConnectError(f"only OpenSSH's client reaches it: {hop.odd}", host=made.host, hint=hint)
    with handshakes.turn(hop, made.host):
        found = known.look(hop, made.host)
        key = _peek(made, hop, [line.kind for line in found.lines])
    kind, blob = key.get_name(), key.asbytes()
    if found.lines or any(line.key == blob for line in found.revoked):
        found.judge(blob, f"{kind} {key.fingerprint}", made.host)
    state: State = "known" if found.lines else "authority" if found.authorities else "new"
    line = f"{hop.known_as} {kind} {key.get_base64()}"
    name = hop.name if jump else made.host
    return Shown(name, hop.known_as, kind, key.fingerprint, line, state, hop.files[0], jump)


def _peek(made: Connection, hop: Access, kinds: Sequence[str]) -> paramiko.PKey:
    """The key, by a handshake that ends there: the hops before it stay open."""
    from ..push import ssh

    before = len(made.hops)
    try:
        return ssh.knock(made, hop, kinds)
    finally:
        made.cut(before)


def _closed(shown: Shown, hop: Access, host: str) -> ConnectError:
    if shown.state == "authority":
        hint = f"`ssh {hop.name}` once, and compare behind it"
        return ConnectError(f"a certificate authority vouches for the jump {hop.name}", host=host, hint=hint)
    return ConnectError(
        f"it is reached through {hop.name}, whose own key is not pinned yet",
        host=host,
        hint="pin that one first: run this on a terminal, or with --yes",
    )


# -------------------------------------------------------------------------------------- words
def _tell(found: Sequence[Shown]) -> None:
    for one in found:
        console.out(f"{one.label}  {one.name}  {one.kind} {one.fingerprint}  {one.state}")


def _agreed(count: int, yes: bool) -> bool:
    import sys

    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm(f"pin {console.count(count, 'new key')}?", default=False, err=True)


def _pin(new: Sequence[Shown]) -> None:
    for path in dict.fromkeys(one.file for one in new):
        lines = [one.line for one in new if one.file == path]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = path.read_bytes() if path.exists() else b""
        glue = "" if not held or held.endswith(b"\n") else "\n"
        with path.open("a") as stream:
            stream.write(glue + "".join(f"{line}\n" for line in lines))
        if not held:
            path.chmod(0o600)
        console.say(f"pinned {console.count(len(lines), 'key')} in {path}")


def _row(one: Shown, pinned: set[str]) -> dict[str, str | bool]:
    return {
        "host": one.host,
        "jump": one.jump,
        "name": one.name,
        "type": one.kind,
        "fingerprint": one.fingerprint,
        "state": "pinned" if one.line in pinned else one.state,
    }
