"""`ogen adopt`: edits of a host become changes of the inventory, for a review."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from . import console, options
from .exits import Exit
from .failure import did_you_mean

if TYPE_CHECKING:
    from ..adopt.batch import Batch
    from ..adopt.search import Found, Wanted
    from ..push import Seen
    from ..release.redaction import Redactor

Refusal = tuple[str, str]  # path, why


@click.command()
@options.inventory
@click.argument("host")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "--dry-run", is_flag=True, help="Write nothing; the patch goes to stdout. Exit code 2: changes."
)
@click.option(
    "--templates",
    is_flag=True,
    help="Take edits of a template's own text too: the project gets a copy of the template.",
)
@options.shape("text", "json")
def command(
    path: Path, host: str, paths: tuple[str, ...], dry_run: bool, templates: bool, shape: str
) -> Exit:
    """Take edits that were made on a host into the inventory.

    HOST is asked for the files that somebody edited (PATH: only these; the file's name will do). ogen
    looks for the values of the inventory that render each edit, proves it by rendering, and changes
    them where they stand: comments, quotes and blanks stay. Nothing is committed or applied.

    What belongs to the host is set for that host alone; what belongs to a model or a balancer changes
    wherever it runs, which is shown. An edit that no setting expresses is refused with its place.

    Exit code 1 says that an edit was refused.
    """
    from ..adopt.batch import adopt
    from ..adopt.project import Project
    from .fleet import fleet

    ready = fleet(path)
    wanted, refused = _edits(ready, host, paths)
    batch = adopt(Project.read(path), wanted, override=templates)
    done = [one for one in batch.found if one.done]
    if not dry_run:
        for file, (_, text) in batch.written().items():
            _write(file, text)
    if shape == "json":
        console.document(_document(host, batch, refused, dry_run))
    else:
        _show(host, batch, refused, ready.vault.redactor(), dry_run)
    if refused or len(done) < len(batch.found):
        return Exit.WRONG
    return Exit.CHANGES if dry_run and done else Exit.DONE


# ----------------------------------------------------------------------------------- what was edited
def _edits(ready: Any, host: str, paths: Sequence[str]) -> tuple[list[Wanted], list[Refusal]]:
    """The edits of `host` that can be looked for, and those of which it is clear that they can't."""
    from . import live
    from .fleet import wish

    known = {one.name: one for one in ready.inventory.hosts}
    if host not in known:
        hint = did_you_mean(host, list(known)) or f"hosts here: {', '.join(list(known)[:12])}"
        raise UsageError(f"there is no host {host!r} in the inventory", hint=hint)
    if known[host].state == "out":
        raise UsageError(f"{host} is out: it is not contacted", where=known[host].where)
    targets = [target for target in wish(ready, host)[1] if target.host.name == host]
    seen = live.seen(ready, targets)[host].files
    edited = [one for one in seen if one.edited or one.state == "foreign"]
    chosen = [one for one in edited if not paths or any(_named(one.path, path) for path in paths)]
    for path in paths:
        if not any(_named(one.path, path) for one in edited):
            listed = ", ".join(one.path for one in edited[:8]) or "nothing"
            raise UsageError(f"{path} is not edited on {host}", hint=f"edited there: {listed}")
    wanted, refused = [], []
    for one in chosen:
        why = _refusal(one)
        if why:
            refused.append((one.path, why))
        elif one.state != "converged":
            wanted.append(_wanted(host, one))
    return wanted, refused


def _named(path: str, name: str) -> bool:
    return path == name or path.endswith("/" + name.lstrip("/"))


def _refusal(one: Seen) -> str:
    """Why an edit can't be taken, whatever it says; empty if it may be."""
    if one.secret:
        return "it holds secrets: change what the inventory's !env, !file or !command gives"
    if one.state == "foreign" and not (".service.d/" in one.path and one.path.startswith("/etc/")):
        return "only drop-ins of one service below /etc can be taken"
    if one.state == "removed_edited":
        return "the inventory has it no more: put back what it belonged to, then adopt"
    if one.state == "converged":
        return ""
    if one.kind is None:
        return "it was removed on the host: take what it belongs to out of the inventory"
    if one.kind != "file" or one.content is None:
        return "it is no file that can be read"
    if one.state == "conflict" and (one.base is None or one.base.content is None):
        return "the inventory has changed too, and what was there before the edit is not known"
    try:
        one.content.decode()
    except UnicodeDecodeError:
        return "it is not text"
    return ""


def _wanted(host: str, one: Seen) -> Wanted:
    from ..adopt.search import Wanted

    text = (one.content or b"").decode()
    if one.state == "foreign":
        unit = one.path.split("/")[-2].removesuffix(".d")
        return Wanted(host, f"/etc/systemd/system/{unit}", text, dropin=one.path)
    base = one.base.content if one.state == "conflict" and one.base else None
    return Wanted(host, one.path, text, base.decode() if base is not None else None)


# ---------------------------------------------------------------------------------------- writing
def _write(file: Path, text: str) -> None:
    """In one step, with the mode that it had."""
    real = file.resolve()
    real.parent.mkdir(exist_ok=True)
    fresh = real.with_name(real.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    if real.exists():
        shutil.copymode(real, fresh)
    fresh.replace(real)


def _patch(batch: Batch) -> Iterator[str]:
    """The project's changes as `git apply` in the project's folder reads them."""
    folder = batch.before.path if batch.before.path.is_dir() else batch.before.path.parent
    from ..release.diff import unified

    for file, (old, new) in batch.written().items():
        name = file.relative_to(folder).as_posix()
        yield f"--- a/{name}" if old else "--- /dev/null"
        yield f"+++ b/{name}"
        yield from unified(old, new, 3)


# ---------------------------------------------------------------------------------------- showing
def _show(host: str, batch: Batch, refused: Sequence[Refusal], redactor: Redactor, dry_run: bool) -> None:
    from ..release import text

    for path, why in refused:
        console.say(f"refused: {path}: {why}")
    for one in batch.found:
        if one.done:
            changes = [*map(str, one.edits), *(f"templates/{name}" for name in one.templates)]
            said = "; ".join(changes) or "the inventory says so already"
            console.say(f"{'would adopt' if dry_run else 'adopted'}: {one.wanted.shown}: {said}")
            _rest(one, redactor)
            if one.wanted.dropin:
                console.say("  the drop-in says the same then: remove it on the host after the apply")
        else:
            _refused(one, redactor)
    if not batch.found and not refused:
        console.say(f"nothing to adopt on {host}")
    if batch.also.changed:
        console.say("with it change, beside these edits:")
        console.tell(text.stat(batch.also).rstrip("\n"))
    patch = list(_patch(batch))
    if patch:
        console.out("\n".join(patch))
    if any(one.done for one in batch.found) and not dry_run:
        console.say("review and commit it; `ogen apply` then takes the edit as its own")


def _refused(one: Found, redactor: Redactor) -> None:
    from ..adopt.overriding import templates

    console.say(f"refused: {one.wanted.shown}: {one.why}")
    names = ", ".join(f"templates/{name}" for name in templates(one.wanted.path))
    places = [f"it is made from {names}" if names else "", f"for {one.where}" if one.where else ""]
    console.say("  " + " ".join(place for place in places if place))
    if one.offer:
        console.say(f"  --templates would take it, with a templates/{one.offer} of the project's own")
    elif one.edits:
        console.say(f"  as far as it goes: {'; '.join(map(str, one.edits))}")
    _rest(one, redactor)


def _rest(one: Found, redactor: Redactor) -> None:
    """What the rendered file and the edit still differ in."""
    from ..adopt import lines
    from ..release.diff import unified

    if one.remaining is None:
        return
    rendered, goal = ("\n".join(lines.split(text)) for text in one.remaining)
    console.say("  the edit differs in:" if one.why else "  all the same, but for the order:")
    for line in unified(rendered, goal, 1):
        console.say("    " + (redactor.suspect(line) if line.startswith("+") else line))


def _document(host: str, batch: Batch, refused: Sequence[Refusal], dry_run: bool) -> dict[str, Any]:
    done = [one for one in batch.found if one.done]
    return {
        "host": host,
        "dry_run": dry_run,
        "adopted": [
            {
                "path": one.wanted.shown,
                "changes": [{"key": ".".join(map(str, edit.key)), "value": edit.value} for edit in one.edits],
                "templates": list(one.templates),
                "exact": one.remaining is None,
            }
            for one in done
        ],
        "refused": [
            *(
                {"path": path, "why": why, "template": None, "file": None, "line": None}
                for path, why in refused
            ),
            *(
                {
                    "path": one.wanted.shown,
                    "why": one.why,
                    "template": one.offer or None,
                    "file": one.where.file if one.where else None,
                    "line": one.where.line if one.where else None,
                }
                for one in batch.found
                if not one.done
            ),
        ],
        "files": [str(file) for file in batch.written()],
        "patch": "".join(line + "\n" for line in _patch(batch)),
        "also": [
            {"host": one.host, "paths": [change.path for change in one.changes]} for one in batch.also.hosts
        ],
        "errors": [],
    }
