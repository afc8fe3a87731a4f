"""Rules for balancers and for the rollout."""

from __future__ import annotations

from typing import Any

from .rules_hosts import PORT, key

Rules = dict[str, Any]

STRATEGIES = ["round_robin", "least_conn", "ip_hash", "hash", "random"]

CLIENT_OPTIONS: Rules = {
    "allow": key(
        "The options that a client may send; default: all but those that reload a model.",
        type="list",
        schema={"type": "string", "check_with": "option"},
    ),
    "max_context": key(
        "The most context that a client may ask for; `plan` (default): it can't choose.",
        type=["integer", "string"],
        min=4,
        max=16_777_216,
        check_with="plan",
    ),
}

GATE: Rules = {
    "queue": key("How many requests may wait for each model.", type="integer", min=0, max=100_000),
    "wait": key("How long one may wait, e.g. 10m.", type="number", form="duration", min=1, max=86_400),
    "turn": key(
        "How long a model that takes turns keeps its instances at least, e.g. 30s; 0s for no such rule.",
        type="number",
        form="duration",
        min=0,
        max=600,
    ),
}

_LIMIT: Rules = {
    "rate": key("Requests per second or minute: 10/s, 30/m.", type="string", form="rate", check_with="rate"),
    "burst": key("Requests that may come at once above the rate.", type="integer", min=0, max=100_000),
    "concurrent": key("Requests under way at once.", type="integer", min=1, max=65_535),
}

LIMITS: Rules = {
    **_LIMIT,
    "keys": key(
        "Other limits for keys of these names.",
        type="dict",
        keysrules={"type": "string", "check_with": "key_name"},
        valuesrules={"type": "dict", "schema": _LIMIT},
    ),
}

TLS: Rules = {
    "certificate": key(
        "The certificate's file on the host.", type="string", required=True, check_with="path"
    ),
    "key": key("The key's file on the host.", type="string", required=True, check_with="path"),
}

BALANCER: Rules = {
    "hosts": key(
        "The hosts that it runs on: names, globs, groups.",
        type="list",
        form="many",
        required=True,
        minlength=1,
        schema={"type": "string", "check_with": "pattern"},
    ),
    "listen": key("Its port.", **PORT),
    "address": key(
        "The address that it listens on; default: all of the host's.", type="string", check_with="ip"
    ),
    "strategy": key("How an instance is chosen for a request.", type="string", allowed=STRATEGIES),
    "hash_key": key("For strategy hash: api_key or header:NAME.", type="string", check_with="hash_key"),
    "routing": key(
        "How a model is found: by the request's `model`, by port, or one pool for all.",
        type="string",
        allowed=["by_model", "per_port", "single"],
    ),
    "ports": key(
        "For routing per_port: the port of each model.",
        type="dict",
        keysrules={"type": "string", "check_with": "name"},
        valuesrules=PORT,
    ),
    "pool": key(
        "For routing single: the one model; default: all instances.", type="string", check_with="name"
    ),
    "max_fails": key(
        "Failures after which an instance is left out for a while.", type="integer", min=0, max=1000
    ),
    "fail_timeout": key(
        "How long it is left out, e.g. 10s.", type="number", form="duration", min=1, max=3600
    ),
    "read_timeout": key(
        "The longest silence of an instance, e.g. 1h.", type="number", form="duration", min=1, max=604_800
    ),
    "connect_timeout": key(
        "How long connecting to an instance may take.", type="number", form="duration", min=0.1, max=75
    ),
    "max_body": key("The largest request, e.g. 64MiB.", type="integer", form="size", min=1024, max=2**40),
    "into": key(
        "`conf.d`: a file inside the machine's own nginx instead of an nginx of ogen's.",
        type="string",
        allowed=["own", "conf.d"],
    ),
    "keys": key("The API keys of clients: !env, !file or !command.", type="secret", form="secret"),
    "admins": key(
        "Names of keys that may also pull, push, create, copy and delete models.",
        type="list",
        form="many",
        schema={"type": "string", "check_with": "key_name"},
    ),
    "limits": key(
        "What each key may ask for, or each address where there are no keys.", type="dict", schema=LIMITS
    ),
    "gate": key(
        "One queue for each model, first come first served; needs nginx's Lua module.",
        type="dict",
        form="gate",
        schema=GATE,
    ),
    "tls": key("Serve HTTPS with this certificate.", type="dict", schema=TLS),
    "allow": key(
        "Networks that may ask, e.g. 10.0.0.0/8; default: all.",
        type="list",
        form="many",
        schema={"type": "string", "check_with": "network"},
    ),
    "client_options": key(
        "What clients may send in `options` (routing by_model).", type="dict", schema=CLIENT_OPTIONS
    ),
    "workers": key("Worker processes of nginx; default: one per core.", type="integer", min=1, max=1024),
}

ROLLOUT: Rules = {
    "batches": key(
        "How many hosts change at once, one batch after another: numbers or parts such as 25%.",
        type="list",
        minlength=1,
        schema={"type": ["integer", "string"], "min": 1, "max": 100_000, "check_with": "batch"},
    ),
    "max_fail": key(
        "How many hosts may fail before the rollout stops: a number or a part such as 10%.",
        type=["integer", "string"],
        min=0,
        max=100_000,
        check_with="share",
    ),
    "downloads": key("How many hosts load models at once; default: 4.", type="integer", min=1, max=100_000),
    "drain_timeout": key(
        "How long requests under way may take before a restart.",
        type="number",
        form="duration",
        min=0,
        max=86400,
    ),
    "allow_outage": key(
        "Whether a restart may leave a pool of several instances without one that serves.", type="boolean"
    ),
    "prove_timeout": key(
        "How long a new release may take to prove itself.", type="number", form="duration", min=1, max=86400
    ),
}
