"""`ogen trust`: shows the host keys of hosts that are not known yet, and pins them once a person agrees."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ..errors import ConnectError, HostError
from . import console, failure, options
from .exits import Exit, worst

if TYPE_CHECKING:
    import paramiko

    from ..inventory.model import Host
    from ..push.access import Access, Keyring


@dataclass(frozen=True, slots=True)
class Shown:
    """A host's key as it shows it now; `line` is what known_hosts would hold."""

    host: str
    name: str
    kind: str
    fingerprint: str
    line: str
    state: Literal["known", "new"]


@click.command()
@options.inventory
@click.option("--yes", "-y", is_flag=True, help="Pin without asking: for networks that you trust.")
@options.limit
@options.shape("text", "json")
@options.parallel
def command(path: Path, yes: bool, limit: str | None, shape: str, parallel: int) -> Exit:
    """Show host keys, and pin those that are new.

    Compare the fingerprints with what the hosts' consoles show (ssh-keygen -lf on the host). A host
    whose key is known but shows another one is an error, and nothing is overwritten. Without a terminal
    and without --yes, keys are only shown; exit code 2 says that some are new.
    """
    from ..inventory import load
    from ..push.access import Keyring
    from ..push.rollout import each
    from . import project

    inventory = load(path)
    names = project.limited(inventory, limit)
    keyring = Keyring(inventory.folder, reveal=lambda secret: "")  # no login is made
    hosts = [h for h in inventory.hosts if h.name in names and h.state == "in" and h.connection == "ssh"]
    answers = each(hosts, lambda host: _look(host, keyring), parallel)
    errors = [answer for answer in answers if isinstance(answer, HostError)]
    found = [answer for answer in answers if isinstance(answer, Shown)]
    new = [one for one in found if one.state == "new"]
    if shape == "text":
        _tell(found, errors)
    pinned = bool(new) and _agreed(len(new), yes)
    if pinned:
        _pin(keyring.files()[0], new)
    if shape == "json":
        console.document(
            {"hosts": [_row(one, pinned) for one in found], "errors": list(map(failure.as_json, errors))}
        )
    pending = [Exit.CHANGES] if new and not pinned else []
    return worst([*(error.exit_code for error in errors), *pending])


def _look(host: Host, keyring: Keyring) -> Shown | HostError:
    """The key that the host shows, held against what is known. ConnectError where they contradict."""
    from ..push import access, known

    try:
        where = access.resolve(host, keyring)
        key = _fetch(host, where)
        kind, blob = key.get_name(), key.asbytes()
        told = f"{kind} {key.fingerprint}"
        revoked = _revoked(keyring.files(), where, blob)
        if revoked:
            raise ConnectError(f"{revoked} revokes the key that the host shows: {told}", host=host.name)
        try:
            expected = known.lines(where, keyring.files(), host.name)
        except ConnectError:
            expected = ()
        others = [line for line in expected if line.kind == kind]
        if others and all(line.key != blob for line in others):
            raise ConnectError(
                f"the host shows another key than {others[0].place}: {told}",
                host=host.name,
                hint="if it was installed anew, remove that line; if not, somebody stands in between",
            )
        line = f"{where.known_as} {kind} {key.get_base64()}"
        return Shown(host.name, where.known_as, kind, key.fingerprint, line, "known" if expected else "new")
    except HostError as error:
        return error


def _revoked(files: Sequence[Path], where: Access, blob: bytes) -> str | None:
    """The place of the line that revokes this key, if there is one."""
    from ..push import known

    there = (path for path in files if path.is_file())
    lines = (line for path in there for line in known.parse(path.read_text("utf-8", "replace"), str(path)))
    found = (n.place for n in lines if n.marker == "@revoked" and n.key == blob and n.matches(where.known_as))
    return next(found, None)


def _fetch(host: Host, where: Access) -> paramiko.PKey:
    import paramiko

    if where.jump:
        raise ConnectError(
            f"it is reached through {where.jump}",
            host=host.name,
            hint=f"`ssh {host.address}` once, and compare there",
        )
    try:
        with socket.create_connection((where.address, where.port), where.timeout) as sock:
            transport = paramiko.Transport(sock)
            try:
                transport.start_client(timeout=where.timeout)
                return transport.get_remote_server_key()
            finally:
                transport.close()
    except (OSError, EOFError, paramiko.SSHException) as error:
        why = getattr(error, "strerror", None) or str(error) or "no answer"
        raise ConnectError(f"{where.address}:{where.port}: {why.lower()}", host=host.name) from None


def _tell(found: Sequence[Shown], errors: Sequence[HostError]) -> None:
    for error in errors:
        console.tell(failure.as_text(error))
    for one in found:
        console.out(f"{one.host}  {one.name}  {one.kind} {one.fingerprint}  {one.state}")


def _agreed(count: int, yes: bool) -> bool:
    import sys

    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm(f"pin {console.count(count, 'new key')}?", default=False, err=True)


def _pin(path: Path, new: Sequence[Shown]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = path.read_bytes() if path.exists() else b""
    glue = "" if not held or held.endswith(b"\n") else "\n"
    with path.open("a") as stream:
        stream.write(glue + "".join(f"{line}\n" for line in dict.fromkeys(one.line for one in new)))
    if not held:
        path.chmod(0o600)
    console.say(f"pinned {console.count(len(new), 'key')} in {path}")


def _row(one: Shown, pinned: bool) -> dict[str, str]:
    state = "pinned" if pinned and one.state == "new" else one.state
    return {
        "host": one.host,
        "name": one.name,
        "type": one.kind,
        "fingerprint": one.fingerprint,
        "state": state,
    }
