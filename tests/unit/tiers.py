"""The balancer's tiers, so that one test runs against each: plain pools, njs router, Lua router with gate."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rendering import free_port, make_plan, running

from ogen.inventory.model import Balancer, Gate
from ogen.plan.model import Member, Pool
from ogen.release.model import Release
from ogen.render import render

ROUTERS = ("njs", "lua")
TIERS = (*ROUTERS, "plain")
KEYS = {"alice": "0123456789abcdef-alice", "root": "fedcba9876543210-root"}


def member(port: int, name: str = "gpu0", weight: int = 1) -> Member:
    return Member("gpu1", name, "127.0.0.1", port, 2, weight)


def tier_of(name: str, port: int, **values: Any) -> Balancer:
    """A balancer of that tier on a port of loopback."""
    if name == "lua":
        values.setdefault("gate", Gate())
    routing: Any = "single" if name == "plain" else "by_model"
    return Balancer("api", "edge", listen=port, address="127.0.0.1", routing=routing, **values)


def keys_text() -> str:
    return "".join(f"{name}: {key}\n" for name, key in KEYS.items())


def release_of(balancer: Balancer, pools: list[Pool]) -> Release:
    (found,) = render(make_plan(balancers=[(balancer, pools)]), host="edge", secrets=lambda _: keys_text())
    return found


@contextmanager
def serving(
    name: str, pools: list[Pool], folder: Path, nginx: str, **values: Any
) -> Iterator[tuple[int, Path]]:
    """A balancer of that tier under a real nginx; its port and its folder."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    with running(release_of(tier_of(name, port, **values), pools), folder, nginx, [port]) as place:
        yield port, place


def workers(folder: Path) -> set[int]:
    """The worker processes of the nginx that runs from `folder`, once all of them are there."""
    pid, end = folder / "run-balancer-api/nginx.pid", time.monotonic() + 10
    count = (folder / "api/nginx.conf").read_text().partition("worker_processes ")[2].partition(";")[0]
    wanted = len(os.sched_getaffinity(0)) if count == "auto" else int(count)
    found: set[int] = set()
    while len(found) < wanted and time.monotonic() < end:
        master = pid.read_text().strip() if pid.exists() else ""
        children = Path(f"/proc/{master}/task/{master}/children")
        found = {int(child) for child in children.read_text().split()} if master else set()
        time.sleep(0.01)
    return found


def logged(folder: Path, true: Callable[[list[dict[str, Any]]], bool], seconds: float = 10) -> bool:
    """Whether the access log comes to that: nginx writes a line after the client has its answer."""
    end = time.monotonic() + seconds
    while not (found := true(access_log(folder))) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def access_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log-ogen/balancer-api.log").read_text().splitlines()]


@pytest.fixture
def nginx(need: Callable[[str], str]) -> str:
    return need("nginx")
