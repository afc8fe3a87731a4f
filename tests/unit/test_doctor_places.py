"""The line of the inventory that a finding names, and the next concession with what it would need."""

from __future__ import annotations

from pathlib import Path

import pytest

from ogen.inventory import load
from ogen.observe.concession import Ladder
from ogen.observe.places import Places
from ogen.plan import plan

INVENTORY = """\
version: 1
ollama:
  version: 0.32.15
env: {A: "1"}
models:
  chat:
    from: {Q8_0: "llama3.1:8b-instruct-q8_0", Q4_K_M: "llama3.1:8b-instruct-q4_K_M"}
    context: {want: 16384, at_least: 4096}
  small:
    from: "llama3.2:1b"
    replicas: 1
groups:
  boxes:
    hosts: ["gpu[1:2]", desk]
    ollama: {max_queue: 8}
hosts:
  "gpu[1:2]": {address: "192.0.2.[1:2]", gpus: [{model: RTX 3090, reserve: 1GiB}, {model: RTX 3090}]}
  desk:
    address: 192.0.2.3
    ollama:
      max_queue: 9
    gpus:
      - model: RTX 3060
        vram: 12GiB
balancers:
  api: {hosts: [desk], gate: true}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    return tmp_path / "inventory.yaml"


def line(number: int) -> str:
    return INVENTORY.splitlines()[number - 1].strip()


@pytest.mark.parametrize(
    ("host", "key", "found", "written"),
    [
        ("desk", ("ollama", "max_queue"), "max_queue: 9", "max_queue: 5"),
        ("gpu2", ("ollama", "max_queue"), "ollama: {max_queue: 8}", "max_queue: 5"),
        ("gpu1", ("ollama", "version"), "version: 0.32.15", "version: 5"),
        ("gpu1", ("env", "A"), 'env: {A: "1"}', "A: 5"),
        ("desk", ("ollama", "load_timeout"), "ollama:", "ollama: {load_timeout: 5}"),
        ("gpu1", ("ollama", "load_timeout"), '"gpu[1:2]": {', "ollama: {load_timeout: 5}"),
    ],
)
def test_a_hosts_setting(path: Path, host: str, key: tuple[str, ...], found: str, written: str) -> None:
    """Its own before its group's, that before the default; else the host's own entry is to have it."""
    inventory = load(path)
    where, text = Places(inventory).set_host(inventory.host(host), 5, *key)
    assert where
    assert line(where.line).startswith(found)
    assert text == written


def test_entries_of_cards_models_and_balancers(path: Path) -> None:
    inventory = load(path)
    places = Places(inventory)
    first, second = inventory.host("gpu1").gpus
    where = places.under(first.where, "reserve")
    assert where
    assert line(where.line)[where.column - 3 :].startswith("reserve: 1GiB")
    assert places.under(second.where, "reserve") == second.where
    (desk,) = inventory.host("desk").gpus
    assert places.set(desk.where, "8GiB", "vram")[0] != desk.where
    assert places.under(desk.where, "vram") == places.set(desk.where, "8GiB", "vram")[0]
    gate, text = places.set(inventory.balancers[0].where, 9, "gate", "queue")
    assert gate
    assert text == "gate: {queue: 9}"
    context, text = places.set(inventory.model("chat").where, 4096, "context", "want")
    assert context
    assert (line(context.line)[:8], text) == ("context:", "want: 4096")
    assert places.under(None, "x") is None


def test_a_folder_of_files(path: Path) -> None:
    folder = path.parent / "fleet"
    folder.mkdir()
    models, rest = INVENTORY.split("groups:")
    (folder / "a.yaml").write_text(models)
    (folder / "b.yaml").write_text("groups:" + rest)
    inventory = load(folder)
    places = Places(inventory)
    desk, _ = places.set_host(inventory.host("desk"), 5, "ollama", "max_queue")
    version, _ = places.set_host(inventory.host("desk"), 5, "ollama", "version")
    assert desk
    assert version
    assert (Path(desk.file).name, Path(version.file).name) == ("b.yaml", "a.yaml")


# ------------------------------------------------------------------------------------ concessions
def test_the_next_concession_is_the_first_rung_that_fits(path: Path) -> None:
    planned = plan(load(path))
    instance = planned.host("gpu1").instances[1]
    (placed,) = (p for p in instance.placements if p.model.name == "chat")
    host, ladder = planned.host("gpu1").host, Ladder(planned.inventory)
    whole = placed.account.total_gpu_bytes
    step = ladder.lower(host, instance, placed, None)
    assert step
    assert step.sets == ("from: llama3.1:8b-instruct-q4_K_M",)
    assert step.needs + step.saves == whole
    room = step.needs - (1 << 20)
    lower = ladder.lower(host, instance, placed, room)
    assert lower
    assert lower.fits
    assert lower.needs <= room < step.needs
    assert lower.sets[:2] == ("from: llama3.1:8b-instruct-q4_K_M", "kv_cache: q8_0")
    low = ladder.lower(host, instance, placed, 4 << 30)
    assert low
    assert low.fits
    assert any(text.startswith("num_gpu: ") for text in low.sets), "the bounds of the inventory are loosened"
    none = ladder.lower(host, instance, placed, 1 << 20)
    assert none
    assert not none.fits
    assert none.sets == step.sets
