"""Every finding, provoked by changing one thing in what a healthy fleet says; the healthy one has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from doctor_cases import (
    API,
    APP,
    FOREIGN,
    GIN,
    GPU0,
    INVENTORY,
    LOAD,
    NOW,
    PS,
    ROW,
    TABLE,
    Change,
    Said,
    both,
    found,
    healthy,
    off,
    planned_from,
    put,
    says,
    unit,
)

from ogen.plan.model import Plan


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned_from(tmp_path_factory.mktemp("doctor"))


def test_a_healthy_fleet_has_none(planned: Plan) -> None:
    assert found(planned) == ()


@pytest.mark.parametrize(("kind", "about", "change", "word", "fix"), TABLE)
def test_one_thing_is_wrong(
    planned: Plan, kind: str, about: str, change: Change, word: str, fix: str
) -> None:
    findings = [one for one in found(planned, change) if one.kind == kind]
    assert findings, [one.kind for one in found(planned, change)]
    one = findings[0]
    assert one.about == about
    assert word in " ".join((one.what, *one.evidence))
    assert fix in one.fix
    assert one.evidence
    assert one.where is not None, "a line of the inventory"


@pytest.mark.parametrize(("kind", "about", "change", "word", "fix"), TABLE)
def test_one_thing_is_not_told_as_many(
    planned: Plan, kind: str, about: str, change: Change, word: str, fix: str
) -> None:
    besides = {"hold 6.4 GiB": {"not-resident"}, "held by ollama (pid 7)": {"instance-down"}}.get(word, set())
    assert {one.kind for one in found(planned, change)} == {kind} | besides


#: for each kind the line of the inventory that it names, and what to write there; the host's line for others
LINES = {
    "store-missing": ("models_dir: /var/lib/ollama/models", ""),
    "disk-low": ("models_dir: /var/lib/ollama/models", ""),
    "wrong-store": ("models_dir: /var/lib/ollama/models", "models_dir: /home/me/.ollama/models"),
    "port-taken": ("first_port: 11434", ""),
    "card-lost": ("state: in", "state: out"),
    "card-smaller": ("vram: 24GiB", "vram: 8192MiB"),
    "memory-others": ("reserve: 0GiB", "reserve: 12860MiB"),
    "memory-moves": ("reserve: 0GiB", "reserve: 12860MiB"),
    "version": ("version: 0.32.15", "version: 0.31.0"),
    "vulkan": ("solo:", ""),
    "not-resident": ("keep_alive: 24h", "keep_alive: -1"),
    "context": ("max_context: plan", "max_context: plan"),
    "spilled": ("chat:", "kv_cache: q8_0"),
    "out-of-memory": ("chat:", "kv_cache: q8_0"),
    "reloads": ("max_context: plan", "max_context: plan"),
    "load-timeout": ("load_timeout: 5m", "load_timeout: 10m"),
    "busy": ("max_queue: 100", "max_queue: 200"),
    "upstream-timeout": ("read_timeout: 1h", "read_timeout: 7200s"),
    "body-too-large": ("max_body: 64MiB", "max_body: 128MiB"),
    "queue-full": ("queue: 512", "queue: 1024"),
    "balancer-down": ("api:", ""),
    "balancer-crashes": ("api:", ""),
    "balancer-stale": ("api:", ""),
    "no-live-upstreams": ("api:", ""),
    "client-timeout": ("api:", ""),
    "card-idle": ("api:", ""),
}


FIRST = {kind: (about, change) for kind, about, change, _, _ in reversed(TABLE)}


@pytest.mark.parametrize("kind", FIRST)
def test_lines_of_the_inventory(planned: Plan, kind: str) -> None:
    about, change = FIRST[kind]
    one = next(one for one in found(planned, change) if one.kind == kind)
    line, sets = LINES.get(kind, ("- model: RTX 3090" if about == "gpu0" else "solo:", ""))
    assert one.where
    assert (one.where.text.lines[one.where.line - 1].strip(), one.sets) == (line, sets)


def test_settings_that_are_not_written_yet(planned: Plan) -> None:
    """They are to be added to the entry that they belong to, with the keys that lead there."""
    (one,) = found(planned, both(put(*ROW, "index", value="0"), put("cards", "apps", value=FOREIGN)))
    assert one.where
    assert (one.where.text.lines[one.where.line - 1].strip(), one.sets) == (
        "- model: RTX 3090",
        "reserve: 9000MiB",
    )
    quant = says('msg="quantized kv cache requested but flash attention disabled" type=q8_0')
    (one,) = found(planned, quant)
    assert one.where
    assert one.where.text.lines[one.where.line - 1].strip() == "solo:"
    assert one.sets == "ollama: {flash_attention: true}"


def test_room_for_others_is_what_they_have_and_what_they_take(tmp_path: Path) -> None:
    planned = planned_from(tmp_path, INVENTORY.replace("reserve: 0GiB", "reserve: 1GiB"))
    assert found(planned, put(*ROW, "memory.used", value="7900")) == (), "within the reserve"
    (one,) = found(planned, put(*ROW, "memory.used", value="20000"))
    over, room = (float(n) for n in (one.what.split()[-5], one.fix.split()[-1].removesuffix("MiB")))
    assert room == pytest.approx(1024 + over * 1024, abs=60)


def test_old_variables(tmp_path: Path) -> None:
    old = INVENTORY.replace("  max_queue", "  env: {OLLAMA_NEW_ENGINE: '1'}\n  max_queue")
    (one,) = found(planned_from(tmp_path, old))
    assert one.kind == "variable-ignored"
    assert "since Ollama 0.30" in one.what
    assert one.where
    assert "OLLAMA_NEW_ENGINE" in one.where.text.lines[one.where.line - 1]


def test_a_rung_of_autofit_is_what_the_instance_promises(planned: Plan) -> None:
    """Less context and layers on the host are findings, unless the host has chosen them."""
    models = [("proofs", n, "models", 0) for n in (0, 1)]  # both instances tell of the same one
    lower = both(put(*PS, "context_length", value=4096), put(*PS, "size_vram", value=3 << 30))
    assert {one.kind for one in found(planned, lower)} == {"context", "spilled"}
    contexts = [put(*model, "context", value=4096) for model in models]
    verdicts = [put(*model, "verdict", value="partial") for model in models]
    assert found(planned, both(lower, *contexts, *verdicts)) == ()
    assert {one.kind for one in found(planned, both(*contexts))} == {"context"}


def test_switches_of_autofit_are_no_reloads_that_somebody_asked_for(tmp_path: Path) -> None:
    text = INVENTORY.replace("context: 8192", "context: {want: 8192, at_least: 4096}")
    planned = planned_from(tmp_path, text.replace("models:\n", "autofit: true\nmodels:\n", 1))
    rungs = [rung.placements[0].settings.context for rung in planned.hosts[0].instances[0].rungs]
    assert 4096 in rungs
    assert 5000 not in rungs

    def kinds(*contexts: int) -> set[str]:
        lines = [LOAD[1].replace("8192", str(n)) for n in contexts]
        return {one.kind for one in found(planned, says(*lines))}

    assert "reloads" not in kinds(4096, 8192, 4096, 8192), "the host itself went down and up"
    assert "reloads" in kinds(4096, 5000, 4096, 5000), "5000 is no rung's: a client's"
    assert "reloads" in kinds(8192, 8192, 8192, 8192), "nothing has changed"


def test_a_model_with_hours_is_not_missed(planned: Plan) -> None:
    away = put("instances", "gpu0", "models", value=[])
    assert "not-resident" in {one.kind for one in found(planned, away)}
    hours = both(away, put("proofs", 0, "models", 0, "stays", value=False))
    assert "not-resident" not in {one.kind for one in found(planned, hours)}


def silent(count: int, since: float, until: float, gone: str = "192.0.2.1:11434") -> Change:
    """Requests without a word to an instance."""
    return put("edges", "api", "silent", value=[["", gone, count, NOW - since, NOW - until]], host="edge")


@pytest.mark.parametrize(
    "change",
    [
        put("units", GPU0, value=unit(restarts=1, age=60)),
        put("cards", "apps", value=[{**APP, "used_memory": "300", "unit": "gdm.service"}]),
        put("edges", "api", "failed", value=[[NOW - 7190, "192.0.2.1:11434", "502"]], host="edge"),
        put("edges", "api", "failed", value=[[NOW - 9, "192.0.2.77:11434", "502"]], host="edge"),
        put("logs", API, "lines", value=[[NOW - 7190, "[error] no live upstreams"]], host="edge"),
        says("cudaMalloc failed: out of memory, retrying without pipeline parallelism"),
        says(GIN % 404, GIN % 499),
        both(
            put("units", GPU0, value=unit(age=3.0)),
            put("instances", "gpu0", value={"error": "connection refused"}),
        ),
        both(put("instances", "gpu0", "models", value=[]), says(LOAD[1])),
        put(*ROW, "memory.used", value="7300"),
        put("logs", GPU0, value={"start": [], "lines": [], "last": []}),
        both(put("idle", value=False), put("locked", value="ops@desk")),
        silent(2, 200, 20),
        silent(9, 70, 20),  # a long answer, and clients that don't wait
        silent(9, 2000, 1800),  # nobody has asked since
        silent(9, 7100, 20, gone="192.0.2.77:11434"),
        silent(9, 7190, 20),  # it was restarted since the first of them
        both(silent(9, 500, 20), put(*ROW, "utilization.gpu", value="100")),
        both(silent(9, 500, 20), put(*ROW, "utilization.gpu", value="[N/A]")),
    ],
)
def test_no_false_alarm(planned: Plan, change: Change) -> None:
    """Restarted once, a desktop's memory, failures of a start, a retry of the engine, a load under way."""
    assert found(planned, change) == ()


