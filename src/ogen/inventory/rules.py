"""The inventory's rules for cerberus: what may stand where, with a description of each key.

`meta` is ogen's: `description` (for editors), `form` (see forms.py) and `empty` (may be left
without a value). `check_with` names a check of checks.py. `editor.py` makes the JSON Schema of it.
"""

from __future__ import annotations

from typing import Any

from .rules_balancers import BALANCER, ROLLOUT
from .rules_hosts import ENV, GROUP, HOST, OLLAMA, SSH, key
from .rules_models import MIRROR, MODEL
from .rules_queues import QUEUE

Rules = dict[str, Any]

INVENTORY: Rules = {
    "version": key("The version of this format: 1.", type="integer", allowed=[1]),
    "ssh": key("How hosts are reached; groups and hosts may override any key.", type="dict", schema=SSH),
    "ollama": key(
        "Settings of the Ollama servers; groups and hosts may override any key.", type="dict", schema=OLLAMA
    ),
    "monitoring": HOST["monitoring"],
    "autofit": HOST["autofit"],
    "env": key("Further environment variables of every instance.", type="dict", **ENV),
    "transport": HOST["transport"],
    "python": HOST["python"],
    "models": key(
        "The models that the cluster serves, by name.",
        type="dict",
        keysrules={"type": "string", "check_with": "name"},
        valuesrules={"type": "dict", "schema": MODEL, "meta": {"form": "model"}},
    ),
    "registries": key(
        "Where models may come from; default: registry.ollama.ai (names without a registry) and hf.co.",
        type="list",
        form="many",
        schema={"type": "string", "check_with": "registry"},
    ),
    "mirror": key(
        "Where hosts get models from in place of the registries.", form="mirror", type="dict", schema=MIRROR
    ),
    "groups": key(
        "Hosts that have settings in common, by the group's name.",
        type="dict",
        keysrules={"type": "string", "check_with": "name"},
        valuesrules={"type": "dict", "schema": GROUP},
    ),
    "hosts": key(
        "The machines, by name; 'gpu[01:04]' stands for gpu01 to gpu04.",
        type="dict",
        required=True,
        minlength=1,
        keysrules={"type": "string", "check_with": "host_key_name"},
        valuesrules={"type": "dict", "schema": HOST, "meta": {"empty": True}},
    ),
    "balancers": key(
        "nginx entry points, by name.",
        type="dict",
        keysrules={"type": "string", "check_with": "short_name"},
        valuesrules={"type": "dict", "schema": BALANCER},
    ),
    "queues": key(
        "Queues of jobs that must not be lost, by name.",
        type="dict",
        keysrules={"type": "string", "check_with": "short_name"},
        valuesrules={"type": "dict", "schema": QUEUE},
    ),
    "rollout": key("How changes go over the hosts.", type="dict", schema=ROLLOUT),
}

ROOT: Rules = {"type": "dict", "schema": INVENTORY, "meta": {"description": "An inventory of ogen."}}
