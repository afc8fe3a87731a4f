"""The gate: one queue for each pool, never more at once than it has slots; across reloads and deaths."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from rendering import Backend, backends, free_port, instance, make_plan, placement, pool, running

from ogen.inventory.model import Balancer, Context, Gate, Model, Source
from ogen.plan.model import Entry, Member, Plan
from ogen.render import render


@dataclass
class Slow(Backend):
    """Counts how many requests it has at once, and in which order they came."""

    hang: float = 0.1
    inside: int = 0
    most: int = 0
    order: list[Any] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            super().answer(request)
        finally:
            with self.lock:
                self.inside -= 1
                self.order.append(json.loads(self.seen[-1]["body"] or "{}").get("n"))


@dataclass
class Gated:
    """A running balancer with a gate over stand-ins of one slot each."""

    port: int
    folder: Path

    def ask(
        self, number: int = 0, path: str = "/api/chat", timeout: float = 15
    ) -> tuple[int, Any, dict[str, str]]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            link.request("POST", path, json.dumps({"model": "chat", "n": number}))
            reply = link.getresponse()
            headers = {name.lower(): value for name, value in reply.getheaders()}
            return reply.status, json.loads(reply.read()), headers
        finally:
            link.close()

    def many(self, count: int, apart: float = 0.0) -> list[threading.Thread]:
        """Starts `count` requests; `self.statuses` holds what came of them."""
        self.statuses: list[int] = []
        threads = []
        for number in range(count):
            thread = threading.Thread(target=self._one, args=(number,))
            thread.start()
            threads.append(thread)
            time.sleep(apart)
        return threads

    def _one(self, number: int) -> None:
        self.statuses.append(self.ask(number)[0])

    def leaves(self, after: float = 0.01) -> None:
        """A client that asks and goes away."""
        body = b'{"model": "chat"}'
        with socket.create_connection(("127.0.0.1", self.port)) as link:
            link.sendall(
                b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            time.sleep(after)

    def queues(self) -> Any:
        """What the private socket says."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.folder / "run-balancer-api/release.sock"))
            link.sendall(b"GET /queues HTTP/1.0\r\n\r\n")
            return json.loads(link.makefile("rb").read().split(b"\r\n\r\n", 1)[1])

    @property
    def master(self) -> int:
        pid, end = self.folder / "run-balancer-api/nginx.pid", time.monotonic() + 10
        while not (pid.exists() and pid.read_text()):  # it listens before it writes this
            assert time.monotonic() < end, "nginx writes its pid"
            time.sleep(0.01)
        return int(pid.read_text())

    def workers(self) -> list[int]:
        text = Path(f"/proc/{self.master}/task/{self.master}/children").read_text()
        return [int(word) for word in text.split()]

    def down(self, *ports: int) -> None:
        """What bin/leases.py does: `down` in nginx's file and in what the gate is told, and a reload."""
        conf = self.folder / "api/nginx.conf"
        text = conf.read_text()
        for port in ports:
            text = text.replace(f"127.0.0.1:{port} ", f"127.0.0.1:{port} down ")
        away = " ".join(f"127.0.0.1:{port}" for port in ports)
        conf.write_text(text.replace('ogen.start("none")', f'ogen.start("{away}")'))
        os.kill(self.master, signal.SIGHUP)


@pytest.fixture
def nginx(need: Callable[[str], str]) -> str:
    return need("nginx")


def plan_of(
    ports: list[int],
    listen: int,
    gate: Gate,
    slots: Sequence[int] = (),
    weights: Sequence[int] = (),
    **values: Any,
) -> Plan:
    members = [
        Member("gpu1", f"gpu{n}", "127.0.0.1", port, *(part[n] if part else 1 for part in (slots, weights)))
        for n, port in enumerate(ports)
    ]
    balancer = Balancer("api", "edge", listen=listen, address="127.0.0.1", gate=gate, **values)
    return make_plan(balancers=[(balancer, [pool("chat", members)])])


@contextmanager
def gated(
    folder: Path, nginx: str, ports: list[int], gate: Gate | None = None, **values: Any
) -> Iterator[Gated]:
    listen = free_port()
    (release,) = render(plan_of(ports, listen, gate or Gate(), **values), host="edge")
    with running(release, folder, nginx, [listen]):
        yield Gated(listen, folder)


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


