"""What starts, what restarts, what is left alone: decided from what runs."""

from __future__ import annotations

from typing import Any

import pytest

from ogen.agent import systemd
from ogen.agent.systemd import State

NEW, OLD = "new", "old"


def up(running: str = "") -> State:
    return State("u", "active", 42, hash=running)


@pytest.mark.parametrize(
    ("kind", "state", "believed", "decision"),
    [
        ("instance", State("u"), NEW, "start"),
        ("instance", State("u", "failed"), NEW, "start"),
        ("instance", up(NEW), OLD, "keep"),  # an interrupted apply had restarted it already
        ("instance", up(OLD), NEW, "restart"),  # its file changed in an apply that did not restart it
        ("instance", up(OLD), None, "restart"),
        ("instance", up(), None, "restart"),
        ("instance", up(NEW)._replace(stale=True), NEW, "restart"),
        ("balancer", up(), NEW, "keep"),  # nginx overwrites its environment
        ("balancer", up(), OLD, "restart"),
        ("timer", up(), NEW, "keep"),
        ("timer", up(), OLD, "restart"),
        ("timer", State("u"), NEW, "start"),
        ("target", up(), NEW, "keep"),
        ("oneshot", State("u"), NEW, "keep"),
        ("oneshot", State("u"), None, "start"),
        ("oneshot", up(), OLD, "start"),
    ],
)
def test_decide(kind: str, state: State, believed: str | None, decision: str) -> None:
    assert systemd.decide(kind, NEW, state, believed) == decision


def manifest(**values: Any) -> dict[str, Any]:
    return {"files": [], "units": [], "instances": [], "balancers": [], **values}


def unit(name: str, kind: str = "instance", digest: str = NEW, *, enable: bool = True) -> dict[str, Any]:
    return {"name": name, "kind": kind, "hash": digest, "enable": enable}


def test_plan_believes_what_this_transaction_started() -> None:
    wish, force = manifest(units=[unit("b", "balancer")]), manifest(units=[unit("b", "balancer", OLD)])
    assert systemd.plan(wish, force, {"b": up()}, {}) == {"b": "restart"}
    assert systemd.plan(wish, force, {"b": up()}, {"b": NEW}) == {"b": "keep"}


def test_plan_leaves_out_what_is_not_enabled() -> None:
    wish = manifest(units=[unit("a", enable=False), unit("b")])
    assert systemd.plan(wish, manifest(), {}, {}) == {"b": "start"}


def test_removed() -> None:
    assert systemd.removed(manifest(units=[unit("a")]), manifest(units=[unit("a"), unit("b")])) == ["b"]


def test_removed_instances_in_the_way_stop_first() -> None:
    def proof(name: str, port: int, *gpus: str) -> dict[str, Any]:
        return {"unit": name, "port": port, "gpus": list(gpus)}

    force = manifest(
        units=[unit("gpu0"), unit("gpu1"), unit("gpu2")],
        instances=[proof("gpu0", 11434, "0"), proof("gpu1", 11435, "1"), proof("gpu2", 11436, "2")],
    )
    wish = manifest(units=[unit("gpu0-1")], instances=[proof("gpu0-1", 11434, "0", "1")])
    assert systemd.in_the_way(wish, force) == ["gpu0", "gpu1"]


def test_held_off_are_the_services_of_others() -> None:
    files = [
        {"path": "/etc/systemd/system/ollama.service.d/ogen.conf"},
        {"path": "/etc/systemd/system/ogen-a.service.d/ogen.conf"},
        {"path": "/etc/systemd/system/x.service.d/other.conf"},
        {"path": "/etc/ogen/current/ogen.conf"},
    ]
    assert systemd.held_off(manifest(files=files, units=[unit("ogen-a.service")])) == ["ollama.service"]


BOUND = "41 40 0:31 {} /run/ogen-gpu0/models/manifests ro,nosuid - overlay overlay rw"


@pytest.mark.parametrize(
    ("root", "stale"),
    [
        ("/etc/ogen/releases/x/tree/instances/gpu0/manifests", False),
        ("/etc/ogen/releases/x/tree/instances/gpu0/manifests//deleted", True),
        ("/tmp/somebody//deleted", False),
    ],
)
def test_an_instance_whose_folder_was_removed_is_stale(root: str, stale: bool) -> None:
    assert systemd._unlinked("1 0 0:1 / / rw - ext4 x rw\n" + BOUND.format(root)) is stale


def test_an_instance_whose_view_was_edited_is_stale() -> None:
    one = manifest(instances=[{"unit": "a", "instance": "gpu0"}, {"unit": "b", "instance": "gpu1"}])
    damage = ["/etc/ogen/current/instances/gpu1/manifests/x", "/etc/ogen/current/bin/gpu0"]
    found = systemd.edited({"a": up(NEW), "b": up(NEW), "c": up(NEW)}, one, damage)
    assert [n for n, state in found.items() if state.stale] == ["b"]
