"""`ogen export prometheus`: its files under promtool, and the rules' unit tests in promtool's own format."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import rule_tests
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from ogen import shipped
from ogen.cli.app import ogen
from ogen.export import alerts_queue
from ogen.export.dialects import DIALECTS
from ogen.export.recording import least, selectors
from ogen.observe import finders_queue
from ogen.plan.model import Member, Pool

FLEET = Path(__file__).parents[1] / "data" / "prometheus.yaml"
PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
SHIPPED = sorted(shipped.folder("inventories").glob("*.yaml"))
RECORDED = re.compile(r"\bogen:[a-z_]+:[a-z]+\b")


def export(folder: Path, *args: str, inventory: Path = FLEET) -> Result:
    words = ["export", "prometheus", str(inventory), "-o", str(folder), *args]
    return CliRunner().invoke(ogen, words)


def exported(folder: Path, *args: str, inventory: Path = FLEET) -> Path:
    result = export(folder, *args, inventory=inventory)
    assert result.exit_code == 0, result.output
    return folder


def promtool(need, *args: str | Path) -> str:
    done = subprocess.run(
        [need("promtool"), *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules(folder: Path, name: str) -> list[dict]:
    found = YAML(typ="safe").load((folder / "rules" / f"ogen-{name}.yml").read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def names(folder: Path) -> list[str]:
    return [rule["alert"] for rule in rules(folder, "alerts")]


def run_tests(need, folder: Path, *tests: dict) -> None:
    path = folder / "unit.yml"
    path.write_text(json.dumps(rule_tests.file(*tests)))
    promtool(need, "test", "rules", path)


# ------------------------------------------------------------------------------------- targets
def test_targets_are_the_hosts_with_a_monitor(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out", "--node-port", "9200")
    assert json.loads((folder / "targets/ogen-nodes.json").read_text()) == [
        {"targets": ["192.0.2.11:9200"], "labels": {"host": "gpu1", "group": "boxes"}},
        {"targets": ["192.0.2.12:9200"], "labels": {"host": "gpu2", "group": "boxes"}},
        {"targets": ["[2001:db8::20]:9200"], "labels": {"host": "desk"}},
        {"targets": ["192.0.2.10:9200"], "labels": {"host": "edge"}},  # a queue's front runs there
    ]
    assert not (folder / "targets/ogen-cards.json").exists()


@pytest.mark.parametrize(("args", "port"), [((), 9835), (("--cards-port", "19835"), 19835)])
def test_another_dialect_has_targets_of_its_own(tmp_path: Path, args: tuple[str, ...], port: int) -> None:
    folder = exported(tmp_path / "out", "--dialect", "nvidia-smi", *args)
    found = json.loads((folder / "targets/ogen-cards.json").read_text())
    assert [one["targets"] for one in found] == [
        [f"192.0.2.11:{port}"],
        [f"192.0.2.12:{port}"],
        [f"[2001:db8::20]:{port}"],
    ]


def test_hosts_without_monitoring_are_told(tmp_path: Path) -> None:
    assert "monitoring is off: quiet" in export(tmp_path / "out").stderr
    result = export(tmp_path / "out", "--format", "json")
    assert json.loads(result.stdout)["unwatched"] == ["quiet"]


def test_twice_is_the_same_and_nothing_of_others_is_overwritten(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    exported(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    assert not any(b"OGEN_TEST_PASSWORD" in text or b"secrets/" in text for text in first.values())
    (folder / "prometheus.yml").write_text("# mine\n")
    result = export(folder)
    assert (result.exit_code, "was edited" in result.stderr) == (1, True)


def test_a_dialect_changed_takes_its_file_away(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out", "--dialect", "dcgm")
    exported(folder)
    assert not (folder / "targets/ogen-cards.json").exists()


@pytest.mark.parametrize("value", ["0", "101%", "half", "-1", "5 %"])
def test_live_is_a_number_or_a_share(tmp_path: Path, value: str) -> None:
    result = export(tmp_path / "out", "--live", value)
    assert (result.exit_code, "neither a number" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("planned", "live", "wanted"),
    [(4, "50%", 2), (5, "50%", 3), (1, "50%", 1), (3, "9", 3), (3, "2", 2), (3, "0%", 1)],
)
def test_how_many_must_be_up(planned: int, live: str, wanted: int) -> None:
    members = tuple(Member("h", f"gpu{n}", "192.0.2.1", 11434 + n, 1) for n in range(planned))
    assert least(Pool("chat", ("chat",), 8192, members), live) == wanted


def test_hosts_with_the_same_ports_are_one_matcher() -> None:
    assert selectors([("b.lan", 1), ("a", 1), ("c", 1), ("c", 2)]) == [
        'host=~"b\\\\.lan|a",ollama="127.0.0.1:1"',
        'host="c",ollama=~"127\\\\.0\\\\.0\\\\.1:1|127\\\\.0\\\\.0\\\\.1:2"',
    ]


# --------------------------------------------------------------------------------------- rules
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("inventory", [FLEET, *SHIPPED], ids=lambda path: path.stem)
def test_promtool_takes_all_files(tmp_path: Path, need, inventory: Path, dialect: str) -> None:
    folder = exported(tmp_path / "out", "--dialect", dialect, inventory=inventory)
    told = promtool(need, "check", "config", "--lint-fatal", folder / "prometheus.yml")
    assert "2 rule files found" in told
    promtool(need, "check", "rules", "--lint-fatal", *(folder / "rules").iterdir())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_records_the_same(tmp_path: Path, need, dialect: str) -> None:
    folder = exported(tmp_path / "out", "--dialect", dialect)
    run_tests(need, folder, rule_tests.records(dialect))


def test_a_healthy_fleet_has_no_alert(tmp_path: Path, need) -> None:
    folder = exported(tmp_path / "out")
    run_tests(need, folder, rule_tests.quiet(names(folder), rule_tests.healthy()))


@pytest.mark.parametrize("case", rule_tests.CASES, ids=lambda case: case.alert)
def test_an_alert_fires_and_no_other(tmp_path: Path, need, case: rule_tests.Case) -> None:
    folder = exported(tmp_path / "out", "--dialect", case.dialect)
    run_tests(need, folder, rule_tests.fires(case, names(folder)))


def test_every_alert_has_a_case(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out", "--dialect", "dcgm")
    assert sorted(case.alert for case in rule_tests.CASES) == sorted(names(folder))


def test_alerts_say_where_and_what_to_do(tmp_path: Path) -> None:
    for rule in rules(exported(tmp_path / "out"), "alerts"):
        summary, action = rule["annotations"]["summary"], rule["annotations"]["action"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        whose = next((kind for kind in ("pool", "queue") if kind in rule["expr"]), "")
        assert (f"{whose} {{{{ $labels.{whose} }}}}" if whose else "{{ $labels.host }}") in summary
        if re.search(r"ogen:gpu_", rule["expr"]):
            assert "card {{ $labels.gpu }}" in summary
        assert re.search(r"ogen (doctor|status)|on the host", action)


def test_the_page_has_every_name(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out", "--dialect", "dcgm")
    page = PAGE.read_text()
    assert set(RECORDED.findall(page)) == {rule["record"] for rule in rules(folder, "recording")}
    told = re.findall(r"^\| `(Ogen\w+)` \| (\w+) \| .*, (\d+) min \|$", page, re.M)
    alerts = rules(folder, "alerts")
    assert sorted(told) == sorted(
        (rule["alert"], rule["labels"]["severity"], rule["for"].rstrip("m")) for rule in alerts
    )


def test_a_name_that_is_a_template_stays_out_of_the_annotations(tmp_path: Path) -> None:
    inventory = tmp_path / "{{ query `x` }}.yaml"
    inventory.write_text(FLEET.read_text())
    folder = exported(tmp_path / "out", inventory=inventory)
    texts = [path.read_text() for path in (*folder.glob("*.yml"), *folder.glob("rules/*.yml"))]
    assert any("ogen doctor INVENTORY --limit" in text for text in texts)
    assert not any("query" in text for text in texts)


def test_only_the_monitors_own_metrics_are_read(tmp_path: Path) -> None:
    """What the rules name is what templates/monitor.py writes."""
    monitor = (shipped.folder("templates") / "monitor.py").read_text()
    written = set(re.findall(r'"(ogen_[a-z_]+)", "(?:gauge|counter)"', monitor))
    folder = exported(tmp_path / "out")
    read = {
        name
        for kind in ("recording", "alerts")
        for rule in rules(folder, kind)
        for name in re.findall(r"\bogen_[a-z_]+", rule["expr"])
    }
    assert read
    assert read <= written


# ----------------------------------------------------------------------------------- dashboard
def dashboard(folder: Path) -> dict:
    return json.loads((folder / "grafana/ogen-fleet.json").read_text())


def expressions(document: dict) -> list[str]:
    return [target["expr"] for panel in document["panels"] for target in panel.get("targets", ())]


def test_the_dashboard_can_be_provisioned(tmp_path: Path) -> None:
    found = dashboard(exported(tmp_path / "out"))
    panels = found["panels"]
    assert found["uid"]
    assert "id" not in found, "Grafana gives it"
    assert "__inputs" not in found, "only an import by hand asks for these"
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [one["name"] for one in found["templating"]["list"]] == ["datasource", "host"]
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references) > 0


def test_no_two_panels_share_a_place(tmp_path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(exported(tmp_path / "out"))["panels"]:
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not own & taken
        taken |= own


def test_the_dashboard_uses_recorded_names_only(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    document = dashboard(folder)
    recorded = {rule["record"] for rule in rules(folder, "recording")}
    used = {name for one in expressions(document) for name in RECORDED.findall(one)}
    assert used
    assert used <= recorded
    for one in expressions(document):
        rest = re.sub(r"\{[^}]*\}", "", RECORDED.sub("", one))
        words = set(re.findall(r"[a-zA-Z_]\w*", rest))
        assert words <= {"sum", "count", "or", "vector", "bool", "clamp_min"}, one


def test_every_expression_of_the_dashboard_parses(tmp_path: Path, need) -> None:
    shown = [one.replace("$host", ".*") for one in expressions(dashboard(exported(tmp_path / "out")))]
    wrapped = [{"record": f"panel{n}", "expr": one} for n, one in enumerate(shown)]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": wrapped}]}))
    assert f"{len(wrapped)} rules found" in promtool(need, "check", "rules", path)
    path.write_text(path.read_text().replace("sum(", "sum((", 1))
    broken = subprocess.run([need("promtool"), "check", "rules", path], capture_output=True, check=False)
    assert broken.returncode != 0, "a mistake would be seen"


def test_amd_cards_count_where_the_monitor_reads_them(tmp_path: Path) -> None:
    """NVIDIA's exporters show no others, so that they must not be missed there."""
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "version: 1\nmodels: {m: {from: 'llama3.1:8b-instruct-q4_K_M', context: 4096}}\n"
        "hosts: {box: {address: 192.0.2.1, gpus: [{model: RX 7900 XTX}, {model: RX 7900 XTX}]}}\n"
    )
    for dialect, counted in (("ogen", True), ("dcgm", False)):
        folder = tmp_path / dialect
        args = ["export", "prometheus", str(path), "-o", str(folder), "--dialect", dialect]
        assert CliRunner().invoke(ogen, args).exit_code == 0
        text = "".join(file.read_text() for file in folder.rglob("*.y*ml"))
        assert ('ogen:host_up:bool{host="box"} + 2' in text) is counted


def test_a_fleet_without_a_queue_has_no_rule_and_no_panel_of_one(tmp_path: Path) -> None:
    plain = exported(tmp_path / "out", inventory=shipped.folder("inventories") / "fleet.yaml")
    assert not [path for path in plain.rglob("*") if path.is_file() and "queue" in path.read_text()]
    for limit in ("FULL", "MEMORY", "OLD"):
        assert getattr(alerts_queue, limit) == getattr(finders_queue, limit)
    assert "Queues" in [panel["title"] for panel in dashboard(exported(tmp_path / "more"))["panels"]]