# ------------------------------------------------------------------------------------- the queue
def test_no_instance_has_more_than_its_slots_and_all_are_used(nginx: str, tmp_path: Path) -> None:
    with (
        backends(Slow("one"), Slow("two")) as (one, two),
        gated(tmp_path, nginx, [one.port, two.port]) as api,
    ):
        join(api.many(20))
        assert api.statuses == [200] * 20
        assert (one.most, two.most) == (1, 1)
        assert min(len(one.seen), len(two.seen)) >= 8


@pytest.mark.parametrize(
    ("slots", "weights"), [((4, 1), (1, 1)), ((4, 4), (5, 2)), ((1, 3), (9, 1))], ids=str
)
def test_every_slot_is_filled_and_none_twice(
    slots: tuple[int, int], weights: tuple[int, int], nginx: str, tmp_path: Path
) -> None:
    """Whatever the weights: below a gate an instance with a free slot is the least busy one."""
    with (
        backends(Slow("one", hang=0.5), Slow("two", hang=0.5)) as (one, two),
        gated(tmp_path, nginx, [one.port, two.port], slots=slots, weights=weights) as api,
    ):
        join(api.many(3 * sum(slots)))
        assert (one.most, two.most) == slots


def test_first_come_first_served(nginx: str, tmp_path: Path) -> None:
    with backends(Slow("one")) as (one,), gated(tmp_path, nginx, [one.port]) as api:
        join(api.many(8, apart=0.02))
        assert one.order == list(range(8))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/api/chat", lambda error: error["error"]),
        ("/v1/chat/completions", lambda error: error["error"]["message"]),
        ("/v1/messages", lambda error: error["error"]["message"]),
    ],
)
def test_a_full_queue_says_when_to_come_again(path: str, text: Any, nginx: str, tmp_path: Path) -> None:
    with (
        backends(Slow("one", hang=1.0)) as (one,),
        gated(tmp_path, nginx, [one.port], Gate(queue=2)) as api,
    ):
        threads = api.many(3, apart=0.05)
        status, error, headers = api.ask(path=path)
        assert status == 503
        assert text(error) == "the queue is full: 2 requests wait"
        assert 1 <= int(headers["retry-after"]) <= 600
        join(threads)
        assert api.statuses == [200] * 3
        assert api.ask()[0] == 200


def test_who_waits_too_long_is_told_so(nginx: str, tmp_path: Path) -> None:
    with (
        backends(Slow("one", hang=2.0)) as (one,),
        gated(tmp_path, nginx, [one.port], Gate(wait=0.5)) as api,
    ):
        threads = api.many(1)
        until(lambda: one.inside == 1)
        status, error, headers = api.ask()
        assert (status, error) == (503, {"error": "no instance was free in time"})
        assert "retry-after" in headers
        join(threads)
        assert len(one.seen) == 1, "the one that gave up never reached the instance"


def test_the_smallest_queue_is_none(nginx: str, tmp_path: Path) -> None:
    with backends(Slow("one", hang=0.5)) as (one,), gated(tmp_path, nginx, [one.port], Gate(queue=0)) as api:
        threads = api.many(1)
        until(lambda: one.inside == 1)
        assert api.ask()[0] == 503
        join(threads)
        assert api.statuses == [200]


def test_show_waits_for_nobody(nginx: str, tmp_path: Path) -> None:
    with backends(Slow("one", hang=0.5)) as (one,), gated(tmp_path, nginx, [one.port], Gate(queue=0)) as api:
        threads = api.many(1)
        until(lambda: one.inside == 1)
        assert api.ask(path="/api/show")[0] == 200
        join(threads)


