"""Hours of a model: how they are written, and what becomes of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fleets import fleet, host, model
from hypothesis import given
from hypothesis import strategies as st

from ogen.inventory.hours import DAYS, is_span, span
from ogen.plan import plan
from ogen.render import render


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("08:00-18:00", ((0, 1, 2, 3, 4, 5, 6), 480, 1080)),
        ("mon-fri 08:30-18:00", ((0, 1, 2, 3, 4), 510, 1080)),
        ("sat 22:00-06:00", ((5,), 1320, 360)),
        ("sat-mon 00:00-23:59", ((5, 6, 0), 0, 1439)),
    ],
)
def test_spans(text: str, found: object) -> None:
    assert is_span(text)
    assert span(text) == found


@given(st.sampled_from(DAYS), st.sampled_from(DAYS))
def test_days_from_one_to_another(first: str, last: str) -> None:
    days, _, _ = span(f"{first}-{last} 08:00-18:00")
    assert (DAYS[days[0]], DAYS[days[-1]]) == (first, last)
    assert len(set(days)) == len(days)


@pytest.mark.parametrize("text", ["", "8:00-18:00", "08:00", "24:00-25:00", "mo 08:00-18:00", "08:00-08:00"])
def test_what_is_no_span(text: str) -> None:
    assert not is_span(text)


def test_the_preload_is_told_and_nobody_expects_the_model_all_day() -> None:
    office = replace(model("chat"), hours=("mon-fri 08:00-18:00", "sat 10:00-14:00"))
    release = render(plan(fleet([host("a", "RTX 3090")], [office])))[0]
    text = next(f.content for f in release.files if f.path.endswith("/preload.json"))
    assert json.loads(text)["models"][0]["hours"] == [[[0, 1, 2, 3, 4], 480, 1080], [[5], 600, 840]]
    served = release.instances[0].models[0]
    assert (served.resident, served.stays) == (True, False), "loaded by the proof, and free to leave"
