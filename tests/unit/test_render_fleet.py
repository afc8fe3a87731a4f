"""The examples and the three eras, rendered: equal to the golden trees, and fine for the real checkers."""

from __future__ import annotations

import ast
import json
import py_compile
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from rendering import check_nginx, check_units, refresh_golden, run, systemd_root

from ogen import shipped
from ogen.inventory import load
from ogen.plan import plan
from ogen.plan.model import HostPlan
from ogen.release.model import Release
from ogen.render import render, render_host

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
EXAMPLES = sorted(path.stem for path in shipped.folder("inventories").glob("*.yaml"))
ERAS = {"era-a": "0.9.6", "era-b": "0.24.0", "era-c": "0.32.15"}
OF_ALL_ERAS = """\
version: 1
ollama: {{version: {version}, flash_attention: true, env: {{HTTPS_PROXY: "http://proxy.example:3128"}}}}
models:
  chat:
    from: llama3.1:8b-instruct-q4_K_M
    context: 8192
    parallel: 2
    replicas: fill
    system: Answer in one sentence.
    parameters: {{temperature: 0.7, stop: ["<|end|>", "###"]}}
    aliases: [gpt-4o-mini]
  large:
    from: llama3.1:70b-instruct-q4_K_M
    context: 4096
    replicas: 1
hosts:
  four:
    address: 192.0.2.11
    gpus: [{{model: RTX 3090, count: 4, reserve: 512MiB}}]
  red:
    address: 192.0.2.12
    gpus: [{{model: RX 7900 XTX, count: 1}}]
  edge: {{address: 192.0.2.10}}
balancers:
  api: {{hosts: [edge], listen: 8080}}
  plain: {{hosts: [four], listen: 8081, routing: per_port, strategy: round_robin}}
  inside: {{hosts: [edge], listen: 8090, routing: single, pool: chat, into: conf.d}}
"""
NAMES = [*EXAMPLES, *ERAS]


@lru_cache
def releases(name: str, folder: Path) -> tuple[Release, ...]:
    """The releases of an example, or of the inventory for an era."""
    path = shipped.folder("inventories") / f"{name}.yaml"
    if name in ERAS:
        path = folder / "inventory.yaml"
        path.write_text(OF_ALL_ERAS.format(version=ERAS[name]))
    return render(plan(load(path)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inventories")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return systemd_root(tmp_path_factory.mktemp("root"))


def tree(release: Release) -> Iterator[tuple[str, bytes]]:
    """Paths and contents, and what the host is to do with them; copied scripts as a word about them."""
    for file in release.files:
        shipped_one = shipped.folder("templates") / Path(file.path).name
        copied = shipped_one.is_file() and shipped_one.read_bytes() == file.content
        yield file.path.lstrip("/"), f"templates/{shipped_one.name}\n".encode() if copied else file.content
    told = {**release.manifest(), "files": {f.path: f"{f.mode:o} {f.owner}:{f.group}" for f in release.files}}
    yield "release.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode()


def test_the_examples_are_there() -> None:
    assert {"demo", "fleet", "queue"} <= set(EXAMPLES)
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, folder: Path) -> None:
    wanted = GOLDEN / name
    made = {f"{r.host}/{path}": content for r in releases(name, folder) for path, content in tree(r)}
    if refresh_golden():
        shutil.rmtree(wanted, ignore_errors=True)
        for path, content in made.items():
            (wanted / path).parent.mkdir(parents=True, exist_ok=True)
            (wanted / path).write_bytes(content)
    found = {str(p.relative_to(wanted)): p.read_bytes() for p in sorted(wanted.rglob("*")) if p.is_file()}
    assert sorted(made) == sorted(found), "OGEN_UPDATE_GOLDEN=1 refreshes the golden trees"
    for path, content in made.items():
        assert content.decode() == found[path].decode(), f"{name}/{path}"


@pytest.mark.parametrize("name", NAMES)
def test_the_real_checkers_take_everything(
    name: str, folder: Path, root: Path, tmp_path: Path, need: Callable[[str], str]
) -> None:
    need("systemd-analyze")
    for release in releases(name, folder):
        check_units(release, root)
        place = tmp_path / release.host
        place.mkdir()
        check_nginx(release, place, need("nginx"))


def test_scripts_compile(folder: Path, tmp_path: Path, need: Callable[[str], str]) -> None:
    seen = set()
    for release in releases("era-c", folder):
        for file in release.files:
            first = file.content.split(b"\n", 1)[0]
            assert (file.mode == 0o755) == first.startswith(b"#!"), file.path
            if b"python" in first:
                script = tmp_path / Path(file.path).name
                script.write_bytes(file.content)
                py_compile.compile(str(script), str(tmp_path / "out.pyc"), doraise=True)
                seen.add(script.name)
            if file.path.startswith("/etc/logrotate.d/"):
                config = tmp_path / "logrotate"
                config.write_bytes(file.content)
                commands = file.content.decode().partition("postrotate\n")[2].partition("endscript")[0]
                script = tmp_path / "postrotate.sh"
                script.write_text(f"#!/bin/sh\n{commands}")
                assert run("bash", "-n", str(script)) == (0, "")
                assert run(need("shellcheck"), str(script)) == (0, "")
    assert seen == {"leases.py", "preload.py", "probe.py", "monitor.py"}


def test_scripts_need_nothing_newer_than_python_3_8() -> None:
    for script in sorted(shipped.folder("templates").glob("*.py")):
        ast.parse(script.read_text(), feature_version=(3, 8))


def test_one_host_alone_is_the_same(folder: Path) -> None:
    whole = {release.host: release.id for release in releases("era-c", folder)}
    assert list(whole) == sorted(whole)
    (folder / "inventory.yaml").write_text(OF_ALL_ERAS.format(version=ERAS["era-c"]))
    made = plan(load(folder / "inventory.yaml"))
    assert [release.id for release in render(made, host="edge")] == [whole["edge"]]
    assert render(made, host="nobody") == ()
    assert render_host(made, made.host("four")).id == whole["four"]


def test_a_host_knows_nothing_of_another_ones_change(folder: Path) -> None:
    (folder / "inventory.yaml").write_text(OF_ALL_ERAS.format(version="0.32.15"))
    made = plan(load(folder / "inventory.yaml"))
    red = made.host("red")
    changed = replace(red, host=replace(red.host, ollama=replace(red.host.ollama, load_timeout="9m")))
    hosts: tuple[HostPlan, ...] = tuple(changed if host is red else host for host in made.hosts)
    before = {release.host: release.id for release in render(made)}
    after = {release.host: release.id for release in render(replace(made, hosts=hosts))}
    assert {host for host in before if before[host] != after[host]} == {"red"}
