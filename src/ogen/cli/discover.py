"""`ogen discover`: what real boxes are, as a piece of inventory."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import CatalogError, HostError, UsageError
from . import console, failure, options, terminal
from .exits import Exit, worst
from .vault import Vault

if TYPE_CHECKING:
    from ..inventory.model import Host

_NAME = re.compile(
    r"(?:(?P<user>[A-Za-z0-9._-]+)@)?(?P<address>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(?::(?P<port>\d+))?"
)
_MODULES = {"ngx_http_js_module.so": "routing by_model", "ngx_http_lua_module.so": "gate"}


@click.command()
@click.argument("names", metavar="HOST...", nargs=-1)
@click.option("--local", is_flag=True, help="This machine, without SSH.")
@click.option("--user", metavar="NAME", help="Who logs in; else as your ssh_config says.")
@click.option("--key", metavar="FILE", help="The private key; else as your ssh_config says.")
@options.shape("text", "json")
@options.parallel
def command(
    names: tuple[str, ...], local: bool, user: str | None, key: str | None, shape: str, parallel: int
) -> Exit:
    """Read the cards and versions of hosts: a piece of inventory.

    HOST is [user@]address[:port]. Needs sshd and python3 there, and no root; changes nothing.
    """
    from .. import push

    hosts = [_host(name, user, key) for name in names] + ([_here()] if local else [])
    if not hosts:
        raise UsageError("which hosts?", hint="ogen discover 192.0.2.11 192.0.2.12, or --local")
    vault = Vault(".")
    console.hide(vault.redact)
    keyring = push.Keyring(ask=terminal.asker(vault))
    answers = push.hello(hosts, push.Options(keyring, parallel))
    errors = [answer for answer in answers.values() if isinstance(answer, HostError)]
    pairs = [(host, answers[host.name]) for host in hosts]
    found = [(host, facts) for host, facts in pairs if not isinstance(facts, HostError)]
    if shape == "json":
        rows = [{"host": host.name, "address": host.address, **facts} for host, facts in found]
        console.document({"hosts": rows, "errors": [failure.as_json(error) for error in errors]})
    else:
        for error in errors:
            console.tell(failure.as_text(error))
        if found:
            console.out("hosts:")
        for host, facts in found:
            console.out(snippet(host, facts))
    return worst(error.exit_code for error in errors)


def _host(name: str, user: str | None, key: str | None) -> Host:
    from ..inventory.model import Host, Ssh

    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"not a host: {name}", hint="[user@]address[:port]")
    port = int(match["port"]) if match["port"] else None
    return Host(name, match["address"].strip("[]"), ssh=Ssh(user=match["user"] or user, port=port, key=key))


def _here() -> Host:
    from ..inventory.model import Host

    return Host("localhost", "127.0.0.1", connection="local")


def snippet(host: Host, facts: Mapping[str, Any]) -> str:
    """YAML for one host; names and versions are the host's words, so they are reduced to safe ones."""
    name = re.sub(r"[^a-z0-9-]", "-", str(facts.get("hostname", "")).split(".")[0].lower()).strip("-")
    lines = [f"  {name or 'host'}:"]
    about = [f"Ollama {facts.get('ollama') or 'not installed'}"]
    about += [f"driver {driver}" for driver in sorted({str(g.get("driver")) for g in facts.get("gpus", ())})]
    about.append(_nginx(_mapping(facts.get("nginx"))))
    lines.append("    # " + console.safe(", ".join(about)).replace("\n", " "))
    lines.append(f"    address: {host.address}")
    if host.connection == "local":
        lines.append("    connection: local")
    ssh = [f"{k}: {v}" for k, v in (("user", host.ssh.user), ("port", host.ssh.port)) if v]
    if ssh and host.ssh.user != getpass.getuser():
        lines.append(f"    ssh: {{{', '.join(ssh)}}}")
    version = re.fullmatch(r"\d[\w.+-]*", str(facts.get("ollama") or ""))
    if version:
        lines.append(f"    ollama: {{version: {version[0]}}}")
    if facts.get("gpus"):
        lines.append("    gpus:")
        lines += [f"      - {{{_card(gpu)}}}" for gpu in facts["gpus"]]
    return "\n".join(lines)


def _nginx(facts: Mapping[str, Any]) -> str:
    """Its version, and what of a balancer it can do with the modules that it has."""
    if not facts.get("version"):
        return "nginx not installed"
    can = [word for module, word in _MODULES.items() if module in facts.get("modules", ())]
    return f"nginx {facts['version']} ({', '.join(can) or 'neither routing by_model nor a gate'})"


def _card(gpu: Mapping[str, Any]) -> str:
    from ..catalog import find_gpu

    told = re.sub(r"[^\w ()./+-]", "", str(gpu.get("name", "")))
    uuid = re.sub(r"[^\w-]", "", str(gpu.get("uuid", "")))
    try:
        model, vram = find_gpu(told).name, ""
    except CatalogError:
        model, vram = told, f", vram: {int(gpu.get('memory', 0)) >> 20}MiB"
    return f"model: {model}{vram}" + (f", uuid: {uuid}" if uuid else "")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
