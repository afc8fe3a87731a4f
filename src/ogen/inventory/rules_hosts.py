"""Rules for hosts and groups: how they are reached, their cards, their Ollama servers."""

from __future__ import annotations

from typing import Any

Rules = dict[str, Any]


def key(description: str, *, form: str | None = None, empty: bool = False, **rules: Any) -> Rules:
    """One key's rules; `form` and `empty` are kept in cerberus' `meta`."""
    meta: Rules = {"description": description}
    if form:
        meta["form"] = form
    if empty:
        meta["empty"] = True
    return {**rules, "meta": meta}


PORT: Rules = {"type": "integer", "min": 1, "max": 65535}

ENV: Rules = {
    "keysrules": {"type": "string", "check_with": "env_name"},
    "valuesrules": {"type": "string", "check_with": "text", "meta": {"form": "text"}},
}

SSH: Rules = {
    "user": key(
        "The account to log in as; default: what ssh_config says.", type="string", check_with="account"
    ),
    "port": key("The port of sshd; default: what ssh_config says, else 22.", **PORT),
    "key": key(
        "The private key's file, relative to the inventory's folder.", type="string", check_with="key_path"
    ),
    "password": key(
        "The login's password: !env, !file or !command; else asked for at a terminal.",
        type="secret",
        form="secret",
    ),
    "become": key("Become root with sudo after the login.", type="boolean"),
    "become_password": key(
        "The password for sudo: !env, !file or !command; else asked for at a terminal.",
        type="secret",
        form="secret",
    ),
    "proxy_jump": key(
        "The hosts to jump over, as in ssh_config: a, user@b:port; none for none.",
        type="string",
        check_with="jump",
    ),
    "host_key": key(
        "The host's public key, pinned here instead of in known_hosts.", type="string", check_with="host_key"
    ),
    "connect_timeout": key(
        "How long a connection may take, e.g. 10s.", type="number", form="duration", min=0.1, max=600
    ),
}

KV_CACHE = ["f16", "q8_0", "q4_0"]

ARCHIVE: Rules = {
    "url": key(
        "Where hosts fetch it from; {version} in it is the inventory's.",
        type="string",
        check_with="archive_url",
    ),
    "file": key(
        "A file inside the project that is sent over SSH instead; {version} as in url.",
        type="string",
        check_with="inside",
    ),
    "sha256": key(
        "Its sha256, or a map from versions to theirs; a must with url.",
        type="dict",
        form="digests",
        keysrules={"type": "string", "check_with": "digest_of"},
        valuesrules={"type": "string", "check_with": "sha256"},
    ),
}

OLLAMA: Rules = {
    "version": key(
        "The version on the hosts: decides what may be written into units and Modelfiles.",
        type="string",
        form="text",
        check_with="version",
    ),
    "source": key(
        "Where `ogen provision` gets this version from: one archive, or several that are unpacked together. "
        "Without it the program that is on the hosts is used.",
        type="list",
        form="archives",
        maxlength=8,
        schema={"type": "dict", "schema": ARCHIVE},
    ),
    "binary": key(
        "Where the ollama program lies, where ogen does not install it.", type="string", check_with="path"
    ),
    "models_dir": key(
        "Where models are kept: the folder with blobs/ and manifests/.", type="string", check_with="path"
    ),
    "user": key("The account that the servers run as.", type="string", check_with="unix_name"),
    "group": key("The group that the servers run as.", type="string", check_with="unix_name"),
    "flash_attention": key("Flash attention on or off; default: as the version decides.", type="boolean"),
    "kv_cache": key("The type of the KV cache of all instances.", type="string", allowed=KV_CACHE),
    "keep_alive": key(
        "How long a model stays loaded: a time such as 30m, -1 for ever.",
        type="string",
        form="whole",
        check_with="keep_alive",
    ),
    "load_timeout": key("How long loading a model may stall, e.g. 5m.", type="string", check_with="time"),
    "max_queue": key("How many requests may wait for a model to load.", type="integer", min=1, max=1_000_000),
    "first_port": key(
        "An instance's port is this plus its lowest card's number.", type="integer", min=1024, max=65000
    ),
    "librarian_port": key(
        "The loopback port of the librarian, which alone pulls models.", type="integer", min=1024, max=65535
    ),
    "env": key("Further environment variables of every instance.", type="dict", **ENV),
}

MONITORING: Rules = {
    "enabled": key("Whether the monitor runs.", type="boolean"),
    "interval": key(
        "How often the cards are read, e.g. 5s.", type="number", form="duration", min=1, max=3600
    ),
    "textfile_dir": key("Where node_exporter reads its text files.", type="string", check_with="path"),
    "keep_days": key("How many days of logs are kept.", type="integer", min=1, max=3650),
}