def test_the_private_socket_tells_of_the_queue_and_the_log_how_long_each_waited(
    nginx: str, tmp_path: Path
) -> None:
    with backends(Slow("one", hang=0.4)) as (one,), gated(tmp_path, nginx, [one.port]) as api:
        threads = api.many(3, apart=0.02)
        assert api.queues() == {"pool_chat": {"slots": 1, "running": 1, "waiting": 2}}
        join(threads)
        until(lambda: api.queues() == {"pool_chat": {"slots": 1, "running": 0, "waiting": 0}})
        lines = (tmp_path / "log-ogen/balancer-api.log").read_text().splitlines()
        waited = [json.loads(line)["waited"] for line in lines]
        assert waited[0] == 0
        assert 0.2 < waited[1] < waited[2]


# ------------------------------------------------------------------------------ places come back
def test_clients_that_leave_give_their_places_back(nginx: str, tmp_path: Path) -> None:
    with backends(Slow("one", hang=0.3)) as (one,), gated(tmp_path, nginx, [one.port]) as api:
        threads = api.many(1)
        until(lambda: one.inside == 1)
        for _ in range(20):
            api.leaves()
        assert api.ask(timeout=10)[0] == 200
        join(threads)
        assert len(one.seen) == 2, "those that had left the queue never reached the instance"
        for _ in range(20):  # and those that leave while it works for them
            api.leaves()
        assert api.ask(timeout=10)[0] == 200


def test_failures_give_their_places_back(nginx: str, tmp_path: Path) -> None:
    """Also where nginx answers by itself, within another location."""
    with backends(Slow("slow", hang=1.5)) as (slow,):
        with gated(tmp_path, nginx, [free_port()]) as api:
            assert [api.ask()[0] for _ in range(5)] == [502] * 5
        folder = tmp_path / "b"
        folder.mkdir()
        with gated(folder, nginx, [slow.port], Gate(wait=20), read_timeout=1.0) as api:
            assert [api.ask()[0] for _ in range(3)] == [504] * 3


def test_a_worker_that_dies_takes_no_place_with_it(nginx: str, tmp_path: Path) -> None:
    with backends(Slow("one", hang=0.5)) as (one,), gated(tmp_path, nginx, [one.port]) as api:
        threads = [threading.Thread(target=api.leaves, args=(2.0,))]
        threads[0].start()
        until(lambda: one.inside == 1)
        (before,) = api.workers()
        os.kill(before, signal.SIGKILL)
        until(lambda: api.workers() not in ([], [before]))
        assert [api.ask(timeout=10)[0] for _ in range(3)] == [200] * 3
        join(threads)


# --------------------------------------------------------------------------------------- reloads
def test_across_a_reload_the_slots_are_counted_once(nginx: str, tmp_path: Path) -> None:
    with backends(Slow("one", hang=0.3)) as (one,), gated(tmp_path, nginx, [one.port]) as api:
        threads = api.many(6, apart=0.02)
        for _ in range(3):
            os.kill(api.master, signal.SIGHUP)
            time.sleep(0.25)
        threads += (more := api.many(4, apart=0.02))
        join(threads)
        assert api.statuses == [200] * 4
        assert len(more) == 4
        assert one.most == 1
        assert len(one.seen) == 10


def test_who_waits_at_a_lease_is_not_sent_to_the_instance_that_is_leased(nginx: str, tmp_path: Path) -> None:
    """Those in the old workers' queue go to the new workers, which know what is down."""
    with (
        backends(Slow("one", hang=0.4), Slow("two", hang=0.4)) as (one, two),
        gated(tmp_path, nginx, [one.port, two.port]) as api,
    ):
        threads = api.many(12)
        until(lambda: one.inside == 1 and two.inside == 1)
        api.down(two.port)
        until(lambda: two.inside == 0, 20)
        had = len(two.seen)
        join(threads)
        assert api.statuses == [200] * 12
        assert had <= 2
        assert len(two.seen) == had, "drained stays drained"
        assert one.most == 1, "half the slots are gone"
        log = tmp_path / "log-ogen/balancer-api.log"
        until(lambda: len(log.read_text().splitlines()) >= 12)
        clients = [json.loads(line)["client"] for line in log.read_text().splitlines()]
        assert clients == ["127.0.0.1"] * 12, "each request is in the log once"


