"""Links that a release needs, releases on the host, and what the agent's sources may hold."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from agents import UNIT, host, release
from agents import apply as apply_to

import ogen.agent
from ogen.agent import owner, store

SOURCES = sorted(Path(ogen.agent.__file__).parent.glob("*.py"))


def test_links_go_through_current_and_enable_units() -> None:
    made = release("x", "ogen-a.service").manifest()
    assert store.links(made, lambda stored: UNIT) == {
        "/etc/systemd/system/ogen-a.service": "/etc/ogen/current/root/etc/systemd/system/ogen-a.service",
        "/etc/systemd/system/ogen.target.wants/ogen-a.service": "../ogen-a.service",
    }


def test_a_unit_that_is_not_enabled_gets_no_want() -> None:
    made = release("x", "ogen-a.service").manifest()
    made["units"][0]["enable"] = False
    assert list(store.links(made, lambda stored: UNIT)) == ["/etc/systemd/system/ogen-a.service"]


def test_install_reads_its_section_only() -> None:
    text = "[Unit]\nWantedBy=no\n[Install]\nWantedBy=a b\nWantedBy = c\n[Service]\nWantedBy=no\n"
    assert store.install(text, "WantedBy") == ["a", "b", "c"]


def test_both_ends_compute_the_same_id() -> None:
    made = release("ü")
    assert store.identify(made.manifest()) == made.id


def test_an_edited_release_gets_a_second_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_deaf", lambda: None)
    one, made = host(tmp_path), release("x")
    apply_to(one, made)
    edited = tmp_path / f"etc/ogen/releases/{made.id}/tree/a.txt"
    edited.write_text("by hand")
    assert one.store.whole(made.id) is None
    assert apply_to(one, made)["status"] == "applied"
    assert one.store.current == f"{made.id}-1"
    assert one.store.whole(made.id) == f"{made.id}-1"
    assert edited.read_text() == "by hand"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_agent_is_python_3_8_and_standard_library_only(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module).split(".")[0]]
        else:
            continue
        assert set(names) <= set(sys.stdlib_module_names), names
