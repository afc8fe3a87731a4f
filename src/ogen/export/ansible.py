"""The fleet as an Ansible project: inventory, playbooks, the releases of the hosts, and ogen's agent as a
collection."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .. import __version__, shipped
from ..inventory.model import Host
from ..plan.model import Plan
from ..playbook import find
from ..push import Options, Pools, Target, pools_of
from ..push.edges import BY_HAND, lease_id
from ..release.model import File, Release
from .ansible_inventory import host_variables, reachable

PLAYBOOKS = ("provision.yaml", "apply.yaml", "rollback.yaml", "retire.yaml")
COLLECTION = "collections/ansible_collections/ogen/fleet"
HOSTS, BLOBS, ARCHIVES = "files/hosts", "files/blobs", "files/archives"
TOP = "{{ inventory_dir }}"  # wherever the project was checked out to
CONFIG = """\
[defaults]
inventory = inventory.yaml
collections_path = collections
forks = 32
interpreter_python = auto_silent

[ssh_connection]
pipelining = true
"""


@dataclass(frozen=True, slots=True)
class Project:
    """Files by their path in the project; `copies` are large files of this machine; `secrets` the files that
    hold keys."""

    files: Mapping[str, File]
    secrets: Mapping[str, File]
    copies: Mapping[str, Path] = field(default_factory=dict)


def export(plan: Plan, targets: Sequence[Target], options: Options) -> Project:
    """The project for the hosts that Ansible may work on; `targets` are rendered with their secrets."""
    names = {host.name for host in reachable(plan.inventory)}
    chosen = [target for target in targets if target.host.name in names]
    inventory, copies = _inventory(plan)
    files = {"ansible.cfg": CONFIG, "inventory.yaml": inventory, "README.md": _readme()}
    found = {name: _text(name, text) for name, text in files.items()}
    for name in PLAYBOOKS:
        found[f"playbooks/{name}"] = _playbook(name, Path(plan.inventory.folder))
    found |= {f"{COLLECTION}/{name}": file for name, file in collection()}
    secrets: dict[str, File] = {}
    for target in chosen:
        top = f"{HOSTS}/{target.host.name}"
        found[f"{top}/release.json"] = _text("release.json", _described(target.release, options))
        for file in target.release.files:
            (secrets if file.secret else found)[f"{top}{file.path}"] = file
        for digest, path in target.uploads.items():
            copies[f"{BLOBS}/{digest.replace(':', '-')}"] = Path(path)
    return Project(found, secrets, copies)


def _readme() -> str:
    return (resources.files("ogen") / "export" / "ansible_project.md").read_text("utf-8")


def _text(name: str, text: str) -> File:
    return File(f"/{name}", text.encode())


def _described(release: Release, options: Options) -> str:
    """What a host must be told of its release, beside the files."""
    told = {"id": release.id, "patience": options.patience(), "manifest": release.manifest()}
    return json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _playbook(name: str, project: Path) -> File:
    """The project's own, else the shipped one. Ansible's linter wants a document's start marked."""
    text = find(name, project).read_text("utf-8")
    return _text(name, text if text.startswith("---") else f"---\n{text}")


# ------------------------------------------------------------------------------------- the collection
def collection() -> Iterator[tuple[str, File]]:
    """The modules with their plugins, the agent's code, and what makes one file of it."""
    folder = shipped.folder("collection")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "__pycache__" not in name:
            yield (
                name,
                _text(name, path.read_text("utf-8").replace("version: 0.0.0", f"version: {__version__}")),
            )
    package = resources.files("ogen")
    for source in sorted((package / "agent").iterdir(), key=lambda one: one.name):
        if source.name.endswith(".py"):
            yield f"plugins/module_utils/agent/{source.name}", _text(source.name, source.read_text("utf-8"))
    packing = (package / "push" / "packing.py").read_text("utf-8")
    yield "plugins/plugin_utils/packing.py", _text("packing.py", packing)


# -------------------------------------------------------------------------------------- the inventory
def _inventory(plan: Plan) -> tuple[str, dict[str, Path]]:
    """Ansible's inventory as YAML, and archives that go along."""
    copies: dict[str, Path] = {}
    pools = pools_of(plan)
    ordered = sorted(
        reachable(plan.inventory), key=lambda host: not (host.gpus or host.pins)
    )  # as apply goes
    hosts = {host.name: _variables(plan, pools, host, copies) for host in ordered}
    groups = {name: {"hosts": _members(plan, name)} for name in plan.inventory.groups}
    whole: dict[str, Any] = {"all": {"hosts": hosts, "children": groups} if groups else {"hosts": hosts}}
    yaml = YAML()
    yaml.explicit_start = True
    yaml.width = 1 << 16
    yaml.indent(mapping=2, sequence=4, offset=2)
    target = io.StringIO()
    yaml.dump(whole, target)
    return target.getvalue(), copies


def _members(plan: Plan, group: str) -> dict[str, dict[str, Any]]:
    return {host.name: {} for host in reachable(plan.inventory) if group in host.groups}


def _variables(plan: Plan, pools: Pools, host: Host, copies: dict[str, Path]) -> dict[str, Any]:
    """Those of `ogen inventory`, with archives as files of the project, and what the modules want to know."""
    found = dict(host_variables(plan.inventory, host))
    found["ogen_ollama_archives"] = [_archive(one, copies) for one in found["ogen_ollama_archives"]]
    found["ogen_release"] = f"{TOP}/{HOSTS}/{host.name}"
    ports = {name: port for (owner, name), port in sorted(pools.ports.items()) if owner == host.name}
    own = {one.name: one.port for one in next(h for h in plan.hosts if h.host == host).instances}
    found["ogen_instances"] = own
    found["ogen_leases"] = {
        edge.name: {
            name: {
                "id": lease_id(BY_HAND, (host.name, name)),
                "server": pools.server(edge.name, host.name, port),
            }
            for name, port in ports.items()
        }
        for edge in pools.edges
        if ports
    }
    found["ogen_edges"] = list(found["ogen_leases"])
    return found


def _archive(one: Mapping[str, str], copies: dict[str, Path]) -> dict[str, str]:
    if not one["file"]:
        return dict(one)
    place = f"{ARCHIVES}/{one['sha256'][:12]}/{one['name']}"
    copies[place] = Path(one["file"])
    return {**one, "file": f"{TOP}/{place}"}
