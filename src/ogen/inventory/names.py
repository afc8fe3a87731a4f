"""The names that an inventory defines, for checks across its parts; who refers to what is not there."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Where
from ..source import Node
from .faults import Faults, near_or_list
from .merging import HostEntry
from .model import Inventory
from .patterns import listed


class Names:
    """The names that the inventory defines, whether or not what they name is good."""

    def __init__(
        self, inventory: Inventory, top: Node, checked: Node, hosts: Mapping[str, HostEntry], faults: Faults
    ) -> None:
        self.inventory = inventory
        self.top = top
        self.checked = checked
        self.faults = faults
        self.hosts = list(hosts)
        self.groups = inventory.groups
        self.models = [name for name, _ in (top.get("models") or Node({}, top.where)).items()]

    def check(self) -> None:
        groups = self.checked.get("groups")
        for name in self.groups:
            where = groups.keys.get(name) if groups else None
            if name == "all":
                self.faults.add("a group can't be named 'all': that is every host", where)
            if name in self.hosts:
                self.faults.add(f"{name!r} is a group and a host", where, "rename one of them")

    def node(self, *path: str) -> Node | None:
        node: Node | None = self.checked
        for step in path:
            node = node.get(step) if node else None
        return node

    def pattern(self, terms: Node | None, subject: str) -> tuple[str, ...]:
        """The hosts of a list of patterns; tells those without a match."""
        return listed(self.hosts, self.groups, terms.value, subject, self.faults) if terms else ()

    def model_known(self, name: str, subject: str, where: Where | None) -> None:
        if name not in self.models:
            hint = near_or_list(name, self.models, "models")
            self.faults.add(f"{subject}: there is no model {name!r}", where, hint)
