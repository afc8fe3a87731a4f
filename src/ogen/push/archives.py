"""The archives that a playbook unpacks: files of the project that are sent to the host that asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..inventory.model import Host, Inventory
from ..playbook import Step
from .uploads import digest_of


def sent(inventory: Inventory, host: Host, steps: Sequence[Step]) -> tuple[tuple[Step, ...], dict[str, str]]:
    """The steps with digests in place of the project's files, and the path of each digest."""
    paths: dict[str, str] = {}

    def one(step: Step) -> Step:
        if step.module != "unarchive" or step.args.get("remote_src"):
            return step
        path = Path(inventory.folder, str(step.args["src"]))
        if not path.resolve().is_relative_to(Path(inventory.folder).resolve()):
            hint = "ogen sends nothing from outside of it; put the file inside"
            message = f"`src` of unarchive: {step.args['src']!r} is outside of the project's folder"
            raise UsageError(message, where=step.where, hint=hint)
        digest = f"sha256:{digest_of(path, step.where)}"
        paths[digest] = str(path)
        return replace(step, args={**step.args, "src": digest})

    return tuple(one(step) for step in steps), paths
