"""An nginx for one balancer on one host: upstreams, servers, router, keys."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RenderError
from ..inventory.model import Balancer
from ..plan.model import Entry
from ..release.model import BalancerProof, File
from .engine import Engine
from .keys import Reveal, key_lines
from .limits import limits
from .probes import probes
from .upstreams import place, queues, reached, upstream

MARK = "OGEN-RELEASE-HASH"  # replaced by the hash of everything else
KEYS = "/etc/ogen/keys"  # there the host links the keys in force: those of the last apply
ROUTED = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show", "/v1/chat/completions",
          "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")  # fmt: skip
QUEUEING = tuple(path for path in ROUTED if path != "/api/show")  # those that keep a slot busy
#: what Ollama loads the model anew for, or once did (api.Runner); num_ctx is the matter of max_context
RUNNER_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "low_vram", "f16_kv",
                  "logits_all", "vocab_only", "use_mlock", "numa", "num_gqa", "embedding_only")  # fmt: skip
ROUTERS = {"njs": ("router.js.j2", "router.js"), "lua": ("router.lua.j2", "router.conf")}
GATHERED = (("/api/tags", "tags"), ("/api/ps", "ps"), ("/api/version", "version"), ("/v1/models", "models"))
_ERRORS = (
    (400, "400 497", "bad request"),  # 497: plain HTTP where TLS is spoken
    (401, "401", "a valid key is required"),
    (403, "403", "not allowed here"),
    (404, "404", "not found"),
    (405, "405", "method not allowed"),
    (412, "412", "precondition failed"),
    (413, "413", "the request body is too large"),
    (414, "414 494", "the request line or header is too large"),
    (429, "429", "too many requests"),
    (500, "500", "the balancer failed"),
    (501, "501", "not implemented"),
    (502, "502", "no instance answers"),
    (503, "503", "no instance is free"),
    (504, "504", "the instance did not answer in time"),
    (505, "505", "HTTP/1.1 is wanted"),
)
_EARLY = (400, 405, 414, 501, 505)  # found before there is a URI, from which nginx reaches no named location
_METHODS = {
    "round_robin": "",
    "least_conn": "least_conn",
    "ip_hash": "ip_hash",
    "random": "random two least_conn",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A balancer's files and what proves that they are in force."""

    files: tuple[File, ...]
    proof: BalancerProof


def render_balancer(
    engine: Engine, entry: Entry, host: str, reveal: Reveal | None, queue: str = ""
) -> Rendered:
    """The files of `entry` on `host`, without the unit. `reveal` gives the text of secrets, `queue` is the
    socket of the front that takes jobs."""
    balancer = entry.balancer
    own = balancer.into == "own"
    folder = f"/etc/ogen/current/balancers/{balancer.name}"
    config = f"{folder}/nginx.conf" if own else f"/etc/nginx/conf.d/ogen-{balancer.name}.conf"
    if not own and balancer.routing == "by_model":
        raise RenderError(
            "routing by_model loads a module, which a file in conf.d can't",
            where=balancer.where,
            hint="use `into: own`, or routing per_port or single",
        )
    values = {**_values(entry, host, folder), "queue": queue}
    name = "nginx.conf.j2" if own else "nginx-conf.d.conf.j2"
    files = [File(config, engine.render(name, values, balancer.where).encode(), where=balancer.where)]
    if values["router"]:
        template, name = ROUTERS[values["router"]]
        text = engine.render(template, {**values, **_routes(entry, host, values)}, balancer.where)
        files.append(File(f"{folder}/{name}", text.encode(), where=balancer.where))
    if own:
        members = json.dumps(_members(values["pools"], entry, host), indent=1, ensure_ascii=False) + "\n"
        files.append(File(f"{folder}/members.json", members.encode(), where=balancer.where))
    if balancer.keys is not None:
        known = key_lines(balancer.keys, reveal, balancer.admins)
        lines = {"name": balancer.name, "hashed": bool(values["router"]), "keys": known}
        text = engine.render("keys.conf.j2", lines, balancer.where)
        files.append(
            File(f"{folder}/keys.conf", text.encode(), mode=0o600, secret=True, where=balancer.where)
        )
    digest = _digest(files)
    files[0] = File(config, files[0].content.replace(MARK.encode(), digest.encode()), where=balancer.where)
    unit = f"ogen-balancer-{balancer.name}.service" if own else "nginx.service"
    listed = {pool.name: tuple(f"{m.host}/{m.instance}" for m in pool.members) for pool in entry.pools}
    proof = BalancerProof(unit, balancer.name, config, str(values["socket"]), digest, listed)
    return Rendered(tuple(files), proof)


def _members(pools: Sequence[Mapping[str, Any]], entry: Entry, host: str) -> dict[str, Any]:
    """For bin/leases.py: the unit, and the models that each server must have to be sent requests; for
    bin/probe.py: what each server must show."""
    models: dict[str, list[str]] = {}
    for pool in pools:
        for server in pool["servers"]:
            models.setdefault(place(server["address"], server["port"]), []).append(pool["name"])
    if entry.balancer.routing == "single" and entry.balancer.pool is None:
        models = {server: [] for server in models}  # whatever it serves
    return {
        "unit": f"ogen-balancer-{entry.balancer.name}.service",
        "servers": dict(sorted(models.items())),
        "probes": {
            place(reached(m, host), m.port): probes(m.runs)
            for pool in entry.pools
            for m in pool.members
            if m.runs is not None
        },
    }