def test_who_waits_at_two_reloads_is_not_forgotten_by_the_worker_between(nginx: str, tmp_path: Path) -> None:
    """That worker has nothing else to do: it must not sleep before it has woken those that wait."""
    with backends(Slow("one", hang=1.5)) as (one,), gated(tmp_path, nginx, [one.port]) as api:
        threads = api.many(3)
        until(lambda: one.inside == 1)
        until(lambda: api.queues()["pool_chat"]["waiting"] == 2)
        for workers in (2, 3):
            os.kill(api.master, signal.SIGHUP)
            until(lambda count=workers: len(api.workers()) == count)  # type: ignore[misc]
            time.sleep(0.2)  # nginx tells the older ones after a tenth of a second
        join(threads)
        assert api.statuses == [200] * 3
        assert one.most == 1


def test_who_comes_late_to_an_old_worker_is_sent_on(nginx: str, tmp_path: Path) -> None:
    """Its connection was accepted before the reload, its request is whole after it."""
    body = b'{"model": "chat", "n": 7}'
    with backends(Slow("one", hang=0.5)) as (one,), gated(tmp_path, nginx, [one.port]) as api:
        (old,) = api.workers()
        with socket.create_connection(("127.0.0.1", api.port), 10) as link:
            head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            link.sendall(head % len(body))
            time.sleep(0.2)
            os.kill(api.master, signal.SIGHUP)
            until(lambda: len(api.workers()) == 2)
            time.sleep(0.3)
            threads = api.many(3)  # at the new worker
            until(lambda: one.inside == 1)
            assert old in api.workers()
            link.sendall(body)
            assert link.makefile("rb").read().startswith(b"HTTP/1.1 200")
        join(threads)
        assert api.statuses == [200] * 3
        assert one.most == 1


def test_when_all_are_down_the_gate_does_not_hold_requests_back(nginx: str, tmp_path: Path) -> None:
    with backends(Slow("one")) as (one,), gated(tmp_path, nginx, [one.port]) as api:
        api.down(one.port)
        until(lambda: api.ask()[0] == 502)


# ------------------------------------------------------------------------------- several gates
def permits(folder: Path, ports: int, gates: int, number: int) -> int:
    """What the rendered router makes of its share, by its own formula."""
    names = tuple(f"api@edge{n}" for n in range(gates))
    plan = plan_of([11434 + n for n in range(ports)], 8080, Gate())
    entry = replace(plan.entries[0], gates=(*names[:number], "api@edge", *names[number + 1 :]))
    plan = replace(plan, entries=(entry,), hosts=(plan.hosts[0], replace(plan.hosts[1], entries=(entry,))))
    (release,) = render(plan, host="edge")
    text = next(f.content.decode() for f in release.files if f.path.endswith("router.conf"))
    found = re.search(r"local GATES, GATE = (\d+), (\d+)", text)
    assert found
    count, mine = int(found[1]), int(found[2])
    return max(1, (ports - 1 - mine) // count + 1)


@pytest.mark.parametrize(("slots", "gates"), [(4, 2), (5, 2), (7, 3), (3, 3)])
def test_gates_share_all_slots(slots: int, gates: int, tmp_path: Path) -> None:
    assert sum(permits(tmp_path, slots, gates, number) for number in range(gates)) == slots


def test_each_gate_of_a_plan_knows_the_others() -> None:
    from ogen.inventory.model import Host, Inventory, Rollout
    from ogen.plan.entries import build_entries

    members = [Member("gpu1", "gpu0", "192.0.2.11", 11434, 1)]
    hosts = (Host("edge1", "192.0.2.1"), Host("edge2", "192.0.2.2"))
    balancers = (
        Balancer("a", "edge1,edge2", gate=Gate()),
        Balancer("b", "edge1", listen=8081, gate=Gate()),
        Balancer("c", "edge1", listen=8082),
    )
    inventory = Inventory(hosts, (), balancers, {}, Rollout(), ".", "inventory.yaml")
    entries, problems = build_entries(inventory, {"chat": pool("chat", members)}, {})
    assert not problems
    gates: list[Entry] = list(entries)
    assert [entry.gates for entry in gates] == [("a@edge1", "a@edge2", "b@edge1")] * 2 + [()]


# ------------------------------------------------------------------------------------------ turns
@dataclass
class Turner(Slow):
    """Notes which model each request is for, and since when it had nothing else in memory."""

    models: list[str] = field(default_factory=list)
    together: int = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers["Content-Length"])
        body = request.rfile.read(length)
        model = json.loads(body)["model"].removesuffix(":latest")
        with self.lock:
            self.inside += 1
            self.together += self.inside > 1 and self.models[-1] != model
            self.models.append(model)
        time.sleep(self.hang)
        with self.lock:
            self.inside -= 1
        self.send(request, {"done": True})

    @property
    def loads(self) -> int:
        """Each change from one model to another, and the first."""
        return len(
            [model for model, before in zip(self.models, ["", *self.models], strict=False) if model != before]
        )


