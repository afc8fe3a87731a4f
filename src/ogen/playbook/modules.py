"""The modules that ogen's agent knows, with the parameters that each takes.

The names and meanings are those of the collection `ansible.builtin`; what is not listed here is outside
of the subset. Three differences are on purpose: `command` and `unarchive` need `creates`, so that a second
run changes nothing, `get_url` needs a `checksum`, and `file` with `state: absent` removes no folder that
still holds something.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "texts", "list", "bool", "number", "numbers", "path", "mode"]
COLLECTION = "ansible.builtin."
#: rendered before the first step: to the agent it is a `copy`
TEMPLATE = "template"
#: ogen's own: what `apply`, `rollback` and `retire` do themselves (course.py); always by their full names
RELEASE, MODELS, DRAIN = "ogen.fleet.release", "ogen.fleet.models", "ogen.fleet.drain"
FLEET = (RELEASE, MODELS, DRAIN)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a module: what its value must be."""

    kind: Kind
    required: bool = False
    choices: tuple[str, ...] = ()


def _text(*choices: str, required: bool = False) -> Parameter:
    return Parameter("text", required, choices)


_BOOL, _PATH, _MODE, _TEXTS = Parameter("bool"), Parameter("path"), Parameter("mode"), Parameter("texts")
_NUMBER = Parameter("number")
_NEEDED_PATH, _NEEDED_TEXT = Parameter("path", required=True), Parameter("text", required=True)
_OWNED = {"mode": _MODE, "owner": _text(), "group": _text()}
_PRESENCE = _text("present", "absent")

MODULES: Mapping[str, Mapping[str, Parameter]] = {
    "apt": {
        "name": Parameter("texts", required=True),
        "state": _PRESENCE,
        "update_cache": _BOOL,
        "install_recommends": _BOOL,
        "policy_rc_d": Parameter("number"),
    },
    "command": {
        "cmd": _text(),
        "argv": Parameter("list"),
        "creates": _NEEDED_PATH,
    },
    "copy": {"content": _NEEDED_TEXT, "dest": _NEEDED_PATH, "force": _BOOL, **_OWNED},
    "fail": {"msg": _text()},
    "file": {
        "path": _NEEDED_PATH,
        "state": _text("directory", "absent", "link", "touch", "file"),
        "src": _text(),
        **_OWNED,
    },
    "get_url": {"url": _NEEDED_TEXT, "dest": _NEEDED_PATH, "checksum": _NEEDED_TEXT, **_OWNED},
    "group": {"name": _NEEDED_TEXT, "system": _BOOL, "state": _PRESENCE},
    "service_facts": {},
    "stat": {"path": _NEEDED_PATH},
    "systemd_service": {
        "name": _text(),
        "state": _text("started", "stopped", "restarted", "reloaded"),
        "enabled": _BOOL,
        "masked": _BOOL,
        "daemon_reload": _BOOL,
    },
    TEMPLATE: {"src": _NEEDED_TEXT, "dest": _NEEDED_PATH, "force": _BOOL, **_OWNED},
    "unarchive": {
        "src": _NEEDED_TEXT,
        "dest": _NEEDED_PATH,
        "remote_src": _BOOL,
        "creates": _NEEDED_PATH,
        "owner": _text(),
        "group": _text(),
    },
    "uri": {
        "url": _NEEDED_TEXT,
        "method": _text("GET", "HEAD"),
        "status_code": Parameter("numbers"),
        "timeout": _NUMBER,
    },
    "user": {
        "name": _NEEDED_TEXT,
        "state": _PRESENCE,
        "system": _BOOL,
        "home": _PATH,
        "shell": _PATH,
        "group": _text(),
        "groups": _TEXTS,
        "append": _BOOL,
        "create_home": _BOOL,
    },
    "wait_for": {
        "host": _text(),
        "port": _NUMBER,
        "path": _PATH,
        "state": _text("started", "stopped", "present", "absent"),
        "timeout": _NUMBER,
        "msg": _text(),
    },
    RELEASE: {"src": _text(), "state": _text("present", "previous", "absent"), "id": _text()},
    MODELS: {"src": _NEEDED_TEXT},
    DRAIN: {
        "instances": _TEXTS,
        "state": _text("drained", "served", required=True),
        "seconds": Parameter("number"),
    },
}
#: other names of the same module, as Ansible has them
ALIASES: Mapping[str, str] = {"systemd": "systemd_service"}
#: modules whose result the agent's hello already holds: they compile to no step
FROM_HELLO = frozenset({"service_facts"})
#: modules that the agent is asked for while a play is compiled; their result goes by the name in `register`
LOOKS = frozenset({"stat"})