def _digest(files: Sequence[File]) -> str:
    """16 hex digits over the files, without the line that is to hold them."""
    total = hashlib.sha256()
    for file in files:
        lines = file.content.splitlines(keepends=True)
        total.update(b"".join(line for line in lines if MARK.encode() not in line) + b"\0")
    return total.hexdigest()[:16]


def _values(entry: Entry, host: str, folder: str) -> dict[str, Any]:
    balancer = entry.balancer
    own = balancer.into == "own"
    router = ("lua" if balancer.gate else "njs") if balancer.routing == "by_model" else ""
    ident = "ogen" if own else "ogen_" + re.sub(r"[^a-z0-9]", "_", balancer.name.lower())
    pools = [
        upstream(pool, host, ident if not own else "", bool(balancer.gate))
        for pool in entry.pools
        if pool.members
    ]
    limited = limits(balancer, ident)
    log = [f',"key":"${ident}_key"'] if balancer.keys else []
    log += [f',"model":"${ident}_model","pool":"${ident}_pool"'] if router else []
    log += [f',"waited":${ident}_waited'] if router == "lua" else []
    return {
        "name": balancer.name,
        "host": host,
        "id": ident,
        "own": own,
        "routing": balancer.routing,
        "router": router,
        "run": f"/run/ogen-balancer-{balancer.name}",
        "socket": f"/run/ogen-balancer-{balancer.name}" + ("/release.sock" if own else ".sock"),
        "release": MARK,
        "workers": 1 if balancer.gate else balancer.workers or "auto",
        "access_log": f"/var/log/{'ogen/balancer' if own else 'nginx/ogen'}-{balancer.name}.log",
        "log_extra": "".join(log),
        "keys": ("keys.conf" if own else f"{KEYS}/{balancer.name}.conf") if balancer.keys else "",
        "admins": balancer.admins,
        **limited,
        "strategy": _strategy(balancer, ident),
        "pools": pools,
        "servers": _servers(entry, pools),
        "max_fails": balancer.max_fails,
        "fail_timeout": balancer.fail_timeout,
        "connect_timeout": balancer.connect_timeout,
        "read_timeout": balancer.read_timeout,
        "retry_within": max(balancer.read_timeout - 1, balancer.read_timeout / 2),
        "max_body": balancer.max_body,
        "tls": {"certificate": balancer.tls.certificate, "key": balancer.tls.key} if balancer.tls else None,
        "allow": [_network(text, balancer) for text in balancer.allow],
        "errors": [_error(ident, limited["retry_after"], *error) for error in _ERRORS],
        "routed": ROUTED,
        "queueing": QUEUEING,
        "gathered": GATHERED,
        "paths": sorted((*ROUTED, *(path for path, _ in GATHERED))),
    }


def _error(ident: str, retry_after: int, status: int, codes: str, text: str) -> dict[str, Any]:
    headers = {
        401: "WWW-Authenticate Bearer",
        405: "Allow POST",
        429: f"Retry-After {retry_after}",
        503: "Retry-After 1",
    }
    header = headers.get(status, "")
    text = f"${{{ident}_error}}{text}${{{ident}_end}}"
    place = f"/_ogen/error/{status}" if status in _EARLY else f"@error{status}"
    return {"status": status, "codes": codes, "text": text, "header": header, "place": place}


def _network(text: str, balancer: Balancer) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise RenderError(
            f"{text!r} is not a network", where=balancer.where, hint="like 10.0.0.0/8"
        ) from None


def _strategy(balancer: Balancer, ident: str) -> str:
    """The directive of the upstreams; empty for round robin, which is nginx's own."""
    if balancer.strategy != "hash":
        return _METHODS[balancer.strategy]
    wanted = balancer.hash_key or ""
    if wanted == "api_key" and balancer.keys:
        return f"hash ${ident}_key consistent"
    if wanted.startswith("header:"):
        header = re.sub(r"[^a-z0-9]", "_", wanted[len("header:") :].strip().lower())
        return f"hash $http_{header} consistent"
    return "hash $remote_addr consistent"


def _servers(entry: Entry, pools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One address to listen on for all, or one for each pool."""
    balancer = entry.balancer
    if balancer.routing != "per_port":
        return [
            {"listen": _listen(balancer, balancer.listen), "upstream": pools[0]["upstream"] if pools else ""}
        ]
    return [
        {"listen": _listen(balancer, entry.ports[pool["name"]]), "upstream": pool["upstream"]}
        for pool in pools
    ]


def _listen(balancer: Balancer, port: int) -> str:
    if balancer.address is None:
        return str(port)
    return f"[{balancer.address}]:{port}" if ":" in balancer.address else f"{balancer.address}:{port}"


def _routes(entry: Entry, host: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The router's tables: names to pools, pools to contexts, what clients may ask for, the queues."""
    upstreams = {pool["name"]: pool["upstream"] for pool in values["pools"]}
    options, gate = entry.balancer.client_options, entry.balancer.gate
    return {
        "pool_of": {name: upstreams.get(pool.name) for pool in entry.pools for name in pool.names},
        "pools": [pool["upstream"] for pool in values["pools"]],
        "allowed_options": None if options.allow is None else sorted(options.allow),
        "runner_options": sorted(RUNNER_OPTIONS),
        "max_context": options.max_context,
        "queues": queues(entry, host, values["pools"]),
        "queue": gate.queue if gate else 0,
        "wait": gate.wait if gate else 0,
        "turn": gate.turn if gate else 0,
    }
