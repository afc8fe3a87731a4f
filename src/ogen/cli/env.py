"""`ogen env`: what clients of a balancer put into their environment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import console, options

if TYPE_CHECKING:
    from ..plan.model import Entry, Plan


@click.command()
@options.inventory
@click.argument("balancer", required=False)
@click.option("--shell", type=click.Choice(["sh", "fish"]), default="sh", show_default=True)
@options.shape("text", "json")
def command(path: Path, balancer: str | None, shell: str, shape: str) -> None:
    """Print the environment for clients: OLLAMA_HOST and the like.

    \b
    Use it as:  eval "$(ogen env inventory.yaml)"
    """
    from ..inventory import load
    from ..plan import plan

    planned = plan(load(path))
    entry = entry_of(planned, balancer)
    urls = urls_of(planned, entry)
    if shape == "json":
        keys = entry.balancer.keys is not None
        console.document({"balancer": entry.balancer.name, "urls": urls, "needs_key": keys, "errors": []})
        return
    for pool, url in urls.items():
        if pool:
            console.out(f"# {pool}: {url}")
    first = next(iter(urls.values()))
    values = {"OLLAMA_HOST": first, "OPENAI_BASE_URL": f"{first}/v1"}
    if entry.balancer.keys is None:
        values["OPENAI_API_KEY"] = "ollama"  # clients of the OpenAI interface insist on one
    else:
        console.out("# this balancer asks for a key: set OPENAI_API_KEY to yours")
    for name, value in values.items():
        form = "set -gx {} {}" if shell == "fish" else "export {}={}"
        console.out(form.format(name, shlex.quote(value)))


def entry_of(planned: Plan, balancer: str | None) -> Entry:
    """The balancer of that name; without one, the only one."""
    names = [entry.balancer.name for entry in planned.entries]
    if balancer is None:
        if len(names) == 1:
            return planned.entries[0]
        if not names:
            raise UsageError(
                "the inventory has no balancer", hint="`balancers:` makes one: api: {hosts: [NAME]}"
            )
        raise UsageError("which balancer?", hint="there are " + ", ".join(names))
    if balancer not in names:
        raise UsageError(f"no balancer `{balancer}`", hint="there are " + (", ".join(names) or "none"))
    return planned.entries[names.index(balancer)]


def urls_of(planned: Plan, entry: Entry) -> dict[str, str]:
    """Pool → URL where each has a port of its own; else one URL under ""."""
    balancer = entry.balancer
    if not entry.hosts:
        raise UsageError(f"balancer `{balancer.name}` runs on no host that is in")
    host = balancer.address or planned.inventory.host(entry.hosts[0]).reached_at
    if balancer.address in ("0.0.0.0", "::"):  # noqa: S104 — all addresses: the host's own is one of them
        host = planned.inventory.host(entry.hosts[0]).reached_at
    scheme = "https" if balancer.tls else "http"
    host = f"[{host}]" if ":" in host else host
    ports = dict(entry.ports) if balancer.routing == "per_port" else {"": balancer.listen}
    return {pool: f"{scheme}://{host}:{port}" for pool, port in ports.items()}