AUTOFIT: Rules = {
    "enabled": key("Whether its models take part; a model's own `autofit` comes first.", type="boolean"),
    "every": key("How often free memory is read, e.g. 10s.", type="number", form="duration", min=1, max=3600),
    "hold": key(
        "How long more memory must have been free before a model gets a better configuration, e.g. 5m.",
        type="number",
        form="duration",
        min=1,
        max=86_400,
    ),
    "margin": key(
        "Memory that must stay free beyond what the better configuration needs, e.g. 512MiB.",
        type="integer",
        form="size",
        min=0,
    ),
    "per_hour": key(
        "How many switches an hour there may be; only memory that falls short makes more.",
        type="integer",
        min=1,
        max=1000,
    ),
}

CARD: Rules = {
    "model": key("The card's name in the catalog, e.g. RTX 3090.", type="string", check_with="card_name"),
    "count": key("How many of this card there are.", type="integer", min=1, max=64),
    "vram": key(
        "Its memory, where it differs from the catalog's, e.g. 8GiB.", type="integer", form="size", min=2**28
    ),
    "reserve": key("Memory that ogen leaves to others, e.g. 1GiB.", type="integer", form="size", min=0),
    "vendor": key(
        "Who made it; needed where the catalog does not know the card.",
        type="string",
        allowed=["nvidia", "amd"],
    ),
    "uuid": key("The card's UUID as `nvidia-smi -L` shows it.", type="string", check_with="uuid"),
    "state": key(
        "`out`: the card is ignored, the others keep their numbers.", type="string", allowed=["in", "out"]
    ),
    "reason": key("Why it is out.", type="string", check_with="text"),
}

CARDS: Rules = {
    "type": ["list", "dict"],
    "maxlength": 64,
    "schema": {"type": "dict", "schema": CARD},
    "keysrules": {"type": "string", "check_with": "card_index"},
    "valuesrules": {"type": "dict", "schema": {k: v for k, v in CARD.items() if k != "count"}},
}

PIN: Rules = {
    "gpus": key(
        "The numbers of its cards; [] for an instance without a card.",
        type="list",
        form="many",
        required=True,
        maxlength=64,
        schema={"type": "integer", "min": 0, "max": 63},
    ),
    "models": key(
        "The models that it serves.",
        type="list",
        form="many",
        required=True,
        minlength=1,
        schema={"type": "string", "check_with": "name"},
    ),
    "port": key("Its port, where it is not first_port plus the lowest card's number.", **PORT),
    "low_vram": key("Keep the KV cache in host memory.", type="boolean"),
    "num_gpu": key(
        "How many layers go on the card; -1 leaves it to Ollama.", type="integer", min=-1, max=10_000
    ),
    "context": key("Tokens per slot.", type="integer", min=4, max=16_777_216),
    "env": key("Further environment variables of this instance.", type="dict", **ENV),
}

COMMON: Rules = {
    "state": key("`out`: the host is left alone.", type="string", allowed=["in", "out"]),
    "reason": key("Why it is out.", type="string", check_with="text"),
    "connection": key(
        "`local` runs the agent on this machine instead of over SSH.", type="string", allowed=["ssh", "local"]
    ),
    "transport": key(
        "Which SSH client ogen uses: its own, or OpenSSH's.", type="string", allowed=["paramiko", "openssh"]
    ),
    "root": key(
        "A folder that every path on the host is put under, for images and demos.",
        type="string",
        check_with="root",
    ),
    "python": key("The python3 on the host.", type="string", check_with="program"),
    "ssh": key("How the host is reached.", type="dict", schema=SSH),
    "ollama": key("Settings of its Ollama servers.", type="dict", schema=OLLAMA),
    "monitoring": key(
        "What watches its cards: true (as it is without it), false, or a map.",
        type="dict",
        form="monitoring",
        schema=MONITORING,
    ),
    "autofit": key(
        "Whether its instances' configurations follow the memory that is free: true, or a map.",
        type="dict",
        form="autofit",
        schema=AUTOFIT,
    ),
    "gpus": key(
        "The cards in nvidia-smi's order; or a map {1: {state: out}} that changes some of them.",
        form="cards",
        **CARDS,
    ),
    "instances": key(
        "Instances that the inventory prescribes instead of the planner.",
        type="list",
        maxlength=64,
        schema={"type": "dict", "schema": PIN},
    ),
    "weight": key("The share of requests that its instances get, from 1.", type="integer", min=1, max=1000),
    "backup": key(
        "Whether its instances are asked only where no other one of the pool answers.", type="boolean"
    ),
    "env": key("Further environment variables of its instances.", type="dict", **ENV),
}

HOST: Rules = {
    "address": key("Where SSH reaches it: an IP address or a name.", type="string", check_with="address"),
    "data_address": key(
        "Where balancers reach it: an IP address; default: `address`.", type="string", check_with="ip"
    ),
    **COMMON,
}

GROUP: Rules = {
    "hosts": key(
        "Its hosts: names, ranges 'gpu[01:04]', globs 'gpu*', groups '@boxes'.",
        type="list",
        form="many",
        required=True,
        minlength=1,
        schema={"type": "string", "check_with": "pattern"},
    ),
    **COMMON,
}
