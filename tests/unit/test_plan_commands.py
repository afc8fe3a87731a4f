"""`ogen plan` and `ogen lock` over an inventory on disk."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from ogen.cli.app import ogen
from ogen.inventory import load

INVENTORY = """\
version: 1
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 8192}
  coder: {from: "qwen2.5-coder:32b-instruct-q4_K_M", context: 8192, replicas: 1}
hosts:
  a: {address: 192.0.2.1, gpus: [{model: RTX 3090, count: 2}]}
  b: {address: 192.0.2.2, gpus: [{model: RTX 3090, count: 2}]}
  edge: {address: 192.0.2.9}
balancers:
  api: {hosts: [edge], listen: 8080}
"""


@pytest.fixture
def inventory(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(INVENTORY)
    return path


def run(*args):
    return CliRunner().invoke(ogen, [str(arg) for arg in args])


def edit(path, before, after):
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


@pytest.mark.parametrize(
    ("shape", "begins"), [("text", ""), ("json", "{"), ("markdown", "**Plan of"), ("html", "<!doctype html>")]
)
def test_every_format_prints_the_plan(inventory, shape, begins):
    ran = run("plan", inventory, "--format", shape)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.startswith(begins)
    assert "coder" in ran.stdout


def test_json_is_one_document(inventory):
    shown = json.loads(run("plan", inventory, "--format", "json").stdout)
    assert (shown["version"], shown["errors"]) == (1, [])
    assert [h["name"] for h in shown["hosts"]] == ["a", "b", "edge"]


def test_the_plan_is_the_same_each_time(inventory):
    assert (
        run("plan", inventory, "--format", "json").stdout == run("plan", inventory, "--format", "json").stdout
    )


def test_limit_shows_some_hosts(inventory):
    shown = json.loads(run("plan", inventory, "--limit", "b", "--format", "json").stdout)
    assert [h["name"] for h in shown["hosts"]] == ["b"]
    assert len(shown["pools"][0]["members"]) == 3
    assert run("plan", inventory, "--limit", "nobody").exit_code == 1


def test_what_does_not_fit_is_told_with_its_line(inventory):
    edit(inventory, "RTX 3090, count: 2}]}\n  b", "RTX 3060, count: 1}]}\n  b")
    edit(inventory, "  b: {address: 192.0.2.2, gpus: [{model: RTX 3090, count: 2}]}\n", "")
    ran = run("plan", inventory)
    assert ran.exit_code == 1
    assert "coder fits nowhere" in ran.stderr
    assert "fleet.yaml:4:" in ran.stderr
    failed = json.loads(run("plan", inventory, "--format", "json").stdout)
    assert failed["version"] == 1
    assert len(failed["errors"]) == 1


# --------------------------------------------------------------------------------------------- lock
def test_lock_is_written_beside_and_is_up_to_date_then(inventory):
    assert run("lock", inventory, "--check").exit_code == 2
    assert not inventory.with_name("fleet.lock.yaml").exists()
    assert run("lock", inventory).exit_code == 0
    lock = inventory.with_name("fleet.lock.yaml").read_text()
    assert load(inventory).lock.placements["coder"] == ("a/gpu0",)
    assert run("lock", inventory, "--check").exit_code == 0
    assert run("lock", inventory).exit_code == 0
    assert inventory.with_name("fleet.lock.yaml").read_text() == lock


def test_lock_keeps_placements_when_a_host_comes_before_the_others(inventory):
    run("lock", inventory)
    edit(inventory, "hosts:\n  a:", "hosts:\n  new: {address: 192.0.2.3, gpus: [{model: RTX 3090}]}\n  a:")
    checked = run("lock", inventory, "--check", "--format", "json")
    assert checked.exit_code == 2
    assert json.loads(checked.stdout)["moves"] == ["chat: + new/gpu0"]
    run("lock", inventory)
    assert load(inventory).lock.placements["coder"] == ("a/gpu0",)


def test_lock_of_a_plan_that_can_not_be_writes_nothing(inventory):
    edit(inventory, "replicas: 1", "replicas: 9")
    assert run("lock", inventory).exit_code == 1
    assert not inventory.with_name("fleet.lock.yaml").exists()