_MODE_TEXT = re.compile(r"0?[0-7]{3,4}")
#: names of users, groups, units and packages reach command lines: they must not look like options
_NAME_TEXT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+:@-]{0,127}")
_NAMED = {
    "apt": ("name",),
    "group": ("name",),
    "unarchive": ("owner", "group"),
    "user": ("name", "group", "groups"),
    "systemd_service": ("name",),
}


#: a relative path that does not climb
_INSIDE = r"(?!/)(?!(?:.*/)?\.\.(?:/|$)).+"
_FORMS = {
    "get_url": {
        "url": (r"https?://[!-~]+", "an address that begins with https:// or http://"),
        "checksum": (r"sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits"),
    },
    TEMPLATE: {"src": (_INSIDE, "a path inside the project's playbooks/templates/")},
    "uri": {"url": (r"https?://[!-~]+", "an address that begins with https:// or http://")},
}


def short_name(key: str) -> str | None:
    """The module that a task's key names, by short or full name; None where ogen has none."""
    name = key[len(COLLECTION) :] if key.startswith(COLLECTION) else key
    name = ALIASES.get(name, name)
    known = name in MODULES and (name not in FLEET or name == key)
    return name if known else None


def normal(module: str, parameter: str, value: Any) -> Any:
    """The value in the form that the agent wants: "a, b" is a list where a list is meant."""
    if MODULES[module][parameter].kind == "texts" and isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if MODULES[module][parameter].kind == "numbers" and not isinstance(value, list):
        return [value]
    return value


def fault(module: str, parameter: str, value: Any) -> str | None:
    """What is wrong with a resolved value, in words; None if nothing is."""
    wanted = MODULES[module][parameter]
    problem = _CHECKS[wanted.kind](value)
    if problem is None and wanted.choices and value not in wanted.choices:
        problem = f"must be one of {', '.join(wanted.choices)}, not {value!r}"
    if problem is None and parameter in _FORMS.get(module, {}):
        pattern, words = _FORMS[module][parameter]
        problem = None if re.fullmatch(pattern, value) else f"must be {words}, not {_shown(value)}"
    if problem is None and parameter in _NAMED.get(module, ()):
        texts = value if isinstance(value, list) else [value]
        bad = next((t for t in texts if not _NAME_TEXT.fullmatch(t)), None)
        problem = f"{bad!r} is no name" if bad is not None else None
    return problem


def _check_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"must be text, not {_shown(value)}"
    return "holds a NUL character" if "\0" in value else None


def _check_texts(value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        return f"must be a list of texts, not {_shown(value)}"
    return next((p for p in map(_check_text, value) if p), None)


def _check_bool(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, not {_shown(value)}"


def _check_number(value: Any) -> str | None:
    good = isinstance(value, int) and not isinstance(value, bool)
    return None if good else f"must be a whole number, not {_shown(value)}"


def _check_numbers(value: Any) -> str | None:
    if isinstance(value, list) and all(_check_number(one) is None for one in value):
        return None
    return f"must be a whole number, or a list of them, not {_shown(value)}"


def _check_path(value: Any) -> str | None:
    problem = _check_text(value)
    if problem:
        return problem
    if not value.startswith("/"):
        return f"must be an absolute path, not {value!r}"
    return "must not climb with '..'" if ".." in value.split("/") else None


def _check_mode(value: Any) -> str | None:
    if isinstance(value, str) and _MODE_TEXT.fullmatch(value):
        return None
    return f'must be octal digits in quotes, like "0644", not {_shown(value)}'


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


_CHECKS = {
    "text": _check_text,
    "texts": _check_texts,
    "list": _check_texts,
    "bool": _check_bool,
    "number": _check_number,
    "numbers": _check_numbers,
    "path": _check_path,
    "mode": _check_mode,
}