@pytest.mark.parametrize("value", [None, [], "x", 7, {"a": 1}, [["x"]], [None], {"gpu0": None}])
def test_words_of_a_wrong_shape_break_nothing(planned: Plan, value: Any) -> None:
    """A host may say anything; what it says wrongly counts as not said."""
    solo, _ = healthy()
    for key in solo:
        found(planned, put(key, value=value))
    for key in ("disk", "blobs", "lacking"):
        found(planned, put("store", key, value=value))
    for key in ("rows", "apps", "said"):
        found(planned, put("cards", key, value=value))


def test_small_clocks_and_early_leavers(planned: Plan) -> None:
    assert found(planned, off(5.0)) == ()
    for gone in ([[NOW - n, 12.0 + 7 * n] for n in range(9)], [[NOW - n, 10.0 + n / 4] for n in range(200)]):
        leave = put("edges", "api", "gone", value=gone, host="edge")
        assert found(planned, leave) == (), "people, not a timeout"


def test_a_model_that_was_planned_in_part(tmp_path: Path) -> None:
    """One layer more or less is what fit measures; ten less are what was not planned."""
    tight = INVENTORY.replace("llama3.1:8b-instruct-q4_K_M", "qwen2.5-coder:32b-instruct-q8_0")
    more = "    on: solo\n    gpu_layers_at_least: 10\n    gpus_per_replica: 1"
    planned = planned_from(tmp_path, tight.replace("    on: solo", more))
    layers = planned.hosts[0].instances[0].placements[0].account.layers
    assert 12 < layers < 64

    def of(count: int) -> Change:
        def change(solo: Said, edge: Said) -> None:
            for n in (0, 1):
                solo["proofs"][n]["models"][0]["verdict"] = "partial"
                solo["instances"][f"gpu{n}"]["models"][0]["size_vram"] = 3 << 30
                told = f"load_tensors: offloaded {layers if n else count}/65 layers to GPU"
                says(LOAD[1], told, instance=n)(solo, edge)

        return change

    for count in (layers, layers - 2, layers + 3):
        assert found(planned, of(count)) == ()
    (one,) = found(planned, of(layers - 10))
    assert one.kind == "spilled"
    assert f"{layers - 10} of 65 layers, planned {layers}" in one.what


def test_a_concession_counts_on_what_others_leave_of_the_card(planned: Plan) -> None:
    """Whoever holds it: a driver that names no programs tells its sum."""
    spilled = says(LOAD[1], "load_tensors: offloaded 20/33 layers to GPU")
    (alone,) = [one for one in found(planned, spilled) if one.kind == "spilled"]
    assert "fits in the 24.0 GiB that others leave" in alone.fix
    change = both(spilled, put(*ROW, "memory.used", value="23000"))
    (beside,) = [one for one in found(planned, change) if one.kind == "spilled"]
    assert "fits in" not in beside.fix or "24.0 GiB" not in beside.fix
    assert "others leave" in beside.fix, "7.3 GiB: the model itself is on the card, and 457 MiB of its driver"
