"""`autofit` in the inventory: true, false or a map; later wins, key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from ogen.errors import Problems
from ogen.inventory import Autofit, load

INVENTORY = """\
version: 1
autofit: {hold: 10m}
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", autofit: false}
  talk: {from: "llama3.1:8b-instruct-q4_K_M"}
groups:
  desks: {hosts: [desk], autofit: {margin: 1GiB, every: 2s}}
hosts:
  plain: {address: 192.0.2.1}
  desk: {address: 192.0.2.2, autofit: {per_hour: 2}}
  off: {address: 192.0.2.3, autofit: false}
"""


def test_later_wins_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    found = load(path)
    assert {host.name: host.autofit for host in found.hosts} == {
        "plain": Autofit(hold=600.0),
        "desk": Autofit(hold=600.0, margin=1 << 30, every=2.0, per_hour=2),
        "off": Autofit(enabled=False, hold=600.0),
    }
    assert [model.autofit for model in found.models] == [False, None]
    path.write_text(INVENTORY.replace("autofit: {hold: 10m}\n", ""))
    assert load(path).host("plain").autofit is None


def test_true_turns_on_what_was_turned_off(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(
        INVENTORY.replace("{hold: 10m}", "false").replace("autofit: false}\n  t", "autofit: true}\n  t")
    )
    found = load(path)
    assert [host.autofit.enabled for host in found.hosts if host.autofit] == [False, False, False]
    path.write_text(INVENTORY.replace("{hold: 10m}", "false").replace("{per_hour: 2}", "true"))
    assert load(path).host("desk").autofit == Autofit(margin=1 << 30, every=2.0)


def test_monitoring_is_turned_off_and_on_alike(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    inventory = INVENTORY.replace("autofit", "monitoring").replace(", monitoring: false}", "}", 1)
    inventory = inventory.replace("{margin: 1GiB, every: 2s}", "false").replace(
        "{per_hour: 2}", "{interval: 2s}"
    )
    path.write_text(inventory.replace("monitoring: {hold: 10m}", "monitoring: true"))
    found = {host.name: host.monitoring for host in load(path).hosts}
    assert [found[name].enabled for name in ("plain", "desk", "off")] == [True, False, False]
    assert found["desk"].interval == 2.0
    path.write_text(inventory.replace("monitoring: {hold: 10m}", "monitoring: on please"))
    with pytest.raises(Problems) as caught:
        load(path)
    assert "monitoring must be true, false or a map" in str(caught.value)
    assert caught.value.errors[0].hint == "write true or {interval: 5s}"
