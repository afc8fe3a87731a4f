"""Models before the flip: the librarian pulls and creates them under immutable names, views are copied.

The librarian is an Ollama of its own without a card. It runs only for this, as a transient unit made
from the [Service] lines of the release's unit file, since the release is not in force yet.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from . import disk, store
from . import machine as tools
from .errors import AgentError
from .machine import Machine

UNIT = "ogen-librarian-stage"
GUARD = "ogen-librarian-guard"  # lives as long as the agent, and takes the librarian with it
DEFAULT_HOST = "registry.ollama.ai"
MARGIN = 1 << 30  # bytes that stay free on the models' disk

Tell = Callable[[str, Optional[float]], None]
#: a file of the control machine by its digest: its size, and its content in parts
Fetch = Callable[[str], Tuple[int, Iterator[bytes]]]


def manifest_path(reference: str) -> str:
    """The path of a model's manifest below `manifests/`, by Ollama's rules for names."""
    name = reference.split("://", 1)[-1]
    parts = name.split("/")
    last, _, tag = parts[-1].partition(":")
    parts = [*parts[:-1], last]
    if len(parts) < 3:
        parts = [DEFAULT_HOST, *(["library"] if len(parts) == 1 else []), *parts]
    return "/".join([*parts, tag or "latest"])


def in_store(models_dir: str, reference: str) -> Optional[str]:
    """The manifest's path if the model is there with all of its blobs."""
    path = "%s/manifests/%s" % (models_dir, manifest_path(reference))
    try:
        with open(path, "rb") as file:
            manifest = json.load(file)
        layers = [*manifest.get("layers", ()), manifest.get("config") or {}]
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    blobs = [(d["digest"].replace(":", "-"), d.get("size")) for d in layers if d.get("digest")]
    return path if all(_blob(models_dir, name, size) for name, size in blobs) else None


def stored(models_dir: str, references: Iterable[str]) -> Dict[str, Dict[str, Any]]:
    """Digest (Ollama's: sha256 of the manifest file) and bytes of those models that are in the store."""
    found = {}
    for reference in references:
        path = in_store(models_dir, reference)
        if path is None:
            continue
        with open(path, "rb") as file:
            text = file.read()
        manifest = json.loads(text.decode())
        layers = [*manifest.get("layers", ()), manifest.get("config") or {}]
        size = sum(int(layer.get("size") or 0) for layer in layers)
        found[reference] = {"digest": digest(text), "size": size}
    return found


def _blob(models_dir: str, name: str, size: Optional[int]) -> bool:
    try:
        found = os.stat("%s/blobs/%s" % (models_dir, name))
    except OSError:
        return False
    return size is None or found.st_size == size


def missing(manifest: store.Manifest) -> List[Dict[str, Any]]:
    """The models of a release that are not in the librarian's store yet."""
    if not manifest["models"]:
        return []
    where = _models_dir(manifest)
    return [m for m in manifest["models"] if in_store(where, m["name"]) is None]


def _models_dir(manifest: store.Manifest) -> str:
    return str(manifest["librarian"]["models_dir"])


# ------------------------------------------------------------------------------- the stream
class Stream:
    """Reads the answer of /api/pull or /api/create line by line.

    Errors come in the middle of a stream that began with HTTP 200, so only "success" is success.
    """

    def __init__(self, tell: Tell, what: str) -> None:
        self.tell = tell
        self.what = what
        self.done = False
        self._sizes: Dict[str, Tuple[int, int]] = {}  # digest → completed, total

    def take(self, line: str) -> None:
        """Raises AgentError for an error line."""
        if not line:
            return
        try:
            news = json.loads(line)
        except ValueError:
            raise AgentError("%s: not JSON: %.200s" % (self.what, line)) from None
        if not isinstance(news, dict):
            raise AgentError("%s: not an object: %.200s" % (self.what, line))
        if news.get("error"):
            raise AgentError("%s: %s" % (self.what, news["error"]), _advice(str(news["error"])))
        status = str(news.get("status", ""))
        self.done = self.done or status == "success"
        self.tell("%s: %s" % (self.what, status), self._percent(news))

    def _percent(self, news: Dict[str, Any]) -> Optional[float]:
        digest, total = news.get("digest"), news.get("total")
        if not isinstance(digest, str) or not isinstance(total, int) or total <= 0:
            return None
        self._sizes[digest] = (int(news.get("completed") or 0), total)
        got = sum(one for one, _ in self._sizes.values())
        return round(100.0 * got / sum(one for _, one in self._sizes.values()), 1)

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.take(line)
        if not self.done:
            raise AgentError("%s: the answer ended without success" % self.what)


def _advice(text: str) -> Optional[str]:
    low = text.lower()
    if "not exist" in low or "not found" in low:
        return "check the model's name in the inventory"
    if "no such host" in low or "dial tcp" in low or "network" in low or "timeout" in low:
        return "the host must reach the model registry, or have the model in its models_dir"
    return None


# ---------------------------------------------------------------------------- the work at stage
def provide(
    machine: Machine, manifest: store.Manifest, unit_text: str, fetch: Fetch, tell: Tell
) -> List[str]:
    """Makes all models of the release; returns the names of those that it created."""
    wanted = missing(manifest)
    if not wanted:
        return []
    where = _models_dir(manifest)
    _check_space(where, wanted)
    port = int(manifest["librarian"]["port"])
    start(machine, unit_text)
    try:
        _await(machine, port)
        for number, model in enumerate(wanted, 1):
            named = _prefixed(tell, "model %d of %d, " % (number, len(wanted)))
            for digest in digests(model):
                _send(machine, port, where, digest, fetch, named)
            _make(machine, port, where, model, named)
    finally:
        machine.run(["systemctl", "stop", UNIT + ".service", GUARD + ".service"])
    return [m["name"] for m in wanted]


