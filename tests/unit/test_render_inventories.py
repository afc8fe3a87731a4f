"""Any inventory that validates renders, and what it renders passes the real checkers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from rendering import check_nginx, check_units, systemd_root

from ogen.errors import OgenError
from ogen.inventory import load
from ogen.plan import Plan, plan
from ogen.render import render

NASTY = [
    '"; } server { listen 1; } #', "\nExecStart=/bin/false", "%n %h $HOME ${x} \\", '"""\nFROM evil\n"""',
    "'; rm -rf / #", "$(touch x)", "{{ 7 * 7 }}", "{% raw %}", "</script>\u2028", "\x00", "\x1b[31m",
    "\u202e", "\\\n", "a\tb", "é😀", "\ufffe",
]  # fmt: skip
FREE = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=30), st.lists(st.sampled_from(NASTY), max_size=3).map("".join)
)
PLAIN = st.sampled_from(["chat", "coder-7b", "a.b_c", "Q", "0x"])
NAME = st.integers(0, 19).flatmap(lambda n: FREE if n == 0 else PLAIN)
ALIAS = st.integers(0, 19).flatmap(
    lambda n: FREE if n == 0 else st.sampled_from(["gpt-4o", "x:1", "ns/m", "ns/m:2"])
)
TEXT = FREE.map(lambda text: "".join(c for c in text if c.isprintable() or c in "\n\t"))
VERSION = st.sampled_from(["0.9.6", "0.13.5", "0.24.0", "0.32.15"])


def sometimes(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


MODEL = st.builds(
    dict.__or__,
    st.just({"from": "llama3.1:8b-instruct-q4_K_M", "context": 4096, "replicas": "fill"}),
    sometimes(
        system=TEXT,
        template=TEXT,
        license=TEXT,
        aliases=st.lists(ALIAS, max_size=2, unique=True),
        messages=st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": TEXT}), max_size=2),
        parameters=sometimes(
            stop=st.lists(TEXT, min_size=1, max_size=2), temperature=st.floats(0, 2), seed=st.integers(0, 99)
        ),
        kv_cache=st.sampled_from(["f16", "q8_0"]),
        low_vram=st.booleans(),
        residency=st.sampled_from(["resident", "on_demand"]),
    ),
)
CARDS = st.sampled_from(
    [[{"model": "RTX 3090", "count": 2}], [{"model": "RX 7900 XTX"}], [{"model": "RTX 3060"}]]
)
HOST = st.builds(
    dict.__or__,
    st.fixed_dictionaries(
        {"address": st.sampled_from(["192.0.2.1", "2001:db8::7", "127.0.0.1"]), "gpus": CARDS}
    ),
    sometimes(
        env=st.dictionaries(st.sampled_from(["FOO", "B_2"]), TEXT, max_size=2), weight=st.integers(1, 9)
    ),
)
BALANCER = sometimes(
    listen=st.integers(8000, 8002),
    strategy=st.sampled_from(["round_robin", "least_conn", "ip_hash", "random"]),
    routing=st.sampled_from(["by_model", "per_port", "single"]),
    into=st.sampled_from(["own", "conf.d"]),
    fail_timeout=st.sampled_from(["10s", "1500ms"]),
    client_options=sometimes(
        allow=st.lists(st.sampled_from(["seed", "top_p", "num_ctx"]), max_size=2, unique=True),
        max_context=st.sampled_from(["plan", 2048]),
    ),
)
INVENTORY = st.builds(
    lambda version, model_name, model, host, balancer, plain: {
        "version": 1,
        "ollama": {"version": version},
        "models": {model_name: model, **plain},
        "hosts": {"box": host, "edge": {"address": "192.0.2.9"}},
        "balancers": {"api": {"hosts": ["edge", "box"], **balancer}},
    },
    VERSION,
    NAME,
    MODEL,
    HOST,
    BALANCER,
    st.sampled_from([{}, {"tiny": {"from": "qwen2.5:0.5b", "context": 2048, "replicas": 1}}]),
)


def planned(inventory: dict[str, Any], folder: Path) -> Plan | None:
    """The plan; None for an inventory that ogen refuses, which is no matter of this test."""
    path = folder / "inventory.yaml"
    path.write_text(json.dumps(inventory, indent=1, ensure_ascii=False), encoding="utf-8")
    try:
        loaded = load(path)
        made = plan(loaded)
    except OgenError:
        return None
    mixed = [b for b in loaded.balancers if b.into == "conf.d" and b.routing == "by_model"]
    return None if mixed else made  # refused by render, with the balancer's line


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return systemd_root(tmp_path_factory.mktemp("root"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(INVENTORY)
def test_what_validates_renders_and_passes(
    root: Path, need: Callable[[str], str], inventory: dict[str, Any]
) -> None:
    need("systemd-analyze")
    folder = Path(tempfile.mkdtemp())
    try:
        made = planned(inventory, folder)
        event("valid" if made else "refused")
        if made is None:
            return
        for release in render(made):
            shutil.rmtree(root / "etc", ignore_errors=True)
            check_units(release, root)
            place = folder / release.host
            place.mkdir()
            check_nginx(release, place, need("nginx"))
    finally:
        shutil.rmtree(folder)
