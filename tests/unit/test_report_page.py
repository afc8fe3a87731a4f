"""`ogen report`: figures from the monitor's own files, what is missing, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_plan_views import FLAGS, Page, brightness

from ogen.cli.app import ogen
from ogen.errors import ConnectError, UsageError
from ogen.inventory import load
from ogen.observe import report_read, report_series, view_report
from ogen.observe.report_span import Zone, runs, span
from ogen.plan import plan

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import _days

UTC = Zone(0, "UTC")
HOSTILE = '</script><script>document.title=1</script><img src=x onerror="document.title=1">\'"&<b>'


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days") / "day"
    _days.write(folder, 3, 2, every=120, requests=4000)
    return folder


def document(day: Path, since: float = 86400.0, **answers: Any) -> dict[str, Any]:
    inventory = load(day / "inventory.yaml")
    asked, found, strangers = report_read.from_folder(day / "files", inventory.hosts, since, inventory)
    return report_series.document(plan(inventory), {**found, **answers}, asked, UTC, strangers)


def test_what_the_page_has_of_a_day(day: Path) -> None:
    found = document(day)
    assert (found["bins"], found["width"]) == (289, 300)
    assert "4 hosts · 6 cards · 4000 requests" in found["head"]
    assert [host["name"] for host in found["hosts"]] == ["gpu1", "gpu2", "gpu3"], "the balancer has no cards"
    first, second, _ = found["hosts"]
    for card in first["cards"]:
        assert len(card["used"]) == len(card["busy"]) == 289
        assert card["total"] == 24.0
        assert card["planned"] == pytest.approx(max(v for v in card["used"] if v is not None), abs=1.0)
    hours = [(last - begin + 1) * 300 / 3600 for begin, last in second["gaps"]]
    assert hours == [2.0]
    assert [text for _, text in first["marks"]] == ["applied f502f817", "gpu0 down"]
    for words in (
        "gpu1/gpu0: did not answer",
        "gpu2 card 1: memory was nearly full, 23.9 of 24.0 GiB",
        "gpu2/gpu1: up to 2.1 GiB of chat:latest in host memory",
        "gpu2: nothing was written 15 Jan 01:00 to 15 Jan 03:00 (2 h)",
    ):
        assert any(note.startswith(words) for note in found["notable"]), words


def test_figures_of_a_balancer(day: Path) -> None:
    lines = [json.loads(line) for line in (day / "files/edge/balancer-api.log").read_text().splitlines()]
    (one,) = document(day)["balancers"]
    assert one["total"] == len(lines) == 4000
    good = sorted(line["seconds"] for line in lines if line["status"] == 200)
    assert one["over"]["seconds"]["p95"] == pytest.approx(good[int(0.95 * len(good))], rel=0.06)
    assert {row["name"] for row in one["table"]} == {f"gpu{n}/gpu{m}" for n in (1, 2, 3) for m in (0, 1)}
    assert sum(row["n"] for row in one["table"]) == one["total"]
    assert sum(row["share"] for row in one["table"]) == pytest.approx(1)
    assert one["has_first"]


def test_a_part_of_the_day(day: Path) -> None:
    found = document(day, 3600.0)
    assert found["width"] == 15
    used = found["hosts"][1]["cards"][1]["used"]
    assert sum(value is not None for value in used) in (30, 31), "the monitor looks every two minutes here"


def test_a_host_that_is_lost_and_one_that_is_nobodys(day: Path, tmp_path: Path) -> None:
    (day / "files/gpu9").mkdir()
    try:
        found = document(day, gpu3=ConnectError("no route to host", host="gpu3"))
    finally:
        (day / "files/gpu9").rmdir()
    assert found["notable"][:2] == [
        "gpu3: no route to host",
        "gpu9: a folder of no host of the inventory; left out",
    ]
    assert "4 hosts, 1 of them without figures" in found["head"]
    assert "gpu3: no route to host" in unescape(view_report.html(found, ""))


def young(day: Path, *hosts: str) -> dict[str, Any]:
    """The page of the day's fleet whose monitors wrote for the last minute, and only on these hosts."""
    inventory = load(day / "inventory.yaml")
    asked = span(_days.END, 86400.0, inventory.hosts)
    last = str(int(_days.END // asked.width) - 1)
    bins = {last: [1, 512, 0, 512, 1, 20, 0, 1, 50, 1, 120, 0]}
    card = {"gpu": 0, "name": "RTX 3090", "total": 24576, "bins": bins}
    empty: dict[str, Any] = {"cards": {}, "instances": {}, "balancers": {}, "events": [], "notes": {}}
    said = {
        host.name: empty | {"cards": {"a": card} if host.name in hosts else {}} for host in inventory.hosts
    }
    return report_series.document(plan(inventory), said, asked, UTC)


def test_a_fleet_without_figures_is_notable(day: Path) -> None:
    found = young(day)
    assert found["notable"][0].startswith("gpu1: no figures of its cards: its monitor wrote nothing")
    assert "`ogen apply` starts it" in found["notable"][0]
    assert len(found["notable"]) == 3
    assert "0 cards · no request at a balancer" in found["head"]
    assert found["begin"] is None
    assert "Nothing is notable" not in view_report.html(found, "")


def test_a_monitor_that_has_just_begun(day: Path) -> None:
    found = young(day, "gpu1")
    assert not [note for note in found["notable"] if note.startswith("gpu1")], "no gap of a day"
    assert "gpu1: its figures begin 15 Jan 11:55" in found["notes"]
    assert "gpu1: no figures of card 1" in found["notes"], "gpu1 is the name of a host here"
    assert found["begin"] == _days.END - 300


def test_a_log_of_a_balancer_that_the_inventory_does_not_have(day: Path) -> None:
    text = view_report.html(document(day), "")
    assert "<span>Balancer api</span>" in text
    (day / "files/edge/balancer-api.log").rename(day / "files/edge/balancer-old.log")
    try:
        text = view_report.html(document(day), "")
    finally:
        (day / "files/edge/balancer-old.log").rename(day / "files/edge/balancer-api.log")
    assert "<span>Balancer old, which the inventory does not have</span>" in text


def test_a_balancer_that_has_just_begun_is_not_quiet_at_its_end(day: Path, tmp_path: Path) -> None:
    lines = (day / "files/edge/balancer-api.log").read_text().splitlines(keepends=True)
    (tmp_path / "files/edge").mkdir(parents=True)
    (tmp_path / "inventory.yaml").write_text((day / "inventory.yaml").read_text())

    def notable(*kept: str) -> list[str]:
        log = tmp_path / "files/edge/balancer-api.log"
        log.write_text("".join(kept))
        os.utime(log, (_days.END, _days.END))
        found = document(tmp_path)
        assert found["balancers"][0]["total"] == len(kept)
        return [note for note in found["notable"] if "at its end" in note]

    assert notable(*lines[-3:]) == [], "all requests are in the last bin"
    (tmp_path / "files/gpu1").mkdir()
    shutil.copy2(day / "files/gpu1/cards.csv", tmp_path / "files/gpu1/cards.csv")
    assert len(notable(*lines[:50])) == 1, "it ended early, while a monitor went on"


def test_an_instance_without_a_card_is_in_host_memory_by_plan(day: Path, tmp_path: Path) -> None:
    text = (day / "inventory.yaml").read_text()
    cpu = "  cpu1: {address: 192.0.2.99, gpus: [], instances: [{gpus: [], models: [small]}]}\n"
    small = "models:\n  small: {from: nomic-embed-text, replicas: 1, on: cpu1}\n"
    path = tmp_path / "inventory.yaml"
    path.write_text(text.replace("  edge: {a", cpu + "  edge: {a").replace("models:\n", small, 1))
    inventory = load(path)
    asked = span(_days.END, 86400.0, inventory.hosts)
    models = {"small:latest": {str(asked.first + 5): [0, 900]}}
    empty: dict[str, Any] = {"cards": {}, "instances": {}, "balancers": {}, "events": [], "notes": {}}
    one = {"bins": {str(asked.first + 5): [1, 0]}, "models": models}

    def told(host: str, name: str) -> list[str]:
        said = {host: empty | {"instances": {name: one}}}
        found = report_series.document(plan(inventory), said, asked, UTC)
        return [note for note in found["notable"] if "in host memory" in note]

    assert told("cpu1", "cpu") == []
    assert len(told("gpu1", "gpu0")) == 1


def test_the_year_stands_in_the_head_where_there_are_two(day: Path) -> None:
    assert document(day, 3600.0)["head"].startswith("15 Jan 10:59 to 15 Jan 11:59")
    assert " 2026 " in document(day, 40 * 86400.0)["head"].split(" to ")[0]


def test_bins_are_bounded() -> None:
    inventory = load(Path(__file__).parents[2] / "inventories" / "single-8gb.yaml")
    for since in (60.0, 3600.0, 86400.0, 30 * 86400.0, 3000 * 86400.0):
        asked = span(_days.END, since, inventory.hosts)
        assert asked.bins <= 290
        assert asked.width >= 2 * 5
        assert asked.start <= _days.END - since
    wide = span(_days.END, 86400.0, inventory.hosts * 800)
    assert wide.bins * 800 <= 130_000


def test_runs() -> None:
    assert runs([]) == []
    assert runs([3]) == [(3, 3)]
    assert runs([1, 2, 4, 7, 8, 9]) == [(1, 2), (4, 4), (7, 9)]


# ----------------------------------------------------------------------------------------- the command
def test_what_is_missing_is_told_at_the_terminal_too(day: Path, tmp_path: Path, monkeypatch: Any) -> None:
    words = [
        "report",
        str(day / "inventory.yaml"),
        "--from",
        str(day / "files"),
        "-o",
        str(tmp_path / "r.html"),
    ]
    assert "note:" not in CliRunner().invoke(ogen, words).stderr
    nothing, little = young(day), young(day, "gpu1")
    monkeypatch.setattr(report_series, "document", lambda *_: nothing)
    assert "note: nothing was written" in CliRunner().invoke(ogen, words).stderr
    monkeypatch.setattr(report_series, "document", lambda *_: little)
    said = CliRunner().invoke(ogen, words).stderr
    assert "note: figures begin 15 Jan 11:55" in said
    assert "--since 10m shows them closer" in said


def test_the_command(day: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    words = ["report", str(day / "inventory.yaml"), "--from", str(day / "files"), "-o", str(out)]
    result = CliRunner().invoke(ogen, [*words, "--limit", "gpu*"])
    assert result.exit_code == 0, result.output
    assert "3 hosts · 6 cards" in result.stderr
    assert "folder of no host" not in out.read_text(), "the others are hosts of the inventory"
    (day / "files/gpu3/cards.csv").rename(tmp_path / "cards.csv")
    (day / "files/gpu3/models.csv").rename(tmp_path / "models.csv")
    result = CliRunner().invoke(ogen, words)
    for name in ("cards.csv", "models.csv"):
        (tmp_path / name).rename(day / "files/gpu3" / name)
    assert result.exit_code == 3, "a host without files, but the page is there"
    assert "gpu3: there are no files of it" in out.read_text()


def test_hosts_that_do_not_answer_are_on_the_page(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    host = "{address: 127.0.0.1, gpus: [{model: RTX 3090}], ssh: {port: 1}}"
    path.write_text(f"version: 1\nhosts:\n  gone: {host}\nmodels: {{}}\n")
    result = CliRunner().invoke(ogen, ["report", str(path), "-o", str(tmp_path / "r.html")])
    assert result.exit_code == 4, result.output
    assert "1 host, 1 of them without figures" in result.stderr
    assert '<li class="warning">gone: ' in (tmp_path / "r.html").read_text()


def test_what_can_not_be_made(day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["report", str(day / "inventory.yaml"), "-o", str(tmp_path / "r.html"), "--from"]
    assert "holds no file of a monitor" in CliRunner().invoke(ogen, [*words, str(tmp_path)]).stderr
    assert "is no folder" in CliRunner().invoke(ogen, [*words, str(tmp_path / "x")]).stderr
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UsageError) as caught:
        view_report.plotly()
    assert "ogen-fleet[report]" in str(caught.value.hint)


def test_where_the_page_goes(day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["report", str(day / "inventory.yaml"), "--from", str(day / "files"), "-o"]
    pipe, pages = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: pages.append(pipe.read_text()), daemon=True)
    reader.start()
    assert CliRunner().invoke(ogen, [*words, str(pipe)]).exit_code == 0
    reader.join(20)
    assert pages[0].startswith("<!doctype html>")
    assert pipe.is_fifo(), "a pipe or a device is not replaced by a file"
    monkeypatch.setattr(report_read, "from_folder", lambda *_: pytest.fail("it looked before it asked"))
    for path, says in ((tmp_path / "none" / "r.html", "there is no such folder"), (tmp_path, "folder")):
        result = CliRunner().invoke(ogen, [*words, str(path)])
        assert (result.exit_code, says in result.stderr) == (1, True), result.output
        assert "hint:" in result.stderr


# ------------------------------------------------------------------------------------------- the page
def hostile(day: Path) -> dict[str, Any]:
    found = document(day)
    found["title"] = found["hosts"][0]["name"] = found["hosts"][0]["cards"][0]["name"] = HOSTILE
    found["hosts"][0]["marks"][0] = [found["hosts"][0]["marks"][0][0], HOSTILE]
    for place in (found["balancers"][0], found["balancers"][0]["by"][0], found["balancers"][0]["table"][0]):
        place["name"] = HOSTILE
    found["hosts"][0]["instances"][0]["models"][0]["name"] = HOSTILE
    found["notable"] = found["notes"] = [HOSTILE]
    return found


def test_the_page_loads_nothing(day: Path) -> None:
    text = view_report.html(hostile(day), "library();")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert not page.tags & {"img", "link", "iframe", "b-"}
    policy = unescape(re.search(r'Policy" content="([^"]*)"', text)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0]
    assert text.count("<script") == 3


def browse(need: Callable[[str], str], folder: Path, text: str, *flags: str) -> tuple[str, str]:
    """The page's DOM, without its programs, and what the browser's console said."""
    (folder / "report.html").write_text(text, encoding="utf-8")
    command = [need("chromium"), *FLAGS, "--enable-logging=stderr", f"--user-data-dir={folder}/profile"]
    command += ["--window-size=1280,4000", *flags, "--dump-dom", f"file://{folder}/report.html"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    dom = re.sub(r"<script.*?</script>", "", ran.stdout, flags=re.S)
    assert "</html>" in dom, ran.stderr[-2000:]
    return dom, "\n".join(line for line in ran.stderr.splitlines() if "CONSOLE" in line)


def tick(dom: str) -> float:
    found = re.search(r'class="xtick"><text[^>]*fill: (rgb\([^)]*\))', dom)
    assert found
    return brightness(found[1])


def test_the_page_in_a_browser(need: Callable[[str], str], day: Path, tmp_path: Path) -> None:
    dom, said = browse(need, tmp_path, view_report.html(document(day), view_report.plotly()))
    assert said == "", "no error, nothing refused"
    assert dom.count('data-drawn="yes"') == dom.count('class="main-svg"') // 3 == 3 * 4 + 4
    assert "card 1 RTX 3090" in dom
    assert "gpu2: nothing was written 15 Jan 01:00 to 15 Jan 03:00 (2 h)" in dom
    assert tick(dom) < 130


def test_a_single_look_is_a_point(need: Callable[[str], str], day: Path, tmp_path: Path) -> None:
    dom, said = browse(need, tmp_path, view_report.html(young(day, "gpu1"), view_report.plotly()))
    assert said == ""
    assert dom.count('class="points"><path') >= 4, "used, busy, hot, watts: a line of one point shows nothing"
    legend = re.findall(r'class="legendpoints"><path', dom)
    assert legend == [], "no point in a line's legend: it would look dashed"


def test_shares_of_the_last_requests_are_drawn(need: Callable[[str], str], day: Path, tmp_path: Path) -> None:
    (tmp_path / "files/edge").mkdir(parents=True)
    shutil.copy(day / "inventory.yaml", tmp_path)
    log = tmp_path / "files/edge/balancer-api.log"
    lines = (day / "files/edge/balancer-api.log").read_text().splitlines(keepends=True)
    log.write_text("".join(lines[-3:]))
    os.utime(log, (_days.END, _days.END))
    found = document(tmp_path)
    dom, said = browse(need, tmp_path, view_report.html(found, view_report.plotly()))
    assert said == ""
    share = dom.partition('data-plot="balancer:0:share"')[2]
    filled = re.search(r'class="js-fill" d="M([^"]*)"', share)
    assert filled
    columns = -(-found["bins"] // -(-found["bins"] // 48))
    places = {float(x) for x in re.findall(r"(?:^|[LH])([\d.]+)", filled[1])}
    assert len(places) == columns + 1, "the last column has an end, too"


def test_hostile_names_in_the_dark(need: Callable[[str], str], day: Path, tmp_path: Path) -> None:
    text = view_report.html(hostile(day), view_report.plotly())
    dom, said = browse(need, tmp_path, text, "--blink-settings=preferredColorScheme=0")
    assert said == ""
    assert dom.count('data-drawn="yes"') == 16
    assert tick(dom) > 130
    ran = re.compile("<title>1</title>")
    assert not ran.search(dom)
    assert not re.search("<img|<b>'", dom)
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", view_report.html(hostile(day), ""))
    raw = bare.replace("\\u003c", "<").replace("\\u003e", ">")
    assert ran.search(browse(need, tmp_path, raw)[0]), "without the escapes it runs"
