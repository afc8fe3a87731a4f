"""Bins of monitor's and balancers' files: sums that merge, percentiles, torn lines, rotated files, bounds."""

from __future__ import annotations

import gzip
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import agents
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.agent import look_past
from ogen.agent.binned import MODELS, MOST, Binned, bucket, merge, percentile
from ogen.observe.report_shape import wrong

END = 1_800_014_400.0
counts = st.dictionaries(st.integers(0, 200).map(str), st.integers(1, 10**9), max_size=8)
sums = st.fixed_dictionaries({"n": st.integers(0, 99), "seconds": counts, "bins": st.dictionaries(
    st.sampled_from("abc"), st.lists(st.integers(0, 99), min_size=2, max_size=2))})  # fmt: skip


@given(sums, sums, sums)
def test_merging_is_associative_and_commutative(one: Any, two: Any, three: Any) -> None:
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, two) == merge(two, one)


@given(
    st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200),
    st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]),
    st.integers(0, 200),
)
def test_a_percentile_is_within_five_percent(values: list[float], share: float, cut: int) -> None:
    parts: list[dict[int, int]] = [{}, {}]
    for place, value in enumerate(values):
        part = parts[place >= cut]
        part[bucket(value)] = part.get(bucket(value), 0) + 1
    exact = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    found = percentile(merge(*parts), share)
    assert found is not None
    assert abs(found - exact) <= 0.05 * exact


def test_no_values_have_no_percentile() -> None:
    assert percentile({}, 0.5) is None


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def card(at: float, used: object = 2 << 30, uuid: str = "GPU-a", name: str = "RTX 3090") -> str:
    return f'{stamp(at)},0,{uuid},"{name}",{used},0,{24 << 30},50,60,200.5\n'


def binned(span: float = 3600.0, width: int = 60) -> Binned:
    return Binned(END - span, END, width)


def entry(at: float, **more: object) -> str:
    line = {"time": stamp(at), "method": "POST", "status": 200, "seconds": 2.0, "upstream": "192.0.2.1:11434",
            "upstream_status": "200", **more}  # fmt: skip
    return json.dumps(line) + "\n"


def fed(folder: Path, name: str, text: str | bytes, into: Binned | None = None, **more: Any) -> Binned:
    made = into or binned()
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, (END, END))
    look_past.read(made, look_past.found(look_past.listed([str(folder)])), **more)
    return made


