"""Where models come from: the registries that are allowed, and the mirror in their place."""

from __future__ import annotations

from . import archives
from .checks import is_file
from .faults import near_or_list
from .model import Inventory, Mirror
from .names import Names

DEFAULT_REGISTRY = "registry.ollama.ai"  # of names without one


def registry_of(ref: str) -> str:
    """The registry of a model's name, by Ollama's rules."""
    parts = ref.split("://", 1)[-1].split("/")
    return parts[0].lower() if len(parts) > 2 else DEFAULT_REGISTRY


def _within(ref: str) -> str:
    """The name inside of its registry, as its protocol has it: namespace/model:tag."""
    parts = ref.split("://", 1)[-1].split("/")
    named = parts[-2:] if len(parts) > 1 else ["library", *parts]
    return "/".join(named) if ":" in named[-1] else f"{'/'.join(named)}:latest"


def check(inventory: Inventory, names: Names) -> None:
    """Tells sources that are not allowed, and a mirror that can't be."""
    allowed = {name.lower() for name in inventory.registries}
    written = names.top.get("registries")
    good = written is None or not written.is_list or len(written.value) == len(inventory.registries)
    for model in inventory.models if good else ():
        for source in model.sources:
            registry = registry_of(source.ref)
            if not is_file(source.ref) and registry not in allowed:
                message = f"models.{model.name}.from: models may not come from {registry}"
                hint = f"registries: [{', '.join([*inventory.registries, registry])}] would allow it"
                names.faults.add(message, source.where, hint)
    if inventory.mirror is not None:
        _mirror(inventory.mirror, inventory, names)


def _mirror(mirror: Mirror, inventory: Inventory, names: Names) -> None:
    faults = names.faults
    node = names.node("mirror")
    written = {"host", "folder"} & set(node.keys if node else ())  # whether or not it is good
    if len(written) != 1:
        both = "has 'host' and 'folder'" if written else "has neither 'host' nor 'folder'"
        hint = "host: one of the hosts gives models to the others; folder: they are sent from this machine"
        faults.add(f"mirror {both}", mirror.where, hint)
    elif mirror.folder is not None:
        archives.outside(mirror.folder, "mirror.folder", mirror.where, inventory.folder, faults)
    elif mirror.host is not None:
        _host(mirror, inventory, names)


def _host(mirror: Mirror, inventory: Inventory, names: Names) -> None:
    faults, name = names.faults, str(mirror.host)
    if name not in names.hosts:
        faults.add(
            f"mirror: there is no host {name!r}", mirror.where, near_or_list(name, names.hosts, "hosts")
        )
    found = [host for host in inventory.hosts if host.name == name]
    for host in found:
        if host.root is not None or host.state == "out":
            why = "is out" if host.state == "out" else "is a folder"
            faults.add(f"mirror: {name} {why}", mirror.where, "choose a host that is up while others change")
        if host.reached_at in ("127.0.0.1", "::1", "localhost") and len(inventory.hosts) > 1:
            hint = "give it a data_address"
            faults.add(f"mirror: other hosts can't reach {name} at {host.reached_at}", mirror.where, hint)
    seen: dict[str, str] = {}
    for model in inventory.models:
        for source in model.sources:
            other = seen.setdefault(_within(source.ref), source.ref)
            if registry_of(other) != registry_of(source.ref) and not is_file(source.ref):
                message = f"models.{model.name}.from: a mirror can't tell {source.ref} from {other}"
                faults.add(message, source.where, "use one of them, or no mirror")
