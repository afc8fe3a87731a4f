"""Proofs: what /api/ps must show, and how a model is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from ogen.agent import prove

GIB = 1024**3


def served(verdict: str = "full", **more: Any) -> dict[str, Any]:
    return {"model": "chat", "verdict": verdict, "embedding": False, "keep_alive": "-1", **more}


def running(size: int, vram: int, name: str = "chat:latest") -> list[dict[str, Any]]:
    return [{"name": name, "model": name, "size": size, "size_vram": vram}]


@pytest.mark.parametrize(
    ("verdict", "models", "word"),
    [
        ("full", [], "not loaded"),
        ("full", running(GIB, GIB, "other:latest"), "not loaded"),
        ("full", running(GIB, 0), "nothing of it"),
        ("full", running(GIB, GIB // 2), "50 %"),
        ("partial", running(GIB, 0), "nothing of it"),
    ],
)
def test_not_as_planned(verdict: str, models: list[dict[str, Any]], word: str) -> None:
    assert word in (prove.check_loaded(served(verdict), models) or "")


@pytest.mark.parametrize(
    ("verdict", "models"),
    [("full", running(GIB, GIB)), ("partial", running(GIB, GIB // 2)), ("cpu", running(GIB, 0))],
)
def test_as_planned(verdict: str, models: list[dict[str, Any]]) -> None:
    assert prove.check_loaded(served(verdict), models) is None


def test_a_name_with_a_tag_is_taken_as_it_is() -> None:
    one = served(model="chat:7b")
    assert prove.check_loaded(one, running(GIB, GIB, "chat:7b")) is None


def test_keep_alive_is_a_number_where_it_is_one() -> None:
    assert prove.load_request(served())[1]["keep_alive"] == -1
    assert prove.load_request(served(keep_alive="30m"))[1]["keep_alive"] == "30m"


def test_embedding_models_load_by_embedding() -> None:
    assert prove.load_request(served(embedding=True))[0] == "/api/embed"
    assert prove.load_request(served())[0] == "/api/generate"