def test_cards_lost_torn_and_outside(tmp_path: Path) -> None:
    text = card(END - 7200) + card(END - 60, 1 << 30) + card(END - 30) + "torn,0\n" + card(END - 20, "")
    found = fed(tmp_path, "cards.csv", text + card(END + 900) + card(END - 3000)[:40])
    bins = found.cards["GPU-a"]["bins"]
    assert {number: row[0] for number, row in bins.items()} == {int((END - 60) // 60): 2}
    (row,) = bins.values()
    assert row[1:4] == [3072, 1024, 2048]
    assert row[11] == 1, "a lost card"
    assert found.notes == {"torn": 2, "future": 1}


def test_a_clock_that_goes_back(tmp_path: Path) -> None:
    found = fed(tmp_path, "cards.csv", card(END - 60) + card(END - 1800) + card(END - 1790))
    assert found.notes == {"back": 1}
    assert sum(row[0] for row in found.cards["GPU-a"]["bins"].values()) == 3


def test_rotated_files_and_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "cards.csv-20270115-1800000000.gz").write_bytes(gzip.compress(card(END - 1200).encode()))
    (tmp_path / "cards.csv.1").write_text(card(END - 600))
    (tmp_path / "cards.csv-20270115-1800000001").write_text(card(END - 900))
    (tmp_path / "cards.csv-20270115-1800000001.gz").write_bytes(gzip.compress(card(END - 900).encode()))
    (tmp_path / "cards.csv.tmp").write_text(card(END - 300))
    (tmp_path / "cards.csv.3").symlink_to("cards.csv.tmp")
    os.mkfifo(tmp_path / "cards.csv.2")
    for path in tmp_path.iterdir():
        if path.is_file() and not path.is_symlink():
            os.utime(path, (END, END))
    found = fed(tmp_path, "cards.csv.4.gz", gzip.compress(card(END - 100).encode() * 50)[:-20])
    ages = sorted(END // 60 - number for number in found.cards["GPU-a"]["bins"])
    assert [age for age in ages if age > 5] == [10, 15, 20], "each once; no link, no pipe, no other file"
    assert found.notes["unreadable"] >= 1, "the link, and the archive that is cut"


def test_the_beginning_of_a_large_log_is_found(tmp_path: Path) -> None:
    lines = [card(END - 40_000 + n) for n in range(40_000)]
    found = fed(tmp_path, "cards.csv", "".join(lines))
    assert sum(row[0] for row in found.cards["GPU-a"]["bins"].values()) == 3600
    assert len("".join(lines)) > 8 * look_past.LINE, "large enough to be searched"


def test_an_access_log(tmp_path: Path) -> None:
    text = entry(END - 50, first_seconds="0.5") + entry(END - 50, seconds=8.0, first_seconds="-")
    text += entry(END - 40, upstream="192.0.2.1:1, 192.0.2.2:1", upstream_status="502, 200")
    text += entry(END - 40, status=502, upstream_status="502") + entry(END - 40, status=503, upstream="")
    text += entry(END - 40, status=499, upstream_status="-") + entry(END - 40, status=401, upstream="")
    text += entry(END - 40, method="GET", seconds=0.001) + '{"time":"' + "x" * 99 + "\n" + "[" * 9999 + "\n"
    found = fed(tmp_path, "balancer-api.log", text)
    (one,) = found.balancers["api"]["bins"].values()
    assert one["kinds"] == {"good": 4, "failed": 1, "own": 1, "gone": 1, "client": 1}
    assert sum(one["seconds"].values()) == 3, "a list of models is no answer of a model"
    assert sum(one["first"].values()) == 1
    assert found.balancers["api"]["by"]["192.0.2.1:1"]["bad"] == 1
    assert found.notes == {"torn": 2}


def test_what_a_log_can_do_is_bounded(tmp_path: Path) -> None:
    text = "".join(entry(END - 50, upstream=f"h{n}:1") for n in range(2 * MOST))
    text += entry(END - 50, seconds="1e999", first_seconds="nan") + "y" * (3 * look_past.LINE) + "\n"
    found = fed(tmp_path, "balancer-api.log", text + entry(END - 45))
    by = found.balancers["api"]["by"]
    assert len(by) == MOST + 1
    assert by["others"]["n"] == MOST + 2
    assert found.notes == {"torn": 1}


def test_time_that_is_spent_is_told(tmp_path: Path) -> None:
    clock = iter([0.0, 0.0, *[look_past.PATIENCE + 1] * 9])
    found = fed(tmp_path, "cards.csv", card(END - 60) * 2, clock=lambda: next(clock))
    assert found.notes == {"late": 1}


def test_instances_and_models(tmp_path: Path) -> None:
    text = MODELS + "\n" + f"{stamp(END - 50)},gpu0,1,chat:latest,9,{5 << 30},8192,,{1 << 30}\n"
    found = fed(tmp_path, "models.csv", text + f"{stamp(END - 45)},gpu0,0,,,,,,\n")
    (row,) = found.instances["gpu0"]["bins"].values()
    assert row == [1, 1]
    assert list(found.instances["gpu0"]["models"]["chat:latest"].values()) == [[5120, 1024]]


def test_the_agent_answers(tmp_path: Path) -> None:
    host = agents.host(tmp_path)
    folder = tmp_path / "var/log/ogen/monitor"
    folder.mkdir(parents=True)
    (folder / "cards.csv").write_text(card(END - 60))
    (tmp_path / "var/log/ogen/balancer-api.log").write_text(entry(END - 60))
    for path in (folder / "cards.csv", tmp_path / "var/log/ogen/balancer-api.log"):
        os.utime(path, (END, END))
    audit = {"time": stamp(END - 30), "status": "applied", "to": "abcd"}
    (tmp_path / "etc/ogen").mkdir(parents=True)
    (tmp_path / "etc/ogen/audit.jsonl").write_text(json.dumps(audit) + "\ntorn")
    said = agents.ask(host, "past", start=END - 3600, end=END, width=60)["past"]
    assert said["files"] == 2
    assert said["events"] == [[END - 30, "applied", "abcd"]]
    assert set(said["cards"]) == {"GPU-a"}
    assert set(said["balancers"]) == {"api"}
    said = json.loads(json.dumps(said))
    assert wrong(said) == ""
    (bins,), by = said["balancers"]["api"]["bins"].values(), said["balancers"]["api"]["by"]
    for at, name, value in (
        (said, "cards", []),
        (said, "notes", {"torn": "many"}),
        (said, "events", [[0, "applied"]]),
        (said["cards"]["GPU-a"], "gpu", "0"),
        (said["cards"]["GPU-a"], "bins", {"0": [1, 2]}),
        (by, next(iter(by)), None),
        (bins, "seconds", {"x": 1}),
        (bins, "n", True),
    ):
        right, at[name] = at[name], value
        assert wrong(said).startswith("past"), name
        at[name] = right
    assert wrong(said) == ""


def test_nothing_is_there(tmp_path: Path) -> None:
    said = agents.ask(agents.host(tmp_path), "past", start=END - 3600, end=END, width=60)["past"]
    assert (said["cards"], said["balancers"], said["files"], said["notes"]) == ({}, {}, 0, {})


@pytest.mark.parametrize("text", ["2027-01-15T12:00:00Z", "2027-01-15T13:00:00+01:00"])
def test_times_have_zones(text: str) -> None:
    assert look_past.moment(text) == END
    assert look_past.moment("2027-01-15T12:00:00") is None
