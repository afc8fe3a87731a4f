"""templates/autofit.py: which rung when, and what it does on the host. The decision is pure."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import amd_cards
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

GIB = 1 << 30
MIB = 1 << 20


def load() -> ModuleType:
    path = Path(__file__).parents[2] / "templates" / "autofit.py"
    spec = importlib.util.spec_from_file_location("autofit_script", path)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@cache
def core() -> ModuleType:
    """The script for what is pure in it."""
    return load()


@pytest.fixture
def script(tmp_path: Path) -> ModuleType:
    """The script, with its folders under tmp_path."""
    found: Any = load()
    for name in ("INSTANCES", "OWN", "LEASES", "STATE", "RUN", "JOURNAL", "CONFIG"):
        setattr(found, name, str(tmp_path / name.lower()))
    found.LOCKS = (str(tmp_path / "lock"), str(tmp_path / "tx.lock"))
    (tmp_path / "run").mkdir()
    return found


# --------------------------------------------------------------------------------- the decision
EVERY, HOLD, PER_HOUR = 10, 300, 6


def rules(margin: int = 512 * MIB) -> Any:
    return core().Rules(EVERY, HOLD, margin, PER_HOUR)


def played(
    needs: list[list[int]],
    rooms: list[list[int] | None],
    taken: Callable[[int], bool] = lambda _: True,
    start: int = 0,
) -> tuple[Any, list[tuple[int, int, int]]]:
    """All looks one after the other; (time, from, to) of each switch. `taken`: whether the host can do it."""
    known, made = core().mind(start), []
    for number, room in enumerate(rooms):
        now = number * EVERY
        known, decision = core().decide(needs, rules(), known, now, room)
        if decision.to is not None:
            assert room is not None
            assert core().fits(needs[decision.to], room), "a rung that does not fit was chosen"
            assert decision.why
            if taken(number):
                made.append((now, known.at, decision.to))
                known = core().switched(known, decision.to, now)
    return known, made


@st.composite
def ladders(draw: st.DrawFn) -> list[list[int]]:
    """Needs of rungs, falling on each of one or two cards."""
    cards = draw(st.integers(1, 2))
    rungs = draw(st.integers(2, 8))
    steps = draw(st.lists(st.integers(128, 4096), min_size=rungs * cards, max_size=rungs * cards))
    needs = []
    for rung in range(rungs):
        needs.append([sum(steps[card::cards][rung:]) * MIB for card in range(cards)])
    return needs


def rooms_for(needs: list[list[int]], longest: int) -> st.SearchStrategy[list[list[int] | None]]:
    """Free memory that stays for a while and jumps, near the edges of rungs above all; None: unreadable."""
    cards = len(needs[0])
    edges = [need[card] + d * MIB for need in needs for card in range(cards) for d in (-1, 0, 511, 512)]
    sizes = st.one_of(st.sampled_from(edges), st.integers(0, 40 * GIB))
    room = st.one_of(st.none(), st.lists(sizes, min_size=cards, max_size=cards))
    runs = st.lists(st.tuples(room, st.integers(1, 90)), min_size=1, max_size=40)
    return runs.map(lambda found: [r for r, times in found for _ in range(times)][:longest])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_it_does_not_flap_whatever_the_memory_does(data: st.DataObject) -> None:
    """Bounded: an up for each hold time at most, and in no hour more than the limit and one way down."""
    needs = data.draw(ladders())
    rooms = data.draw(rooms_for(needs, 1500))
    _, made = played(needs, rooms)
    ups = [when for when, at, to in made if to < at]
    assert all(later - earlier >= HOLD for earlier, later in pairwise(ups))
    for when, _, _ in made:
        within = [t for t, _, _ in made if when <= t < when + 3600]
        assert len(within) <= PER_HOUR + len(needs) - 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_comes_back_up_when_the_memory_does(data: st.DataObject) -> None:
    needs = data.draw(ladders())
    rooms = data.draw(rooms_for(needs, 600))
    plenty: list[list[int] | None] = [[need + 512 * MIB for need in needs[0]]] * ((3600 + HOLD) // EVERY + 2)
    known, made = played(needs, rooms + plenty)
    assert known.at == 0
    end = len(rooms) * EVERY
    assert all(to < at for when, at, to in made if when >= end + EVERY), "and goes only up meanwhile"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_at_the_second_look_it_is_on_a_rung_that_fits(data: st.DataObject) -> None:
    needs = data.draw(ladders())
    rooms = data.draw(rooms_for(needs, 300))
    short = data.draw(st.integers(0, len(needs) - 1))
    known, _ = played(needs, [*rooms, needs[short], needs[short]])
    assert known.at >= short
    assert core().fits(needs[known.at], needs[short])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_memory_that_swings_within_the_margin_switches_nothing_back(data: st.DataObject) -> None:
    needs = data.draw(ladders())
    runs = data.draw(st.lists(st.tuples(st.integers(-1, 511), st.integers(1, 60)), max_size=20))
    swing = [-1, -1, *(d for d, times in runs for _ in range(times))]
    rooms: list[list[int] | None] = [[need + d * MIB for need in needs[0]] for d in swing]
    _, made = played(needs, rooms)
    assert all(to > at for _, at, to in made), "nothing goes up"
    assert len(made) <= len(needs) - 1


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_switch_that_has_to_wait_is_wanted_again_for_as_long_as_it_is_right(data: st.DataObject) -> None:
    needs = data.draw(ladders())
    first = data.draw(st.integers(2, 50))
    rooms: list[list[int] | None] = [needs[-1]] * (first + 1)
    known, made = played(needs, rooms, taken=lambda look: look >= first)
    assert made == [(first * EVERY, 0, known.at)]
    assert core().fits(needs[known.at], needs[-1])


def test_one_look_that_is_short_is_not_enough() -> None:
    needs = [[8 * GIB], [6 * GIB]]
    rooms: list[list[int] | None] = [[7 * GIB], [9 * GIB]] * 50
    assert played(needs, rooms)[1] == []


def test_it_goes_to_the_best_rung_that_fitted_all_the_time() -> None:
    needs = [[8 * GIB], [6 * GIB], [4 * GIB]]
    rooms: list[list[int] | None] = [[20 * GIB]] * 20 + [[7 * GIB]] + [[20 * GIB]] * 41
    _, made = played(needs, rooms, start=2)
    assert made == [(300, 2, 1), (610, 1, 0)]


def test_cards_that_do_not_tell_change_nothing_and_the_hold_begins_anew() -> None:
    needs = [[8 * GIB], [6 * GIB]]
    rooms: list[list[int] | None] = [[20 * GIB]] * 29 + [None] + [[20 * GIB]] * 31
    assert played(needs, rooms, start=1)[1] == [(600, 1, 0)]


def test_where_nothing_fits_it_says_what_is_missing_and_stays() -> None:
    known, decision = core().decide([[8 * GIB], [6 * GIB]], rules(), core().mind(0), 0, [5 * GIB])
    assert decision == (None, "no rung fits: 1.0 GiB are missing for the lowest")
    assert known.at == 0


def test_too_many_switches_in_an_hour_wait() -> None:
    needs = [[8 * GIB], [6 * GIB]]
    known = core().mind(1, range(0, 60, 10))
    why = ""
    for now in range(100, 3700, EVERY):
        known, decision = core().decide(needs, rules(), known, now, [20 * GIB])
        why = why or decision.why
        if decision.to is not None:
            break
    assert why == "a better rung fits, but there were 6 switches in the last hour"
    assert now == 3600


# -------------------------------------------------------------------------------- in flight
IDLE = (
    "0 0 127.0.0.1:11434 127.0.0.1:40318\n"
    "\t cubic wscale:7,7 rto:204 bytes_received:210 lastsnd:8124 lastrcv:8600 lastack:8124 rcv_space:65483\n"
)
WAITING = IDLE.replace("lastsnd:8124 lastrcv:8600", "lastsnd:9000 lastrcv:7000")  # the client spoke last
STREAMING = IDLE.replace("lastsnd:8124", "lastsnd:12")
JUST_NOW = IDLE.replace("lastsnd:8124 ", "")  # ss leaves a zero out


@pytest.mark.parametrize(
    ("text", "busy"),
    [("", 0), (IDLE, 0), (WAITING, 1), (STREAMING, 1), (JUST_NOW, 1), (IDLE + WAITING + STREAMING, 2)],
)
def test_a_connection_counts_unless_the_instance_spoke_last(
    script: Any, monkeypatch: pytest.MonkeyPatch, text: str, busy: int
) -> None:
    class Done:
        returncode, stdout = 0, text.encode()

    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: Done)
    assert script.in_flight(11434, script.SPOKEN) == busy


def test_without_ss_every_connection_counts(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def missing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(script.subprocess, "run", missing)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert script.in_flight(port, script.SPOKEN) == 0
        with socket.create_connection(("127.0.0.1", port)):
            assert script.in_flight(port, None) == 1
            assert script.in_flight(port, script.SPOKEN) == 1


def test_quiet_is_a_second_without_a_request(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks in a row: a request that comes in between begins it anew, and one that stays ends it in time."""
    clock = [0.0]
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(script.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    looks: list[int] = []

    def seen(answers: list[int]) -> Callable[..., int]:
        looks.clear()
        return lambda *_: looks.append(1) or answers[min(len(looks), len(answers)) - 1]

    monkeypatch.setattr(script, "in_flight", seen([1, 0, 0, 1, 0]))
    assert script.quiet(11434, 60.0, None)
    assert len(looks) == 4 + script.QUIET
    monkeypatch.setattr(script, "in_flight", seen([1]))
    assert not script.quiet(11434, 3.0, None)
    assert 3.0 <= clock[0] - 1.8 < 4.0, "it waited so long, and no longer"
    monkeypatch.setattr(script, "in_flight", seen([0] * (script.QUIET - 1) + [1]))
    assert script.still_busy(11434, 3.0, None) == script.IN_FLIGHT


# ----------------------------------------------------------------------------------- memory
def test_what_the_instance_holds_is_not_taken_by_others(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nvml:
        held_: int | None = 9 * GIB

        def __enter__(self) -> Nvml:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def device(self, gpu: str) -> str:
            return gpu

        def memory(self, _: str) -> tuple[int, int]:
            return 24 * GIB, 11 * GIB

        def held(self, _: str, __: set[int]) -> int | None:
            return self.held_

    monkeypatch.setattr(script, "Nvml", Nvml)
    ladder = {"unit": "ogen-ollama-gpu0.service", "cards": [{"gpu": "GPU-1", "reserve": 0}]}
    assert script.room_of(ladder, [1], []) == [22 * GIB]
    ladder["cards"] = [{"gpu": "GPU-1", "reserve": 5 * GIB}]
    assert script.room_of(ladder, [1], []) == [19 * GIB], "others may come back to what is theirs"
    Nvml.held_ = None  # a container: the driver tells no processes, so the instance's own account counts
    models = [{"size_vram": 6 * GIB}, {"size_vram": 0}]
    ladder["cards"] = [{"gpu": "GPU-1", "reserve": 0}, {"gpu": "GPU-2", "reserve": 0}]
    assert script.room_of(ladder, [3, 1][: len(ladder["cards"])], models) == [
        13 * GIB + (6 * GIB + script.CONTEXT) * part // 4 for part in (3, 1)
    ]
    assert script.divided(100, []) == []


def test_amd_cards_by_the_kernel(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drm = tmp_path / "drm"
    monkeypatch.setattr(script, "DRM", str(drm))
    monkeypatch.setattr(script, "Nvml", lambda: pytest.fail("another maker's driver was asked"))
    ladder: Any = {"unit": "u", "vendor": "amd", "cards": [{"gpu": "GPU-1A2B3C4D5E6F7081", "reserve": 0}]}
    assert script.room_of(ladder, [1], []) is None, "no driver"
    amd_cards.card(drm, 0, "0000:03:00.0")
    lost = amd_cards.card(drm, 1, "0000:83:00.0", mem_info_vram_used=20 * GIB)
    assert script.room_of(ladder, [1], []) == [4 * GIB]
    own = 6 * GIB + script.CONTEXT
    assert script.room_of(ladder, [1], [{"size_vram": 6 * GIB}]) == [4 * GIB + own]
    ladder["cards"] = [{"gpu": "0", "reserve": 0}, {"gpu": "1", "reserve": 22 * GIB}]
    assert script.room_of(ladder, [1, 1], []) == [21 * GIB, 2 * GIB]
    (lost / "mem_info_vram_used").write_text("")
    assert script.room_of(ladder, [1, 1], []) is None
    ladder["cards"] = [{"gpu": "2", "reserve": 0}]
    assert script.room_of(ladder, [1], []) is None, "a card that is not there"


# ------------------------------------------------------------------------------------ files
def release(script: Any, names: tuple[str, ...] = ("a", "b"), model: str = "chat") -> dict[str, Any]:
    """Rungs of an instance gpu0, as a release brings them."""
    folder = Path(script.INSTANCES) / "gpu0"
    path = f"registry.ollama.ai/library/{model}/latest"
    rungs = []
    for number, name in enumerate(names):
        home = folder / f"rungs/{number}/manifests"
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(name)
        rungs.append(
            {
                "id": name,
                "about": f"about {name}",
                "need": [(10 - number) * GIB],
                "env": {"OLLAMA_KV_CACHE_TYPE": "q8_0"} if number else {},
                "folder": str(home),
                "manifests": [path],
                "models": {model: {"context": 8192 >> number, "verdict": "full", "build": "x"}},
            }
        )
    ladder = {
        "instance": "gpu0",
        "unit": "ogen-ollama-gpu0.service",
        "port": 1,
        "server": "127.0.0.1:1",
        "preload": True,
        "cards": [{"gpu": "0", "reserve": 0}],
        "rungs": rungs,
    }
    (folder / "rungs.json").write_text(json.dumps(ladder))
    return ladder


def tree(script: Any) -> dict[str, str]:
    home = Path(script.OWN) / "gpu0"
    return {
        str(p.relative_to(home)): p.read_text()
        for p in sorted(home.rglob("*"))
        if p.is_file() and p.name != "chosen.json"
    }


CHAT = "manifests/registry.ollama.ai/library/chat/latest"


def room(monkeypatch: pytest.MonkeyPatch, script: Any, *sizes: int) -> None:
    monkeypatch.setattr(script, "room_of", lambda *_: list(sizes) or None)


def test_the_first_start_takes_what_fits(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release(script)
    room(monkeypatch, script, 9 * GIB)
    script.adopt("gpu0")
    assert tree(script) == {"env": 'OLLAMA_KV_CACHE_TYPE="q8_0"\n', CHAT: "b"}
    said = "gpu0: rung 2 of 2 (about b): the first that fits: 9.0 GiB are free\n"
    assert capsys.readouterr().out == said
    assert script.chosen("gpu0")["contexts"] == {"chat": 4096}


def test_a_choice_outlives_an_apply_where_the_release_still_has_it(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.put(release(script), 1, "short", [3.0])
    before = script.chosen("gpu0")
    release(script, ("new", "a", "b"), model="talk")
    room(monkeypatch, script, 90 * GIB)
    script.adopt("gpu0")
    talk = CHAT.replace("chat", "talk")
    assert tree(script) == {"env": 'OLLAMA_KV_CACHE_TYPE="q8_0"\n', talk: "b"}, "and no manifest stays behind"
    now = script.chosen("gpu0")
    assert {k: now[k] for k in ("id", "rung", "of")} == {"id": "b", "rung": 2, "of": 3}
    assert {k: now[k] for k in ("why", "since", "switches")} == {
        k: before[k] for k in ("why", "since", "switches")
    }
    release(script, ("new", "other"))
    script.adopt("gpu0")
    assert tree(script) == {"env": "", CHAT: "new"}, "a choice that is gone: the first rung that fits"


@pytest.mark.parametrize(("sizes", "rung"), [((), 0), ((GIB,), 1)], ids=["no-driver", "nothing-fits"])
def test_it_starts_with_something(
    script: Any, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], rung: int
) -> None:
    release(script)
    room(monkeypatch, script, *sizes)
    script.adopt("gpu0")
    assert script.chosen("gpu0")["rung"] == rung


# ------------------------------------------------------------------------------------ alone
def test_nothing_is_switched_while_somebody_holds_the_host(script: Any, tmp_path: Path) -> None:
    for path in script.LOCKS:
        Path(path).write_text("{}")
    with script.alone("x") as why:
        assert why == ""
        assert json.loads(Path(script.LOCKS[0]).read_text())["who"] == "ogen-autofit"
        with script.alone("y") as inner:
            assert inner == "an apply holds the host"
        assert json.loads(Path(script.LOCKS[0]).read_text())["what"] == "x", "the holder's note stays"
    with Path(script.LOCKS[1]).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with script.alone("x") as why:
            assert why == "an apply holds the host"
    with script.alone("x") as why:
        assert why == "", "both were let go"


def test_nothing_is_switched_while_a_transaction_waits_for_its_recovery(script: Any) -> None:
    from ogen.agent import journal

    lines = [journal.line({"rec": rec}) for rec in ("BEGIN", "PREPARED", "FLIP")]
    Path(script.JOURNAL).write_bytes(b"".join(lines))
    with script.alone("x") as why:
        assert why == "an apply is unfinished"
    Path(script.JOURNAL).write_bytes(b"".join([*lines, journal.line({"rec": "END"})]))
    with script.alone("x") as why:
        assert why == ""


def members(script: Any, servers: dict[str, list[str]], down: tuple[str, ...] = ()) -> None:
    folder = Path(script.RUN) / "ogen-balancer-api"
    folder.mkdir(exist_ok=True)
    (folder / "members.json").write_text(
        json.dumps({"unit": "ogen-balancer-api.service", "servers": servers})
    )
    Path(script.STATE).write_text(json.dumps({"down": list(down), "taken": {"api": list(down)}}))


def test_the_last_one_of_a_pool_is_not_restarted(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    members(script, {"127.0.0.1:1": ["chat"], "127.0.0.1:2": ["chat", "coder"]})
    assert script.only_one("127.0.0.1:1") == []
    assert script.only_one("127.0.0.1:2") == ["coder"]
    assert script.only_one("127.0.0.1:3") == []
    members(script, {"127.0.0.1:1": ["chat"], "127.0.0.1:2": ["chat"]}, down=("127.0.0.1:2",))
    assert script.only_one("127.0.0.1:1") == ["chat"]
    members(script, {"127.0.0.1:1": []})
    assert script.only_one("127.0.0.1:1") == [""], "a balancer that does not tell models apart"


def test_a_lease_is_taken_and_given_back(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    members(script, {"127.0.0.1:1": ["chat"], "127.0.0.1:2": ["chat"]}, down=("127.0.0.1:1",))
    with script.leased("gpu0", "127.0.0.1:1") as (why, names):
        assert (why, names) == ("", ["api"])
        lease = json.loads((Path(script.LEASES) / "autofit-gpu0.json").read_text())
        assert lease["servers"] == ["127.0.0.1:1"]
    assert list(Path(script.LEASES).iterdir()) == []
    monkeypatch.setattr(script, "until", lambda *_: False)
    with script.leased("gpu0", "127.0.0.1:2") as (why, _):
        assert why == "the balancers here do not take a lease"
    with script.leased("gpu9", "127.0.0.1:9") as (why, names):
        assert (why, names) == ("", []), "no balancer here lists it"


# --------------------------------------------------------------------------------- a switch
@pytest.fixture
def steps(script: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a switch does, in its order; quiet, and with room for all."""
    done: list[str] = []
    room(monkeypatch, script, 90 * GIB)
    monkeypatch.setattr(script, "running", lambda _: [])
    monkeypatch.setattr(script, "quiet", lambda *_: True)
    monkeypatch.setattr(script, "in_flight", lambda *_: 0)
    monkeypatch.setattr(script, "unload", lambda _: done.append("unload") or True)
    monkeypatch.setattr(script, "ask", lambda *_, **__: {"version": "x"})
    monkeypatch.setattr(script, "systemctl", lambda *args, **_: done.append(" ".join(args)) or True)
    put = script.put
    monkeypatch.setattr(script, "put", lambda *args: (done.append("put"), put(*args))[1])
    return done


def test_manifests_alone_need_no_restart(script: Any, steps: list[str]) -> None:
    ladder = release(script)
    ladder["rungs"][1]["env"] = {}
    script.put(ladder, 1, "")
    steps.clear()
    assert script.switch(ladder, 1, 0, "why", [1.0]) == ""
    assert steps == ["unload", "put", "restart --no-block ogen-preload@gpu0.service"]
    assert (tree(script)[CHAT], script.chosen("gpu0")["why"]) == ("a", "why")


def test_settings_of_the_server_need_one(script: Any, steps: list[str]) -> None:
    ladder = release(script)
    script.put(ladder, 1, "")
    steps.clear()
    assert script.switch(ladder, 1, 0, "why", []) == ""
    assert steps == [
        "put",
        "restart ogen-ollama-gpu0.service",
        "restart --no-block ogen-preload@gpu0.service",
    ]


@pytest.mark.parametrize("restart", [False, True])
def test_balancers_come_back_when_the_models_are_loaded(
    script: Any, steps: list[str], monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    ladder = release(script)
    ladder["rungs"][1]["env"] = {"A": "1"} if restart else {}
    script.put(ladder, 1, "")
    members(script, {"127.0.0.1:1": ["chat"], "127.0.0.1:2": ["chat"]})
    monkeypatch.setattr(script, "until", lambda true, *_: bool(true) if restart else True)
    lease = Path(script.LEASES) / "autofit-gpu0.json"
    there: list[bool] = []
    monkeypatch.setattr(script, "systemctl", lambda *args, **_: there.append(lease.exists()) or True)
    assert script.switch(ladder, 1, 0, "why", []) == ""
    assert there == [True] * (1 + restart)
    assert not lease.exists()


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "reason",
    ["a request is in flight", "flight: just now", "free memory has just changed", "the release has changed"],
)
def test_a_switch_waits(
    script: Any, steps: list[str], monkeypatch: pytest.MonkeyPatch, reason: str, restart: bool
) -> None:
    ladder = release(script)
    if not restart:
        ladder["rungs"][1]["env"] = {}
    script.put(ladder, 1, "")
    before = tree(script)
    if "just now" in reason:
        monkeypatch.setattr(script, "in_flight", lambda *_: 1)
        reason = script.IN_FLIGHT
    elif "flight" in reason:
        monkeypatch.setattr(script, "quiet", lambda *_: False)
    elif "memory" in reason:
        room(monkeypatch, script, 9 * GIB)
    else:
        release(script, ("c", "d"))
    steps.clear()
    assert script.switch(ladder, 1, 0, "why", []) == reason
    assert (steps, tree(script)) == ([], before)


def test_the_last_of_its_pool_keeps_its_server(script: Any, steps: list[str]) -> None:
    ladder = release(script)
    script.put(ladder, 1, "")
    members(script, {"127.0.0.1:1": ["chat"]})
    steps.clear()
    assert script.switch(ladder, 1, 0, "why", []) == "no other instance would serve chat"
    assert steps == []


def test_the_watch_says_what_it_does_and_what_it_waits_for_once(
    script: Any, steps: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ladder = release(script)
    ladder["rungs"][1]["env"] = {}
    (Path(script.INSTANCES) / "gpu0" / "rungs.json").write_text(json.dumps(ladder))
    script.put(ladder, 0, "")
    watch = script.Watch(
        {"every": 10, "hold": 300, "margin": 512 * MIB, "per_hour": 6, "instances": ["gpu0"]}
    )
    room(monkeypatch, script, int(9.5 * GIB))
    monkeypatch.setattr(script, "quiet", lambda *_: False)
    for now in range(0, 50, 10):
        watch.round(float(now))
    assert capsys.readouterr().out == "gpu0: waits to go to rung 2 (about b): a request is in flight\n"
    monkeypatch.setattr(script, "quiet", lambda *_: True)
    watch.round(50.0)
    assert capsys.readouterr().out == (
        "gpu0: rung 2 of 2 (about b): it does not fit any more; 9.5 GiB are free or its own, "
        "rung 1 needs 10.0 GiB, rung 2 needs 9.0 GiB\n"
    )
    assert script.chosen("gpu0")["switches"] == [50.0]
    room(monkeypatch, script, 20 * GIB)
    for now in range(60, 400, 10):
        watch.round(float(now))
    assert "rung 1 of 2 (about a): memory has come back for 300 s" in capsys.readouterr().out
    (Path(script.OWN) / "gpu0" / "chosen.json").unlink()
    watch.round(400.0)
    assert capsys.readouterr().out == "gpu0: its next start chooses a rung of the release in force\n"


# ---------------------------------------------------------------------------------- the driver
ASKED = """\
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("autofit_script", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
script.CGROUPS = (sys.argv[2],)
ladder = {"unit": "u.service", "cards": [{"gpu": gpu, "reserve": 0} for gpu in sys.argv[3:]]}
print(json.dumps(script.room_of(ladder, [3, 1][: len(ladder["cards"])], [{"size_vram": 1 << 30}])))
"""


def test_the_drivers_own_figures(tmp_path: Path, need: Callable[[str], str]) -> None:
    """The room on each card by the fake NVML: with the processes of the unit's control group, and without."""
    library = tmp_path / "libnvidia-ml.so.1"
    source = Path(__file__).parents[1] / "testbed" / "fake_nvml.c"
    flags = ["-shared", "-fPIC", "-D_POSIX_C_SOURCE=200809L"]
    subprocess.run([need("cc"), *flags, "-o", str(library), str(source)], check=True)
    (tmp_path / "u.service").mkdir()
    procs = tmp_path / "u.service" / "cgroup.procs"
    procs.write_text(f"1\n{os.getpid()}\n")
    name = f"GPU-{os.urandom(8).hex()}"
    env = {
        "LD_LIBRARY_PATH": str(tmp_path),
        "FAKE_NVML_GPUS": f"24576:1024:::::{name},8192:512,8192:lost",
        "PATH": "/usr/bin",
    }

    def room(*cards: str) -> Any:
        path = str(Path(__file__).parents[2] / "templates" / "autofit.py")
        command = [sys.executable, "-I", "-c", ASKED, path, str(tmp_path), *cards]
        return json.loads(subprocess.run(command, env=env, check=True, capture_output=True).stdout)

    held = Path(f"/dev/shm/fake-gpu.{os.getpid()}")
    try:
        held.write_text(f"{name} {6 * GIB}\n")
        assert room(name) == [23 * GIB]
        procs.write_text("1\n")
        assert room(name) == [17 * GIB + GIB + core().CONTEXT], (
            "nobody's processes: the instance's own account"
        )
    finally:
        held.unlink()
    own = (GIB + core().CONTEXT) * 1 // 4
    assert room(name, "1") == [24 * GIB - GIB + min(GIB, own * 3), 8 * GIB - 512 * MIB + min(own, 512 * MIB)]
    assert room("2") is None
    env["FAKE_NVML_GPUS"] = "!9"
    assert room("0") is None


def test_balancers_are_not_kept_away_again_and_again_for_one_that_does_not_get_quiet(
    script: Any, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder = release(script)
    (Path(script.INSTANCES) / "gpu0" / "rungs.json").write_text(json.dumps(ladder))
    script.put(ladder, 0, "")
    members(script, {"127.0.0.1:1": ["chat"], "127.0.0.1:2": ["chat"]}, down=("127.0.0.1:1",))
    watch = script.Watch(
        {"every": 10, "hold": 300, "margin": 512 * MIB, "per_hour": 6, "instances": ["gpu0"]}
    )
    room(monkeypatch, script, int(9.5 * GIB))
    tries: list[float] = []
    script.DRAIN = 0.0
    monkeypatch.setattr(script, "quiet", lambda *_: tries.append(now) and False)
    for now in [float(n) for n in range(0, 700, 10)]:
        watch.round(now)
    assert tries == [10.0, 310.0, 610.0]
