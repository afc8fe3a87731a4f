"""What differs between a rendered file and its edit → changes of the inventory that may explain it.

Nothing here is certain: each proposal is tried by rendering. So rules may be generous, and a template of
the project's own needs none: the last proposals replace a value that the inventory has as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .document import Key, Value
from .lines import Pair
from .project import Edit, Project

MAX_VALUES = 40  # values of the inventory that are tried because they look like what was replaced


@dataclass(frozen=True, slots=True)
class Scope:
    """What a file is about: the keys under which its settings may stand, the narrowest first."""

    host: str
    groups: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    balancer: str | None = None

    def of_host(self, *key: str) -> Iterator[Key]:
        """The host's own record, its groups, the defaults."""
        yield ("hosts", self.host, *key)
        for group in self.groups:
            yield ("groups", group, *key)
        yield key

    def of_models(self, *key: str) -> Iterator[Key]:
        for model in self.models:
            yield ("models", model, *key)

    def of_balancer(self, *key: str) -> Iterator[Key]:
        if self.balancer is not None:
            yield ("balancers", self.balancer, *key)


_BALANCER = re.compile(r"/balancers/([^/]+)/|/ogen-balancer-(.+)\.service$|/conf\.d/ogen-(.+)\.conf$")
_INSTANCE = re.compile(r"/ogen-ollama-(.+)\.service$|/instances/([^/]+)/")
_MODEL = re.compile(r"/models/(.+)\.Modelfile$")


def scope(project: Project, host: str, path: str) -> Scope:
    """What the file at `path` of `host` is about, as its name tells."""
    planned = project.plan.host(host)
    groups = tuple(reversed(planned.host.groups))
    found = _BALANCER.search(path)
    if found:
        names = {balancer.name for balancer in project.inventory.balancers}
        name = next(part for part in found.groups() if part)
        return Scope(host, groups, balancer=name if name in names else None)
    found = _INSTANCE.search(path)
    if found:
        name = next(part for part in found.groups() if part)
        chosen = [one for one in planned.instances if one.name == name]
        return Scope(host, groups, tuple(p.model.name for one in chosen for p in one.placements))
    models = dict.fromkeys(p.model.name for one in planned.instances for p in one.placements)
    found = _MODEL.search(path)
    label = found[1] if found else ""
    near = sorted(models, key=lambda name: (not label.startswith(name.lower()), -len(name)))
    return Scope(host, groups, tuple(near))


def proposals(project: Project, about: Scope, pairs: tuple[Pair, ...]) -> Iterator[Edit]:
    """Each once, the likeliest first."""
    seen: set[Edit] = set()
    for edit in (*_known(about, pairs), *_alike(project, pairs)):
        if edit not in seen:
            seen.add(edit)
            yield edit


def _known(about: Scope, pairs: tuple[Pair, ...]) -> Iterator[Edit]:
    for pair in pairs:
        for rule in _RULES:
            yield from rule(about, pair)


def _alike(project: Project, pairs: tuple[Pair, ...]) -> Iterator[Edit]:
    """Values of the inventory that read like a word that was replaced."""
    words = dict.fromkeys(change for pair in pairs for change in pair.words())
    budget = MAX_VALUES
    for key, text in project.values():
        for old, new in words:
            if text == old and budget > 0:
                budget -= 1
                yield Edit(key, number(new))


# ------------------------------------------------------------------------------------------ rules
_PARAMETER = re.compile(r"PARAMETER (\w+) (.*)")
_Ways = tuple[tuple[str, ...], ...]
_PARAMETERS: dict[str, _Ways] = {
    "num_ctx": (("context",), ("context", "want")),
    "num_batch": (("batch",),),
    "num_gpu": (("num_gpu",),),
    "main_gpu": (("main_gpu",),),
    "use_mmap": (("use_mmap",),),
}
_TEXTS = {"FROM": "from", "SYSTEM": "system", "TEMPLATE": "template", "LICENSE": "license"}


def _modelfile(about: Scope, pair: Pair) -> Iterator[Edit]:
    old, new = _PARAMETER.fullmatch(pair.old), _PARAMETER.fullmatch(pair.new)
    if new:
        for way in _PARAMETERS.get(new[1], (("parameters", new[1]),)):
            yield from (Edit(key, number(new[2])) for key in about.of_models(*way))
    if old and not (new and new[1] == old[1]):
        for way in _PARAMETERS.get(old[1], (("parameters", old[1]),)):
            yield from (Edit(key, None) for key in about.of_models(*way))
    word, _, rest = pair.new.partition(" ")
    if word in _TEXTS:
        yield from (Edit(key, rest.strip('"')) for key in about.of_models(_TEXTS[word]))
    gone = pair.old.partition(" ")[0]
    if gone in _TEXTS and word != gone:
        yield from (Edit(key, None) for key in about.of_models(_TEXTS[gone]))