def _prefixed(tell: Tell, prefix: str) -> Tell:
    return lambda text, part: tell(prefix + text, part)


def digests(model: Dict[str, Any]) -> List[str]:
    """The files of the control machine that a model is made from."""
    parts = [*model["request"].get("files", {}).values(), *model["request"].get("adapters", {}).values()]
    return [part for part in parts if str(part).startswith("sha256:")]


def _send(machine: Machine, port: int, where: str, digest: str, fetch: Fetch, tell: Tell) -> None:
    if _blob(where, digest.replace(":", "-"), None):
        return
    size, parts = fetch(digest)

    def counted() -> Iterator[bytes]:
        sent = 0
        for part in parts:
            yield part
            sent += len(part)
            tell("file %s" % digest[7:19], round(100.0 * sent / size, 1) if size else None)

    answer = machine.upload(port, "/api/blobs/" + digest, size, counted(), timeout=600.0)
    if answer.status not in (200, 201):
        raise AgentError("the librarian does not take file %s: %s" % (digest[:19], answer.text[:200]))


def _make(machine: Machine, port: int, where: str, model: Dict[str, Any], tell: Tell) -> None:
    source = str(model["source"])
    if not source.startswith("sha256:") and in_store(where, source) is None:
        stream = Stream(tell, "pull %s" % source)
        stream.read(machine.stream(port, "/api/pull", {"model": source, "stream": True}))
    request = {**model["request"], "model": model["name"], "stream": True}
    Stream(tell, "create %s" % model["name"]).read(machine.stream(port, "/api/create", request))
    if in_store(where, model["name"]) is None:
        raise AgentError("%s was created, but is not in %s" % (model["name"], where))


def _check_space(where: str, wanted: List[Dict[str, Any]]) -> None:
    by_source = {m["source"]: int(m.get("size") or 0) for m in wanted if in_store(where, m["source"]) is None}
    need, free = sum(by_source.values()), tools.free_bytes(where)
    if need and need + MARGIN > free:
        raise AgentError(
            "the models need %.1f GiB in %s, %.1f GiB are free" % (need / 2**30, where, free / 2**30),
            "remove models that nobody uses, or set ollama.models_dir to a larger disk",
        )


def _await(machine: Machine, port: int, seconds: float = 30.0) -> None:
    end = machine.now() + seconds
    while machine.ask(port, "GET", "/api/version", timeout=2.0).status != 200:
        if machine.now() > end:
            raise AgentError("the librarian does not answer on port %d" % port, log=_log(machine))
        machine.wait(0.1)


def start(machine: Machine, unit_text: str) -> None:
    for line in unit_text.splitlines():
        if line.startswith("User="):  # systemd would say nothing but that it fails
            disk.uid(line.partition("=")[2])
    units = [UNIT + ".service", GUARD + ".service"]
    machine.run(["systemctl", "stop", *units])
    machine.run(["systemctl", "reset-failed", *units])
    guard = ["tail", "-s", "1", "--pid=%d" % os.getpid(), "-f", "/dev/null"]
    machine.run(["systemd-run", "--quiet", "--collect", "--unit=" + GUARD, "--", *guard])
    done = machine.run(transient(unit_text))
    if done.code:
        hint = None
        if "Failed to find executable" in done.text:
            hint = "install Ollama there, say where it is (ollama: {binary: /path/of/ollama}), or where "
            hint += "`ogen provision` gets it from (ollama: {source: …})"
        raise AgentError(
            "the librarian does not start: %s" % (done.text.strip() or "see its log"), hint, _log(machine)
        )


def _log(machine: Machine) -> List[str]:
    return machine.run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "20", "-u", UNIT]).lines


def transient(unit_text: str) -> List[str]:
    """The systemd-run command that starts the [Service] of a unit file; pure."""
    command = ["systemd-run", "--quiet", "--collect", "--unit=" + UNIT]
    program: List[str] = []
    for key, value in service_lines(unit_text):
        if key == "ExecStart":
            import shlex

            program = shlex.split(value)
        elif key not in ("Restart", "RestartSec"):
            command += ["-p", "%s=%s" % (key, value)]
    if not program:
        raise AgentError("the librarian's unit has no ExecStart")
    bound = ["-p", "BindsTo=%s.service" % GUARD, "-p", "After=%s.service" % GUARD]
    return [*command, *bound, "--", *program]


def service_lines(text: str) -> List[Tuple[str, str]]:
    """Keys and values of a unit's [Service] section; continued lines are joined."""
    section, found = "", []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found.append((key.strip(), value.strip()))
    return found


# ------------------------------------------------------------------------------------- views
def view(manifest: store.Manifest, one: Dict[str, Any], relocated: bool) -> bytes:
    """The manifest file of a view; in a relocated root a description in its place."""
    if relocated:
        build: Dict[str, Any] = next((m for m in manifest["models"] if m["name"] == one["model"]), {})
        return store.canonical({"model": one["model"], "build": build}) + b"\n"
    path = in_store(_models_dir(manifest), one["model"])
    if path is None:
        raise AgentError("model %s is not in %s" % (one["model"], _models_dir(manifest)))
    with open(path, "rb") as file:
        return file.read()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
