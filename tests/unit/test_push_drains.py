"""Tasks of a play with drains between them: what runs where, in which order, and what a check does of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ogen.errors import RemoteError
from ogen.inventory.model import Host, Inventory, Rollout
from ogen.playbook import course, load
from ogen.push import drains as module
from ogen.push.around import Around
from ogen.push.edges import BY_HAND, Lease, lease_id
from ogen.push.operate import Drained
from ogen.push.pools import Pools
from ogen.push.results import HostResult, Options

ONE, TWO = ("gpu", "gpu0"), ("gpu", "gpu1")
PLAY = """\
- hosts: all
  gather_facts: false
  tasks:
    - {{name: First, copy: {{dest: /a, content: a}}}}
    - {{name: Away, ogen.fleet.drain: {{state: drained{more}}}, notify: Tell}}
    - {{name: Then, copy: {{dest: /b, content: b}}}}
    - ogen.fleet.release: {{src: "{{{{ ogen_release }}}}"}}
    - {{name: Back, ogen.fleet.drain: {{state: served}}}}
  handlers:
    - {{name: Tell, copy: {{dest: /c, content: c}}}}
"""


class World:
    """Leases in memory, and what was done in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.leased: set[str] = set()
        self.done: list[str] = []
        self.busy: tuple[str, ...] = ()
        patch.setattr(module, "Edge", lambda host, options: self)
        patch.setattr(module.operate, "drain", self.drain)
        patch.setattr(module.operate, "undrain", self.undrain)

    # ---- an Edge
    def listed(self, *, strict: bool) -> list[Lease]:
        return [Lease(BY_HAND, one.partition(".")[2], 9.0, "ops") for one in self.leased]

    def close(self) -> None:
        pass

    # ---- operate
    def drain(
        self, pools: Any, hosts: Any, ports: Any, options: Any, *, seconds: float, on_event: Any
    ) -> Any:
        self.done.append(f"drain {' '.join(m[1] for m in ports)} {seconds:.0f}")
        self.leased |= {lease_id(BY_HAND, member) for member in ports}
        return [Drained(member, self.busy) for member in ports]

    def undrain(self, pools: Any, ports: Any, options: Any) -> Any:
        self.done.append(f"undrain {' '.join(m[1] for m in ports)}")
        self.leased -= {lease_id(BY_HAND, member) for member in ports}
        return [Drained(member) for member in ports]

    # ---- a Contact
    host = Host("gpu", "192.0.2.1")
    lost = False

    def stat(self, path: str) -> Mapping[str, Any]:
        return {"exists": False}

    def steps(self, document: Mapping[str, Any], uploads: Mapping[str, str]) -> Mapping[str, Any]:
        names = [step["name"] for step in document["steps"]]
        self.done.append(f"{'check' if document['check'] else 'run'} {' '.join(names)}")
        shape = {"changed": True, "failed": False, "msg": "", "diff": {"before": "", "after": ""}}
        return {"results": [{**shape, "name": name, "module": "copy"} for name in names]}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def around(folder: Path, more: str = "", ports: Sequence[tuple[str, str]] = (ONE, TWO)) -> Around:
    path = folder / "play.yaml"
    path.write_text(PLAY.format(more=more))
    inventory = Inventory(
        hosts=(World.host,),
        name="inventory.yaml",
        models=(),
        balancers=(),
        groups={},
        rollout=Rollout(),
        folder=str(folder),
    )
    numbers = {member: 11434 + number for number, member in enumerate(ports)}
    pools = Pools((Host("edge", "192.0.2.2"),), {"api/chat": frozenset(ports)}, {}, numbers)
    play = course(load(path), "present")
    return Around(inventory, play, Options(), pools, lambda _: {"ogen_release": "r"})


def went(world: World, made: Around) -> HostResult:
    opened: Any = world
    made.prepare(opened)
    made.before(opened)
    world.done.append("release")
    made.after(opened, changed=True)
    return made.told(HostResult("gpu", "applied"))


def test_drains_stand_between_the_steps_of_the_host(world: World, tmp_path: Path) -> None:
    result = went(world, around(tmp_path))
    assert world.done == [
        "run First",
        "drain gpu0 gpu1 3600",
        "run Then",
        "release",
        "undrain gpu0 gpu1",
        "run Tell",
    ]
    assert [step.msg for step in result.steps if step.name == "Away"] == [
        "gpu0: served → drained, gpu1: served → drained"
    ]


def test_what_is_away_already_is_no_change(world: World, tmp_path: Path) -> None:
    world.leased = {lease_id(BY_HAND, ONE)}
    went(world, around(tmp_path, ", instances: [gpu0], seconds: 60"))
    assert world.done == ["run First", "run Then", "release", "undrain gpu0"]
    assert world.leased == set()


def test_a_check_only_looks_at_the_leases(world: World, tmp_path: Path) -> None:
    made = around(tmp_path)
    opened: Any = world
    made.prepare(opened)
    made.foresee(opened, ["ogen-gpu0.service"], changed=True)
    assert world.done == ["check First", "check Then", "check Tell"]
    assert [(s.name, s.changed) for s in made.steps["gpu"]] == [
        ("First", True),
        ("Away", True),
        ("Then", True),
        ("Back", True),
        ("Tell", True),
    ]


def test_an_instance_that_stays_busy_fails_the_host(world: World, tmp_path: Path) -> None:
    world.busy = ("192.0.2.2",)
    made = around(tmp_path, ", instances: gpu1")
    opened: Any = world
    made.prepare(opened)
    with pytest.raises(RemoteError, match=r"gpu/gpu1 is still busy with 192\.0\.2\.2") as caught:
        made.before(opened)
    assert str(caught.value.hint).startswith("nothing was put in force")
    assert world.done == ["run First", "drain gpu1 3600"]


@pytest.mark.parametrize(
    ("ports", "said"), [((ONE, TWO), "there are gpu0, gpu1"), ((), "no balancer lists an instance")]
)
def test_an_instance_that_is_none_of_the_host(
    world: World, tmp_path: Path, ports: Sequence[tuple[str, str]], said: str
) -> None:
    with pytest.raises(RemoteError, match="has no instance gpu7") as caught:
        around(tmp_path, ", instances: [gpu7]", ports).prepare(world)  # type: ignore[arg-type]
    assert str(caught.value.where).endswith("play.yaml:5:7")
    assert said in str(caught.value.hint)
    assert world.done == []
