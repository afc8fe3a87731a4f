"""Whom instances let in while balancers change: the drop-ins of an apply, their end, what systemd shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import Wire, apply, ask, host, release

from ogen.agent import admission, closing, drift, locks, session, store
from ogen.agent.errors import Unproven
from ogen.agent.machine import Done, Machine
from ogen.agent.systemd import State, states
from ogen.agent.transaction import Host
from ogen.release.model import InstanceProof, Release

UNIT = "ogen-ollama-gpu0.service"
OLD, NEW, OTHER = "192.0.2.1", "192.0.2.2", "2001:db8::3"


def admitting(*addresses: str, text: str = "one", unit: str = UNIT) -> Release:
    proof = InstanceProof(unit, "gpu0", 11434, "0.32.15", (), (), addresses)
    return replace(release(text + " ".join(addresses), unit), instances=(proof,))


def test_what_goes_is_admitted_until_it_is_closed(tmp_path: Path) -> None:
    one = host(tmp_path)
    assert apply(one, admitting(OLD))["leaving"] == []
    assert apply(one, admitting(NEW))["leaving"] == [OLD]
    assert admission.leaving(one.disk) == {UNIT: [OLD]}
    assert apply(one, admitting(OTHER))["leaving"] == [OLD, NEW], "what was open stays so"
    assert apply(one, admitting(OTHER, NEW))["leaving"] == [OLD]
    assert ask(one, "close", keep=[OLD])["open"] == [OLD]
    assert ask(one, "close", keep=[NEW])["open"] == []
    assert admission.leaving(one.disk) == {}
    assert not list((tmp_path / "run/systemd/system").iterdir())


def test_an_instance_that_goes_and_a_second_apply_leave_nothing(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply(one, admitting(OLD))
    apply(one, admitting(NEW))
    assert apply(one, admitting(NEW, text="two"))["leaving"] == [OLD]
    assert apply(one, admitting(NEW, unit="ogen-ollama-gpu1.service"))["leaving"] == []
    assert admission.leaving(one.disk) == {}


@pytest.mark.parametrize("point", ["FLIP", "current"])
def test_the_way_back_restores_what_was_open_before(tmp_path: Path, point: str) -> None:
    one = host(tmp_path)
    apply(one, admitting(OLD))
    apply(one, admitting(NEW))

    def fail(change: Any) -> None:
        flipped = change.operation == "rename" and change.path == store.CURRENT
        if (point == "current" and flipped) or (point == "FLIP" and b'"FLIP"' in change.data):
            broken._before = None  # once
            raise OSError(5, "no")

    broken = host(tmp_path, fail).disk
    result = apply(Host(broken, Machine()), admitting(OTHER))
    assert result.get("status") == "rolled_back", result
    assert admission.leaving(one.disk) == {UNIT: [OLD]}


def test_a_boot_ends_what_a_transaction_had_found_open(tmp_path: Path) -> None:
    one = host(tmp_path)
    first = {"boot": "another", "leaving": {UNIT: [OLD]}}
    admission.put(one.disk, {UNIT: [OLD, NEW]})
    admission.put_back(one.disk, one.machine, first)
    assert admission.leaving(one.disk) == {}


def test_it_is_told_once_its_rollout_is_over_and_is_no_strangers_drop_in(tmp_path: Path) -> None:
    one = host(tmp_path)
    wish = admitting(NEW)
    apply(one, admitting(OLD))
    wire = Wire()
    rollout = session.Session(one, wire)
    contents = {f.sha256: f.content for f in wish.files}
    request = {
        "op": "apply",
        "manifest": wish.manifest(),
        "contents": [[digest, len(data)] for digest, data in contents.items()],
    }
    rollout.answer(request, b"".join(contents.values()))
    assert wire.said[-1]["leaving"] == [OLD]
    own = one.store.manifest(one.store.current)
    assert not list(drift.dropins(one.disk, own, own))
    assert compared(one, wish)["unchanged"], "its controller will close it"
    refused = ask(one, "close", keep=[])
    assert "another rollout is under way" in refused["message"]
    assert rollout.leaving
    rollout.leaving.drop()  # the kernel does it when the session ends
    report = compared(one, wish)
    assert (report["unchanged"], report["reload"]) == (False, [UNIT])
    assert f"still admits {OLD}" in report["why"][UNIT]
    assert ask(one, "close", keep=[])["open"] == []
    assert compared(one, wish)["unchanged"]


def compared(one: Host, wish: Release) -> dict[str, Any]:
    wire = Wire()
    session.Session(one, wire).answer({"op": "compare", "manifest": wish.manifest()}, b"")
    found: dict[str, Any] = wire.said[-1]["report"]
    return found


# ------------------------------------------------------------------------------- what systemd shows
class Shows(Machine):
    """A machine whose systemd shows these networks; `reloaded` come after a daemon-reload."""

    def __init__(self, now: str, reloaded: str = "", wait: Callable[[float], None] = lambda _: None) -> None:
        self.shown, self.reloaded = now, reloaded
        self.commands: list[str] = []

    def run(self, command: Any, timeout: float = 60.0, stdin: str = "") -> Done:
        self.commands.append(command[1])
        if command[1] == "daemon-reload":
            self.shown = self.reloaded
        return Done(0, f"Id={UNIT}\nActiveState=active\nIPAddressAllow={self.shown}\n")


@pytest.mark.parametrize(
    ("shown", "address", "let"),
    [
        ("192.0.2.1/32 127.0.0.0/8", OLD, True),
        ("192.0.2.0/24 ::1/128", OLD, True),
        ("192.0.2.2/32", OLD, False),
        ("2001:db8::3/128", OTHER, True),
        ("", OLD, False),
    ],
)
def test_an_address_is_let_in_alone_or_within_a_network(shown: str, address: str, let: bool) -> None:
    assert admission.lets_in(states(Shows(shown), [UNIT])[UNIT], address) == let


def test_a_systemd_that_does_not_say_is_believed() -> None:
    assert admission.lets_in(State("u"), OLD)


def test_what_systemd_dropped_is_not_proven() -> None:
    wish = admitting(NEW).manifest()
    admission.prove(Shows(f"{NEW}/32 {OLD}/32"), wish, {UNIT: [OLD]})
    with pytest.raises(Unproven, match=f"does not admit {OLD}: systemd shows {NEW}/32"):
        admission.prove(Shows(f"{NEW}/32"), wish, {UNIT: [OLD]})


@pytest.mark.parametrize(
    ("shown", "foreign", "why"),
    [
        (f"{NEW}/32 127.0.0.0/8 ::1/128", [], ""),
        (f"{NEW}/32 {OLD}/32", [], ""),  # still leaving
        ("127.0.0.0/8 192.0.2.1/32", [], f"does not admit {NEW}"),
        (f"{NEW}/32 {OLD}/32 10.0.0.0/8", [], "admits 10.0.0.0/8 as well"),
        (f"{NEW}/32 {OLD}/32 10.0.0.0/8", [f"/etc/systemd/system/{UNIT}.d/x.conf"], ""),
    ],
)
def test_what_runs_is_compared_with_what_is_meant(shown: str, foreign: list[str], why: str) -> None:
    seen = states(Shows(shown), [UNIT])
    found = admission.reasons(admitting(NEW).manifest(), seen, {UNIT: [OLD]} if OLD in shown else {}, foreign)
    assert found.get(UNIT, "").startswith(why)
    assert bool(found) == bool(why)


class Live(Host):
    @property
    def live(self) -> bool:
        return True


def test_an_address_that_something_else_admits_is_not_closed_in_silence(tmp_path: Path) -> None:
    one = host(tmp_path)
    apply(one, admitting(OLD))
    apply(one, admitting(NEW))
    fine = Shows(f"{NEW}/32 {OLD}/32", f"{NEW}/32")
    assert closing._close(Live(one.disk, fine), set()) == {}
    assert "daemon-reload" in fine.commands
    admission.put(one.disk, {UNIT: [OLD]})
    with pytest.raises(Exception, match=f"{UNIT} admits {OLD} even so"):
        closing._close(Live(one.disk, Shows("192.0.2.0/24", "192.0.2.0/24")), set())


def test_one_rollout_alone_is_to_close(tmp_path: Path) -> None:
    one = host(tmp_path)
    admission.put(one.disk, {UNIT: [OLD]})
    first, second = (session.Session(one, Wire()) for _ in range(2))
    closing.announce(first)
    closing.announce(second)
    assert first.leaving
    assert second.leaving is None
    assert locks.Lock(one.disk, admission.UNDER_WAY).held()
    first.leaving.drop()