@contextmanager
def turns(folder: Path, nginx: str, port: int, turn: float, slots: int = 1) -> Iterator[int]:
    """A gate over two models that take turns on one server, and one that is always there."""
    placed = [
        placement(Model(name, (Source(None, "x"),), Context(8192, 8192), residency=residency))
        for name, residency in (("one", "on_demand"), ("two", "on_demand"), ("stays", "resident"))
    ]
    runs = replace(instance(), placements=tuple(placed))
    pools = [
        pool(p.model.name, [Member("gpu1", "gpu0", "127.0.0.1", port, slots, runs=runs)]) for p in placed
    ]
    listen = free_port()
    balancer = Balancer("api", "edge", listen=listen, address="127.0.0.1", gate=Gate(turn=turn))
    (release,) = render(make_plan(balancers=[(balancer, pools)]), host="edge")
    with running(release, folder, nginx, [listen]):
        yield listen


def clients(port: int, seconds: float, models: Sequence[str]) -> list[tuple[str, int, float]]:
    """A client for each name of `models`, one request after the other: (model, status, seconds waited)."""
    found: list[tuple[str, int, float]] = []

    def send(model: str) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            link.request("POST", "/api/chat", json.dumps({"model": model}))
            status = link.getresponse().status
            link.close()
            found.append((model, status, time.monotonic() - began))

    threads = [threading.Thread(target=send, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    join(threads)
    return found


def test_models_that_take_turns_change_seldom_and_both_get_theirs(nginx: str, tmp_path: Path) -> None:
    with backends(Turner("one", hang=0.02)) as (one,), turns(tmp_path, nginx, one.port, 1.0, 2) as port:
        assert isinstance(one, Turner)
        found = clients(port, 4.0, ["one", "two", "one", "two"])
        assert {status for _, status, _ in found} == {200}
        assert one.loads <= 7, "one for each second, the first, and what is left at the end"
        assert one.together == 0, "none is loaded while the other is at work"
        counts = [sum(model == name for model, _, _ in found) for name in ("one", "two")]
        assert min(counts) > 0.4 * max(counts)


def test_without_turns_they_throw_each_other_out(nginx: str, tmp_path: Path) -> None:
    with backends(Turner("one", hang=0.02)) as (one,), turns(tmp_path, nginx, one.port, 0.0) as port:
        assert isinstance(one, Turner)
        clients(port, 1.0, ["one", "two"])
        assert one.loads > 8


def test_a_model_that_nobody_waits_behind_is_never_held_up(nginx: str, tmp_path: Path) -> None:
    with backends(Turner("one", hang=0.02)) as (one,), turns(tmp_path, nginx, one.port, 0.5, 2) as port:
        for model in ("one", "stays"):
            assert max(waited for _, _, waited in clients(port, 1.2, [model, model])) < 0.4
        found = clients(port, 0.1, ["two"])
        assert found[0][2] < 0.4, "the turn was over long ago: it changes at once"


def test_a_turn_outlives_no_reload(nginx: str, tmp_path: Path) -> None:
    with backends(Turner("one", hang=0.02)) as (one,), turns(tmp_path, nginx, one.port, 600.0) as port:
        assert isinstance(one, Turner)
        clients(port, 0.1, ["one"])
        api = Gated(port, tmp_path)
        before = api.workers()
        os.kill(api.master, signal.SIGHUP)
        until(lambda: not set(before) & set(api.workers()))
        assert {status for _, status, _ in clients(port, 0.1, ["two"])} == {200}
