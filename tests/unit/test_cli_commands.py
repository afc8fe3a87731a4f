"""Each small command by itself: init, validate, schema, render, env, discover, trust; and their speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result
from hosts import ADDRESS, Farm

from ogen.cli.app import ogen
from ogen.cli.discover import snippet
from ogen.cli.init import FILES, SCHEMA
from ogen.inventory.model import Host, Ssh
from ogen.source import parse

INVENTORY = """\
version: 1
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 8192}
  embed: {from: "nomic-embed-text:v1.5", embedding: true, replicas: 1}
hosts:
  gpu1: {address: 192.0.2.1, gpus: [{model: RTX 3090}, {model: RTX 3090}]}
balancers:
  api: {hosts: [gpu1], listen: 8080}
"""


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(ogen, [str(arg) for arg in args])


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


# ----------------------------------------------------------------------------------------- init
def test_init_writes_a_project_that_works(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert run("init", folder).exit_code == 0
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {*FILES.values(), SCHEMA}
    path = folder / "inventory.yaml"
    for command in ("validate", "plan", "env"):
        result = run(command, path)
        assert result.exit_code == 0, result.output
    schema = json.loads((folder / SCHEMA).read_text())
    jsonschema.validate(parse(path.read_text(), "x").plain(), schema)
    assert f"$schema={SCHEMA}" in path.read_text().splitlines()[0]
    json.loads((folder / ".vscode" / "settings.json").read_text())
    parse((folder / ".github" / "workflows" / "ogen.yaml").read_text(), "ci")


@pytest.mark.parametrize("name", [*FILES.values(), SCHEMA])
def test_init_overwrites_nothing(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    result = run("init", tmp_path)
    assert result.exit_code == 1
    assert "nothing is overwritten" in result.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [mine]
    assert mine.read_text() == "mine"


# ------------------------------------------------------------------------- validate and schema
def test_validate_says_what_there_is(inventory: Path) -> None:
    result = run("validate", inventory)
    assert (result.exit_code, result.stdout) == (0, "")
    assert (
        result.stderr
        == f"{inventory}: 1 host, 2 cards, 2 models, 1 balancer: good; `ogen plan` says whether it fits\n"
    )
    document = json.loads(run("validate", inventory, "--format", "json").stdout)
    assert document["version"] == 1
    assert document["errors"] == []


def test_validate_tells_all_mistakes(inventory: Path) -> None:
    inventory.write_text(INVENTORY.replace("context", "contxt").replace("listen: 8080", "listen: x"))
    result = run("validate", inventory)
    assert result.exit_code == 1
    assert f"--> {inventory}:3:" in result.stderr
    assert f"--> {inventory}:8:" in result.stderr
    assert result.stderr.endswith("2 errors\n")
    lines = run("validate", inventory, "--format", "github").stdout.splitlines()
    assert [line.split(",col=")[0] for line in lines] == [
        f"::error file={inventory},line=3",
        f"::error file={inventory},line=8",
    ]
    assert len(json.loads(run("validate", inventory, "--format", "json").stdout)["errors"]) == 2


def test_no_such_inventory(tmp_path: Path) -> None:
    result = run("validate", tmp_path / "none.yaml")
    assert result.exit_code == 1
    assert "none.yaml: no such file" in result.stderr


def test_schema_is_json() -> None:
    assert json.loads(run("schema").stdout)["$schema"]


# --------------------------------------------------------------------------------- render, env
def test_render(inventory: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shown = json.loads(run("render", inventory, "-o", folder, "--format", "json").stdout)
    (host,) = shown["hosts"]
    assert host["host"] == "gpu1"
    for path in host["files"]:
        assert (folder / "gpu1" / path[1:]).is_file()
    assert run("render", inventory, "-o", folder).exit_code == 0
    assert run("render", inventory, "-o", folder, "--limit", "nope").exit_code == 1


def test_env(inventory: Path) -> None:
    assert run("env", inventory).stdout == (
        "export OLLAMA_HOST=http://192.0.2.1:8080\n"
        "export OPENAI_BASE_URL=http://192.0.2.1:8080/v1\n"
        "export OPENAI_API_KEY=ollama\n"
    )
    assert "set -gx OLLAMA_HOST http://192.0.2.1:8080\n" in run("env", inventory, "--shell", "fish").stdout
    assert "there are api" in run("env", inventory, "apo").stderr
    urls = json.loads(run("env", inventory, "api", "--format", "json").stdout)["urls"]
    assert urls == {"": "http://192.0.2.1:8080"}


def test_env_with_a_port_for_each_model(inventory: Path) -> None:
    inventory.write_text(INVENTORY.replace("listen: 8080", "listen: 8080, routing: per_port"))
    urls = json.loads(run("env", inventory, "--format", "json").stdout)["urls"]
    assert set(urls) == {"chat", "embed"}
    assert "# chat: http://192.0.2.1:" in run("env", inventory).stdout


# ---------------------------------------------------------------------------- discover and trust
def test_discover_writes_a_piece_of_inventory() -> None:
    card = {"memory": 4 << 30, "driver": "550.54"}
    facts = {
        "hostname": "GPU-Box.example.org",
        "ollama": "0.32.15",
        "nginx": {"version": "1.22.1", "modules": ["ngx_http_js_module.so"]},
        "gpus": [
            {"name": "NVIDIA GeForce RTX 3090", "uuid": "GPU-1111", **card},
            {"name": "Odd: } \x1b[2J\nCard", "uuid": "GPU-2222\n  evil: 1", **card},
        ],
    }
    text = snippet(Host("ops@192.0.2.9:22", "192.0.2.9", ssh=Ssh(user="ops", port=22)), facts)
    node = parse(f"hosts:\n{text}", "x").plain()
    assert node["hosts"] == {
        "gpu-box": {
            "address": "192.0.2.9",
            "ssh": {"user": "ops", "port": 22},
            "ollama": {"version": "0.32.15"},
            "gpus": [
                {"model": "RTX 3090", "uuid": "GPU-1111"},
                {"model": "Odd  2JCard", "vram": "4096MiB", "uuid": "GPU-2222evil1"},
            ],
        }
    }
    assert "driver 550.54, nginx 1.22.1 (routing by_model)" in text
    plain = snippet(Host("a", "192.0.2.9"), {"nginx": {"version": "1.22.1", "modules": []}})
    assert "nginx 1.22.1 (neither routing by_model nor a gate)" in plain


def test_discover_this_machine() -> None:
    result = run("discover", "--local")
    assert result.exit_code == 0, result.output
    assert "    connection: local\n" in result.stdout
    (host,) = json.loads(run("discover", "--local", "--format", "json").stdout)["hosts"]
    assert host["address"] == "127.0.0.1"
    assert "gpus" in host


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "a b", "a:b:c", "a;b"])
def test_discover_takes_only_names(name: str) -> None:
    result = run("discover", "--", name)
    assert result.exit_code == 1
    assert "not a host" in result.stderr


def test_trust_shows_pins_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "ssh" / "known_hosts"
    monkeypatch.setenv("OGEN_KNOWN_HOSTS", str(known))
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "inventory.yaml"
    with Farm(tmp_path / "farm", "gpu1") as farm:
        port = farm.port("gpu1")
        text = f"version: 1\nhosts:\n  gpu1: {{address: {ADDRESS}, ssh: {{port: {port}}}}}\n"
        path.write_text(text)
        key = farm.servers["gpu1"].host_key
        shown = run("trust", path)
        assert shown.exit_code == 2
        assert key.fingerprint in shown.stdout
        assert not known.exists()
        assert run("trust", path, "--yes").exit_code == 0
        assert known.read_text() == farm.servers["gpu1"].known
        assert run("trust", path).stdout.endswith("  known\n")
        other = f"[{ADDRESS}]:{port} {key.get_name()} {type(key).generate(bits=256).get_base64()}\n"
        known.write_text(other)
        refused = run("trust", path, "--yes")
        assert refused.exit_code == 4
        assert f"another key than {known}:1" in refused.stderr
        known.write_text(f"@revoked {farm.servers['gpu1'].known}")
        assert "revokes the key" in run("trust", path, "--yes").stderr


# ------------------------------------------------------------------------------------- start-up
def test_validate_imports_neither_paramiko_nor_rich(inventory: Path) -> None:
    code = (
        "import sys\nfrom ogen.cli import main\n"
        "try: main(['validate', sys.argv[1]])\n"
        "finally: print(','.join(m for m in ('paramiko', 'rich', 'jinja2', 'ogen.push') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, inventory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"
