"""Where `ogen bench` sends its requests, and which hosts it looks at meanwhile."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import console
from .env import entry_of, urls_of
from .vault import Vault

if TYPE_CHECKING:
    from ..inventory.model import Host
    from ..observe.bench_link import Target
    from ..plan.model import Entry, Plan, Pool
    from ..push import Options

KEY = "OGEN_KEY"


@dataclass(frozen=True, slots=True)
class Place:
    """The target, the model, how many instances serve it; hosts where they may be looked at."""

    target: Target
    url: str
    model: str
    instances: int = 1
    plan: Plan | None = None
    balancer: str = ""
    edges: Sequence[Host] = ()
    nodes: Sequence[Host] = ()
    options: Options | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says of it."""

    path: Path | None
    balancer: str | None
    url: str | None
    model: str | None
    key: str | None  # the name of one in the inventory
    hosts: bool
    parallel: int


def place(wanted: Wanted) -> Place:
    """Contacts no host; reads secrets where hosts are to be contacted, or a key of the inventory is meant."""
    from ..observe.bench_link import Target

    if wanted.path is None:
        return _elsewhere(wanted)
    planned, vault, options = _loaded(wanted)
    entry = entry_of(planned, wanted.balancer)
    key = _key(vault, wanted, entry)
    model, pool = _model(entry, wanted.model)
    urls = {} if wanted.url else urls_of(planned, entry)
    url = wanted.url or urls.get(pool.name) or next(iter(urls.values()))
    names = {member.host for member in pool.members}
    hosts = [h.host for h in planned.hosts]
    return Place(
        Target.of(url, key),
        url,
        model,
        sum(not member.backup for member in pool.members),
        planned if options else None,
        entry.balancer.name,
        [host for host in hosts if host.name in entry.hosts],
        [host for host in hosts if host.name in names and host.gpus],
        options,
    )


def _elsewhere(wanted: Wanted) -> Place:
    """A URL alone."""
    from ..observe.bench_link import Target

    if wanted.url is None:
        raise UsageError("INVENTORY or --url is missing: where is the balancer?")
    if wanted.model is None:
        raise UsageError("--model is missing", hint="`curl URL/api/tags` lists the models there")
    if wanted.key or wanted.balancer:
        raise UsageError("--key and --balancer name parts of an INVENTORY", hint=f"set {KEY} to your key")
    vault = Vault("")
    console.hide(vault.redact)
    return Place(Target.of(wanted.url, _from_environment(vault)), wanted.url, wanted.model)


def _loaded(wanted: Wanted) -> tuple[Plan, Vault, Options | None]:
    from ..inventory import load
    from ..plan import plan
    from . import fleet

    assert wanted.path is not None
    if wanted.hosts:
        ready = fleet.fleet(wanted.path, wanted.parallel, what="bench")
        return fleet.planned(ready), ready.vault, ready.options
    inventory = load(wanted.path)
    vault = Vault(inventory.folder)
    console.hide(vault.redact)
    return plan(inventory), vault, None


def _model(entry: Entry, asked: str | None) -> tuple[str, Pool]:
    """The model's name as clients say it, and its pool."""
    from ..plan.pools import names_of
    from .failure import did_you_mean

    known: dict[str, Pool] = {}
    for pool in entry.pools:
        models = [p.model for m in pool.members if m.runs for p in m.runs.placements]
        names = pool.names or [name for model in models for name in names_of(model)]
        known |= {name: pool for name in names if name not in known}
    if asked is not None:
        if asked not in known:
            hint = did_you_mean(asked, list(known)) or "there are " + ", ".join(known)
            raise UsageError(f"balancer `{entry.balancer.name}` has no model `{asked}`", hint=hint)
        return asked, known[asked]
    if len(entry.pools) != 1:
        names = [pool.name for pool in entry.pools]
        raise UsageError("which model?", hint=f"--model: there are {', '.join(names) or 'none'}")
    return next(iter(known), entry.pools[0].name), entry.pools[0]


def _key(vault: Vault, wanted: Wanted, entry: Entry) -> str:
    secret = entry.balancer.keys
    if wanted.key is None:
        key = _from_environment(vault)
        if secret is not None and not key:
            hint = f"set {KEY} to a key, or say --key NAME for one of the inventory"
            raise UsageError(f"balancer `{entry.balancer.name}` asks for a key", hint=hint)
        return key
    if secret is None:
        hint = "leave --key out: it lets in whoever reaches it"
        raise UsageError(
            f"balancer `{entry.balancer.name}` has no keys", where=entry.balancer.where, hint=hint
        )
    from ..render.keys import key_lines

    found = {line["name"]: line["secret"] for line in key_lines(secret, vault)}
    for text in found.values():
        vault.hide(text)
    if wanted.key not in found:
        raise UsageError(f"there is no key `{wanted.key}`", hint="there are " + ", ".join(found))
    return found[wanted.key]


def _from_environment(vault: Vault) -> str:
    key = os.environ.get(KEY, "")
    if not key:
        return ""
    vault.hide(key)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{KEY} holds what can't be in a header: spaces, or other than ASCII")
    return key