_ENVIRONMENT = re.compile(r'Environment="?(\w+)=(.*?)"?')
_OF_HOST = {
    "OLLAMA_KEEP_ALIVE": "keep_alive",
    "OLLAMA_LOAD_TIMEOUT": "load_timeout",
    "OLLAMA_MAX_QUEUE": "max_queue",
    "OLLAMA_FLASH_ATTENTION": "flash_attention",
    "OLLAMA_KV_CACHE_TYPE": "kv_cache",
}
_OF_MODELS: dict[str, _Ways] = {
    "OLLAMA_CONTEXT_LENGTH": (("context",), ("context", "want")),
    "OLLAMA_NUM_PARALLEL": (("parallel",),),
    "OLLAMA_KEEP_ALIVE": (("keep_alive",),),
    "OLLAMA_KV_CACHE_TYPE": (("kv_cache",),),
}
_OF_UNIT = {"User": "user", "Group": "group"}


def _unit(about: Scope, pair: Pair) -> Iterator[Edit]:
    old, new = _ENVIRONMENT.fullmatch(pair.old), _ENVIRONMENT.fullmatch(pair.new)
    if new:
        yield from _variable(about, new[1], _unquoted(new[2]))
    if old and not (new and new[1] == old[1]):
        for way in (("env", old[1]), ("ollama", "env", old[1])):
            yield from (Edit(key, None) for key in about.of_host(*way))
        if old[1] in _OF_HOST:
            yield from (Edit(key, None) for key in about.of_host("ollama", _OF_HOST[old[1]]))
    name, _, value = pair.new.partition("=")
    if name in _OF_UNIT:
        yield from (Edit(key, value) for key in about.of_host("ollama", _OF_UNIT[name]))
    if name == "ExecStart":
        yield from (Edit(key, value.split(" ")[0]) for key in about.of_host("ollama", "binary"))


def _variable(about: Scope, name: str, text: str) -> Iterator[Edit]:
    if name in _OF_HOST:
        value = {"0": False, "1": True}.get(text, text) if name == "OLLAMA_FLASH_ATTENTION" else number(text)
        yield from (Edit(key, value) for key in about.of_host("ollama", _OF_HOST[name]))
    for way in _OF_MODELS.get(name, ()):
        yield from (Edit(key, number(text)) for key in about.of_models(*way))
    for way in (("env", name), ("ollama", "env", name)):
        yield from (Edit(key, text) for key in about.of_host(*way))


def _unquoted(text: str) -> str:
    """The text of a quoted `Environment=`."""
    return re.sub(r'\\(["\\])', r"\1", text).replace("%%", "%")


_NGINX: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\s*listen (?:\S+:)?(\d+)\b.*;"), "listen"),
    (re.compile(r"\s*server .*\bmax_fails=(\d+)\b.*;"), "max_fails"),
    (re.compile(r"\s*server .*\bfail_timeout=(\w+)\b.*;"), "fail_timeout"),
    (re.compile(r"\s*proxy_connect_timeout (\w+);"), "connect_timeout"),
    (re.compile(r"\s*(?:proxy_(?:read|send)|send|worker_shutdown)_timeout (\w+);"), "read_timeout"),
    (re.compile(r"\s*worker_processes (\w+);"), "workers"),
    (re.compile(r"\s*client_(?:max_body|body_buffer)_size (\w+);"), "max_body"),
)
_STRATEGY = re.compile(r"\s*(least_conn|ip_hash|random\b[^;]*);")


def _nginx(about: Scope, pair: Pair) -> Iterator[Edit]:
    if about.balancer is None:
        return
    for pattern, name in _NGINX:
        new = pattern.fullmatch(pair.new)
        if new:
            value = _size(new[1]) if name == "max_body" else number(new[1])
            yield from (Edit(key, value) for key in about.of_balancer(name))
    old, new = _STRATEGY.fullmatch(pair.old), _STRATEGY.fullmatch(pair.new)
    if old or new:
        word = new[1].split(" ")[0] if new else "round_robin"
        yield from (Edit(key, word) for key in about.of_balancer("strategy"))


def _size(text: str) -> Value:
    """nginx's sizes are in bytes, or by 1024 with a letter."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if text.isdigit() and int(text) and int(text) % (1 << power) == 0:
            return f"{int(text) >> power}{unit}"
    return number(text)


_JSON = re.compile(r'\s*"(\w+)": "?(.*?)"?,?')


def _monitor(about: Scope, pair: Pair) -> Iterator[Edit]:
    new = _JSON.fullmatch(pair.new)
    if new and new[1] == "interval_s" and re.fullmatch(r"[0-9.]+", new[2]):
        text = f"{float(new[2]):g}s"
        yield from (Edit(key, text) for key in about.of_host("monitoring", "interval"))
    if new and new[1] == "prom":
        folder = new[2].rpartition("/")[0]
        yield from (Edit(key, folder) for key in about.of_host("monitoring", "textfile_dir"))
    if new and new[1] == "keep_alive":
        yield from (Edit(key, number(new[2])) for key in about.of_models("keep_alive"))
    kept = re.fullmatch(r"\s*rotate (\d+)", pair.new)
    if kept:
        yield from (Edit(key, int(kept[1])) for key in about.of_host("monitoring", "keep_days"))


_RULES = (_modelfile, _unit, _nginx, _monitor)


def number(text: str) -> Value:
    """A text as the value that YAML takes it for."""
    if re.fullmatch(r"-?(0|[1-9][0-9]*)", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]+\.[0-9]+", text):
        return float(text)
    return {"true": True, "false": False}.get(text, text)
