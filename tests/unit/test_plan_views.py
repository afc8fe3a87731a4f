"""The plan as text, JSON, markdown and a page; and its sums."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest
from fleets import GIB, balancer, fleet, gpus, host, model

from ogen import shipped
from ogen.cli.plan_text import text
from ogen.inventory import load
from ogen.inventory.model import Pin
from ogen.plan import plan
from ogen.plan.model import Remark
from ogen.plan.picture import rows, use_of
from ogen.plan.view_html import html
from ogen.plan.view_json import document
from ogen.plan.view_markdown import bar, markdown

HOSTILE = (
    '</td></table><script>alert(1)</script> ``` | [x](javascript:y) <img src=x onerror=z> \x1b[31m & "q"'
)
TWO = ("RTX 3090", "RTX 3090")


def example():
    first, second = gpus(*TWO)
    broken = replace(host("c"), gpus=(first, replace(second, state="out", reason=HOSTILE)))
    tight = replace(
        host("d"), gpus=gpus("RTX 3060", reserve=2 * GIB), pins=(Pin((0,), ("chat",), low_vram=True),)
    )
    models = [
        model("chat", context=16384, at_least=2048, parallel=2, aliases=("gpt-4o-mini",)),
        model("large", replicas=1),
        model("embed", replicas=1, context=2048),
    ]
    hosts = [host("a", *TWO), host("b", *TWO), broken, tight, host("e", *TWO), host("edge")]
    return plan(fleet(hosts, models, [balancer(routing="per_port")]))


def hostile():
    planned = example()
    return replace(planned, remarks=(*planned.remarks, Remark(HOSTILE, hint=HOSTILE)))


# --------------------------------------------------------------------------------------------- sums
def test_the_parts_of_a_card_are_its_memory():
    for one in example().hosts:
        for gpu in one.host.gpus:
            mine = [i for i in one.instances if gpu.index in [g.index for g in i.gpus]]
            use = use_of(gpu, mine, one.host.ollama.version)
            assert use.total == gpu.vram
            assert min(size for _, size in use.parts()) >= 0
            if mine:
                assert use.weights > 0


def test_hosts_that_look_the_same_are_shown_once():
    assert [row.names for row in rows(example())] == ["a", "b", "c", "d", "e"] or "b, e" in [
        row.names for row in rows(example())
    ]
    alike = plan(fleet([host("x", *TWO), host("y", *TWO)], [model("chat")]))
    assert [row.names for row in rows(alike)] == ["x, y"]
    assert [row.names for row in rows(alike, ["y"])] == ["y"]


@pytest.mark.parametrize("width", [10, 24, 40])
def test_a_bar_has_its_width(width):
    for row in rows(example()):
        for card in row.cards:
            assert sum(cells for _, cells in bar(card.use, width)) == width


# --------------------------------------------------------------------------------------------- text
def test_text_shows_cards_models_pools_and_remarks():
    shown = text(example(), width=100)
    for word in (
        "gpu0-1:11434",
        "large",
        "full",
        "balancer api",
        "gpt-4o-mini",
        "out:",
        "KV cache in host memory",
    ):
        assert word in shown
    assert "\x1b" not in shown
    assert max(len(line) for line in shown.split("\n") if "█" in line) <= 100


def test_text_in_colour_on_a_terminal():
    assert "\x1b[" in text(example(), colour=True)


def test_text_takes_control_characters_out():
    assert "\x1b" not in text(hostile())


# ------------------------------------------------------------------------------------------- queues
@pytest.mark.parametrize("view", [text, markdown, html])
def test_queues_are_shown_with_where_they_are_and_who_works(view):
    planned = plan(load(shipped.folder("inventories") / "queue.yaml"))
    shown = unescape(re.sub(r"<[^>]*>", " ", view(planned)).replace("\\", ""))
    assert "1 queue" in shown
    for word in ("queue jobs", "Redis on edge", "jobs from api on edge", "gpu1/gpu0, gpu1/gpu1, gpu2/gpu0"):
        assert word.lower() in shown.lower(), word
    assert "places" in shown
    assert re.search(r"\b500\b", shown)
    assert "queue" not in view(example()).split("<body>")[-1], "a fleet without one has no word about it"


# --------------------------------------------------------------------------------------------- JSON
def test_json_says_everything_in_bytes():
    shown = json.loads(json.dumps(document(example())))
    card = shown["hosts"][0]["cards"][0]
    parts = ("weights", "kv", "compute", "reserve", "free")
    assert sum(card[f"{part}_bytes"] for part in parts) == card["vram_bytes"]
    instance = shown["hosts"][0]["instances"][0]
    assert (instance["name"], instance["gpus"], instance["server"]["split"]) == ("gpu0-1", [0, 1], "layer")
    assert instance["models"][0]["account"]["total_gpu_bytes"] > 40 * GIB
    assert {pool["name"] for pool in shown["pools"]} == {"chat", "large", "embed"}
    assert set(shown["pools"][0]["members"][0]) == {
        "host", "instance", "address", "port", "slots", "weight", "backup"
    }  # fmt: skip
    assert shown["balancers"][0]["ports"] == {"chat": 8080, "large": 8081, "embed": 8082}


def test_json_of_some_hosts():
    assert [h["name"] for h in document(example(), ["b"])["hosts"]] == ["b"]


# ----------------------------------------------------------------------------------------- markdown
def test_markdown_tables_hold_whatever_is_in_them():
    lines = markdown(hostile()).split("\n")
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) > 10
    for line in tables:
        cells = re.sub(r"\\\|", "", line).count("|")
        assert cells in (5, 6), line
    assert not any("<script" in line or "<img" in line or "](javascript" in line for line in lines)


# --------------------------------------------------------------------------------------------- page
class Page(HTMLParser):
    """Tags that are open, and everything that a browser would load or run."""

    VOID = frozenset({"meta", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.loads += [a for a, _ in attributes if a in ("src", "href") or a.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_named_without_folders():
    planned = example()
    moved = replace(planned, inventory=replace(planned.inventory, name="/home/me/fleets/fleet.yaml"))
    assert "<title>Plan of fleet.yaml</title>" in html(moved)
    assert "/home/me" not in html(moved)


def test_the_page_is_whole_and_loads_nothing():
    page = Page()
    page.feed(html(hostile()))
    assert page.open == []
    assert page.loads == []
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert "url(" not in html(example())


FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=2000",
]
#: measures the page in frames of several widths, and writes what it finds where --dump-dom shows it
MEASURE = """<!doctype html><body><pre id=found></pre><script>
addEventListener('load', () => {
  const found = {};
  for (const frame of document.querySelectorAll('iframe')) {
    const page = frame.contentDocument;
    const wide = [...page.querySelectorAll('main *')].filter(e => !e.closest('.wide')
      && e.getBoundingClientRect().right > frame.clientWidth + 0.5).map(e => e.className || e.tagName);
    found[frame.width] = {page: page.documentElement.scrollWidth, wide,
      bars: page.querySelectorAll('.bar').length,
      flat: [...page.querySelectorAll('.bar i')].filter(e => e.getBoundingClientRect().width < 0.5).length,
      paper: getComputedStyle(page.body).backgroundColor, ink: getComputedStyle(page.body).color};
  }
  document.getElementById('found').textContent = JSON.stringify(found);
});
</script>"""


def measured(need, folder, *flags):
    """What a browser makes of the page at 320, 768 and 1600 pixels."""
    (folder / "plan.html").write_text(html(example()), encoding="utf-8")
    frames = "".join(
        f'<iframe src="plan.html" width="{w}" height="900" style="border:0"></iframe>'
        for w in (320, 768, 1600)
    )
    (folder / "measure.html").write_text(MEASURE + frames, encoding="utf-8")
    command = [
        need("chromium"),
        *FLAGS,
        "--allow-file-access-from-files",
        f"--user-data-dir={folder}/profile",
        *flags,
    ]
    ran = subprocess.run(
        [*command, "--dump-dom", f"file://{folder}/measure.html"], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', ran.stdout, re.S)
    assert found, ran.stdout[:2000] + ran.stderr[-2000:]
    return json.loads(found[1])


def brightness(colour):
    return sum(int(n) for n in re.findall(r"\d+", colour)[:3]) / 3


def test_the_page_in_a_browser_narrow_and_wide(need, tmp_path):
    found = measured(need, tmp_path)
    assert set(found) == {"320", "768", "1600"}
    for width, page in found.items():
        assert page["page"] <= int(width), f"scrolls sideways at {width}"
        assert page["wide"] == []
        assert page["bars"] == 8
    assert brightness(found["320"]["paper"]) > 200 > 100 > brightness(found["320"]["ink"])


def test_the_page_in_the_dark(need, tmp_path):
    page = measured(need, tmp_path, "--blink-settings=preferredColorScheme=0")["768"]
    assert brightness(page["paper"]) < 60
    assert brightness(page["ink"]) > 180
