"""What the librarian creates, the same as a Modelfile for people, and each instance's view of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ..errors import RenderError
from ..inventory.model import Inventory
from ..plan.model import Placement
from ..release.model import ModelBuild, ModelView, canonical
from .escape import unwritable

DEFAULT_REGISTRY = "registry.ollama.ai"  # Ollama's own folder name for names without a registry
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def build(placement: Placement, inventory: Inventory) -> ModelBuild:
    """The model of a placement under its immutable name: the model's, and a hash of all that it is.

    A file of the control machine (a GGUF, an adapter) stands in the request as "sha256:…" where the
    lock file knows its digest, else as its path, which `push` replaces once it has sent the file.
    """
    model, ref = placement.model, placement.source.ref
    request: dict[str, Any] = {"parameters": parameters(placement)}
    digest = _digest(ref, inventory) if is_file(ref) else None
    if is_file(ref):
        request["files"] = {_base(ref): digest or ref}
    else:
        request["from"] = ref
    if model.adapter:
        request["adapters"] = {_base(model.adapter): _digest(model.adapter, inventory) or model.adapter}
    for name in ("template", "system", "license"):
        text = getattr(model, name)
        if text:
            request[name] = text
    if model.messages:
        request["messages"] = [{"role": m.role, "content": m.content} for m in model.messages]
    source = digest or ref
    lock = inventory.lock
    pinned = lock.digests.get(ref, "") if lock else ""  # a tag that moved is another model
    mark = hashlib.sha256(canonical([source, request, pinned])).hexdigest()[:16]
    size = (lock.sizes.get(ref) if lock else None) or _weights(placement)
    return ModelBuild(f"ogen/{_label(model.name)}:{mark}", source, request, size)


def _weights(placement: Placement) -> int | None:
    """About as many bytes as its file has."""
    account = placement.account
    return account.weights_bytes + account.host_weights_bytes or None


def _label(name: str) -> str:
    """A model's name as one part of an Ollama name, which knows neither `/` nor `:` there."""
    label = re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip(".-") or "model"
    return label.lower()[:60]


def is_file(ref: str) -> bool:
    """Whether a source is a file of the control machine rather than a name to pull."""
    return ref.startswith(("./", "../", "/", "~")) or (
        ref.lower().endswith(".gguf") and not ref.startswith("hf.co/")
    )


def _base(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _digest(ref: str, inventory: Inventory) -> str | None:
    found = inventory.lock.digests.get(ref) if inventory.lock else None
    return None if found is None else "sha256:" + found.removeprefix("sha256:").removeprefix("sha256-")


def parameters(placement: Placement) -> dict[str, Any]:
    """The request's typed parameters; what the plan decided wins over the free ones."""
    values: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in sorted(placement.model.parameters.items())
    }
    settings = placement.settings
    decided = {
        "num_ctx": settings.context,
        "num_batch": settings.batch,
        "num_gpu": settings.num_gpu,
        "main_gpu": settings.main_gpu,
        "use_mmap": settings.use_mmap,
    }
    values.update({name: value for name, value in decided.items() if value is not None})
    return values


def modelfile_values(placement: Placement, made: ModelBuild) -> Mapping[str, object]:
    """What the template `Modelfile.j2` needs: the request as text."""
    model = placement.model
    texts = [model.system, model.template, model.license, *(m.content for m in model.messages)]
    flat: list[tuple[str, Any]] = []
    for name, value in made.request["parameters"].items():
        flat += [(name, item) for item in value] if isinstance(value, list) else [(name, value)]
    texts += [value for _, value in flat if isinstance(value, str)]
    return {
        "model": model.name,
        "build": made.name,
        "source": placement.source.ref,
        "adapter": model.adapter,
        "parameters": flat,
        "template": model.template,
        "system": model.system,
        "license": model.license,
        "messages": [{"role": m.role, "content": m.content} for m in model.messages],
        "replaced": any(unwritable(text) for text in texts if text),
    }


def views(placement: Placement, instance: str, made: ModelBuild) -> tuple[ModelView, ...]:
    """The manifest files under which an instance knows the model: its name and each alias."""
    root = f"/etc/ogen/current/instances/{instance}/manifests"
    names = dict.fromkeys((placement.model.name, *placement.model.aliases))
    try:
        return tuple(ModelView(f"{root}/{manifest_path(name)}", made.name) for name in names)
    except RenderError as error:
        raise RenderError(error.message, where=placement.model.where, hint=error.hint) from None


def manifest_path(name: str) -> str:
    """`chat` → `registry.ollama.ai/library/chat/latest`: where Ollama keeps the manifest of a name."""
    path, _, tag = name.rpartition(":") if ":" in name.rsplit("/", 1)[-1] else (name, "", "latest")
    parts = [*path.split("/"), tag]
    if len(parts) == 2:
        parts = [DEFAULT_REGISTRY, "library", *parts]
    elif len(parts) == 3:
        parts = [DEFAULT_REGISTRY, *parts]
    if len(parts) != 4 or not all(_PART.fullmatch(part) for part in parts):
        raise RenderError(f"{name!r} can't be the name of a model", hint="letters, digits, '.', '_' and '-'")
    return "/".join(parts)
