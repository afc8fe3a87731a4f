"""Where the hosts of a rollout get their models: registries, the mirror, or a folder of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import HostError
from .results import Comparison, Event, Target

if TYPE_CHECKING:
    from .mirror import Mirror, Shelf
    from .rollout import Rollout


@dataclass(frozen=True, slots=True)
class Origins:
    """What the inventory has in place of the registries."""

    mirror: Mirror | None = None
    shelf: Shelf | None = None


@dataclass
class Supplies:
    """What each host's agent is told of it."""

    rollout: Rollout
    origins: Origins
    common: dict[str, Any] = field(default_factory=dict)

    def of(self, target: Target) -> dict[str, Any]:
        mirror = self.origins.mirror
        ours = mirror is not None and target.host.name == mirror.host.name
        return dict(target.supply) if ours else {**self.common, **target.supply}

    def prepare(self, stack: ExitStack) -> None:
        """The mirror gets what others lack, and gives it to them until `stack` ends; hosts that can't have
        their models fail before anything is started."""
        needs = lacking(self.rollout.targets, self.rollout.seen)
        needs = {name: sources for name, sources in needs.items() if sources and not self._ended(name)}
        if self.origins.shelf is not None:
            self._from_shelf(self.origins.shelf, needs)
        if self.origins.mirror is not None:
            needs.pop(self.origins.mirror.host.name, None)
            if needs:
                self._from_mirror(self.origins.mirror, needs, stack)

    def _ended(self, name: str) -> bool:
        return name in self.rollout.results

    def _from_shelf(self, shelf: Shelf, needs: dict[str, dict[str, int]]) -> None:
        for name, sources in needs.items():
            error = shelf.lacks(name, sources)
            if error:
                self.rollout.fail(error)

    def _from_mirror(self, mirror: Mirror, needs: dict[str, dict[str, int]], stack: ExitStack) -> None:
        run = self.rollout
        wanted = {source: size for sources in needs.values() for source, size in sources.items()}
        try:
            self.common = stack.enter_context(mirror.serving(wanted, run.options, run.on_event))
        except HostError as error:
            if mirror.origin:
                text = f"the mirror can't be had ({error.message}): hosts ask the registries"
                run.on_event(Event(mirror.host.name, "models", text))
                return
            for name in needs:
                run.fail(mirror.missed(name, f"{mirror.host.name}: {error.message}"))


def lacking(targets: Sequence[Target], seen: Mapping[str, Comparison]) -> dict[str, dict[str, int]]:
    """By host: models that it has to load and that are no files of the control machine, with their bytes."""
    found = {}
    for target in targets:
        name = target.host.name
        if name in seen and not seen[name].unchanged:
            sizes = {model.source: model.size or 0 for model in target.release.models}
            missing = seen[name].room.get("sources", ())
            found[name] = {s: sizes.get(s, 0) for s in missing if not s.startswith("sha256:")}
    return found


def for_others(mirror: str, targets: Sequence[Target], seen: Mapping[str, Comparison]) -> dict[str, int]:
    """What the mirror has to load for others alone."""
    needs = lacking(targets, seen)
    own = needs.pop(mirror, {})
    return {s: size for sources in needs.values() for s, size in sources.items() if s not in own}
