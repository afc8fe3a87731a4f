"""Rules for queues: where their jobs are kept, who lets them in, how many and for how long."""

from __future__ import annotations

from typing import Any

from .rules_hosts import PORT, key

Rules = dict[str, Any]

_TLS: Rules = {
    "certificate": key("The certificate's file on Redis' host.", type="string", check_with="path"),
    "key": key("The key's file on Redis' host.", type="string", check_with="path"),
    "ca": key(
        "The file of the authority that signed it, on the hosts that ask; default: the system's authorities.",
        type="string",
        check_with="path",
    ),
}

REDIS: Rules = {
    "host": key("The host that ogen runs a Redis on.", type="string", check_with="name"),
    "port": key("Its port there.", **PORT),
    "secret": key(
        "What its passwords are made of: !env, !file or !command, 16 characters at least.",
        type="secret",
        form="secret",
    ),
    "memory": key(
        "The most memory that it uses, e.g. 256MiB: then jobs are refused.",
        type="integer",
        form="size",
        min=8 * 2**20,
        max=2**40,
    ),
    "tls": key("A must where workers or balancers are on other hosts.", type="dict", schema=_TLS),
    "url": key(
        "A Redis of your own instead, 7.0 or newer, with user and password: !env, !file or !command.",
        type="secret",
        form="secret",
    ),
}

QUEUE: Rules = {
    "redis": key(
        "Where jobs are kept: on a host of the inventory, or at a URL.",
        type="dict",
        required=True,
        schema=REDIS,
    ),
    "balancers": key(
        "The balancers that let jobs in, under /queue/.",
        type="list",
        form="many",
        required=True,
        minlength=1,
        schema={"type": "string", "check_with": "short_name"},
    ),
    "models": key(
        "The models that jobs may ask for; default: all.",
        type="list",
        form="many",
        minlength=1,
        schema={"type": "string", "check_with": "name"},
    ),
    "length": key("How many jobs may wait for each model.", type="integer", min=1, max=1_000_000),
    "tries": key("How often a job is begun before it is a dead letter.", type="integer", min=1, max=100),
    "backoff": key(
        "The pause before the second try, e.g. 2s; each further one is twice as long, 5m at most.",
        type="number",
        form="duration",
        min=0.1,
        max=300,
    ),
    "timeout": key("How long one try may take, e.g. 1h.", type="number", form="duration", min=1, max=86_400),
    "expiry": key(
        "How long results are kept, e.g. 1h.", type="number", form="duration", min=60, max=2_592_000
    ),
    "lease": key(
        "After which silence of a worker its jobs go to another, e.g. 15s.",
        type="number",
        form="duration",
        min=2,
        max=600,
    ),
    "dead_letters": key("How many dead letters of each model are kept.", type="integer", min=1, max=100_000),
    "libraries": key(
        "The folder in the project with the wheels that workers run on; default: wheels.",
        type="string",
        check_with="inside",
    ),
}
