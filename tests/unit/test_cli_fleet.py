"""diff, apply, rollback and history against hosts behind the embedded SSH server; secrets stay hidden."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hosts import ADDRESS, Farm

from ogen.cli import console, fleet
from ogen.cli.app import ogen
from ogen.push import Options
from ogen.render.escape import nginx_exactly

CANARY = "canary-4f1c9a2bd07e66"
PASSWORD = "canary-of-the-login-93b1"
NAMES = ("gpu1", "gpu2", "edge")

INVENTORY = """\
version: 1
ssh: {{user: tester, password: !env OGEN_TEST_PASSWORD}}
models:
  chat: {{from: "llama3.1:8b-instruct-q4_K_M", context: {context}, on: boxes}}
groups:
  boxes: {{hosts: [gpu1, gpu2], gpus: [{{model: RTX 3090}}]}}
hosts:
{hosts}
balancers:
  api: {{hosts: [edge], listen: 8080, keys: !file secrets/keys.yaml}}
"""


class Project:
    """An inventory for a farm's hosts, and commands run on it."""

    def __init__(self, folder: Path, farm: Farm) -> None:
        self.folder = folder
        self.farm = farm
        self.path = folder / "inventory.yaml"
        self.output = ""  # of all commands so far, both streams
        (folder / "secrets").mkdir()
        self.keys(CANARY)
        self.write()

    def write(self, context: int = 8192, **extra: int) -> None:
        lines = []
        for number, name in enumerate(NAMES, 1):
            port = extra.get(name, self.farm.port(name))
            place = f"address: {ADDRESS}, data_address: 192.0.2.{number}, root: {self.farm.root(name)}"
            lines.append(f"  {name}: {{{place}, ssh: {{port: {port}}}}}")
        self.path.write_text(INVENTORY.format(context=context, hosts="\n".join(lines)))

    def keys(self, key: str) -> None:
        (self.folder / "secrets" / "keys.yaml").write_text(f"alice: {key}\n")

    def ogen(self, command: str, *args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(ogen, [command, str(self.path), *args])
        self.output += result.stdout + result.stderr
        assert result.exit_code == code, result.output
        return result

    def on_host(self, name: str, path: str) -> Path:
        return self.farm.root(name) / "etc" / "ogen" / "current" / path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with Farm(tmp_path / "farm", *NAMES, password=PASSWORD) as farm:
        monkeypatch.setenv("OGEN_KNOWN_HOSTS", str(farm.known_hosts))
        monkeypatch.setenv("OGEN_TEST_PASSWORD", PASSWORD)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield Project(tmp_path, farm)
    console.hide(None)


def test_the_whole_way(project: Project) -> None:
    assert "3 applied" in project.ogen("apply").stdout
    assert "nothing to do: 3 hosts unchanged" in project.ogen("apply").stdout
    again = project.ogen("diff")
    assert (again.stdout, again.stderr) == ("", "no changes\n")

    project.write(context=4096)
    changed = project.ogen("diff", code=2).stdout
    assert "=== gpu1, gpu2\n" in changed
    assert changed.count("-PARAMETER num_ctx 8192\n+PARAMETER num_ctx 4096\n") == 1
    assert "3 applied" in project.ogen("apply").stdout
    assert "4096" in project.on_host("gpu1", "models/chat.Modelfile").read_text()

    assert "3 restored" in project.ogen("rollback").stdout
    assert "8192" in project.on_host("gpu1", "models/chat.Modelfile").read_text()
    runs = json.loads(project.ogen("history", "--format", "json").stdout)["runs"]
    assert [run["what"] for run in runs] == ["apply", "apply", "rollback"]
    assert "3 restored" in project.ogen("rollback", "--to", runs[1]["run"]).stdout
    assert "4096" in project.on_host("gpu1", "models/chat.Modelfile").read_text()
    project.ogen("diff")


def test_an_edit_on_the_host_is_told_from_what_is_pending(project: Project) -> None:
    project.ogen("apply")
    edited = project.on_host("gpu1", "models/chat.Modelfile")
    edited.write_text(edited.read_text() + "# by hand\n")
    shown = project.ogen("diff", code=2).stdout
    assert shown.splitlines()[:2] == [
        "=== gpu1",
        "changed /etc/ogen/current/models/chat.Modelfile (edited on the host; apply puts it back)",
    ]
    assert "-# by hand" in shown
    document = json.loads(project.ogen("diff", "--format", "json", code=2).stdout)
    assert [c["state"] for c in document["changes"] if c["what"] == "file"] == ["edited"]


def test_an_edit_becomes_a_change_of_the_inventory(project: Project) -> None:
    """Adopted, then applied; a diff in between says that the host has it already."""
    project.ogen("apply")
    edited = project.on_host("gpu1", "models/chat.Modelfile")
    edited.write_text(edited.read_text().replace("num_ctx 8192", "num_ctx 4096"))
    project.ogen("diff", "--drift", code=2)
    before = project.path.read_text()
    dry = project.ogen("adopt", "gpu1", "--dry-run", code=2)
    assert "-  chat: {from" in dry.stdout
    assert "context: 4096" in dry.stdout
    assert project.path.read_text() == before
    done = project.ogen("adopt", "gpu1", "chat.Modelfile")
    assert "adopted: /etc/ogen/current/models/chat.Modelfile: models.chat.context: 4096" in done.stderr
    assert "(gpu1, gpu2)" in done.stderr or "(gpu2)" in done.stderr  # the other host's file changes too
    assert project.path.read_text() == before.replace("context: 8192", "context: 4096")
    document = json.loads(project.ogen("diff", "--format", "json", code=2).stdout)
    states = {
        (h, c["path"].rsplit("/", 1)[-1]): c["state"]
        for c in document["changes"]
        if "state" in c
        for h in c["hosts"]
    }
    assert states["gpu1", "chat.Modelfile"] == "converged"
    assert states["gpu2", "chat.Modelfile"] == "pending"
    project.ogen("apply")
    project.ogen("diff")
    assert "nothing to adopt on gpu1" in project.ogen("adopt", "gpu1").stderr


def test_an_edit_that_nothing_says_is_refused_with_its_place(project: Project) -> None:
    project.ogen("apply")
    edited = project.on_host("gpu1", "models/chat.Modelfile")
    edited.write_text(edited.read_text() + "# by hand\n")
    keys = project.on_host("edge", "balancers/api/keys.conf")
    keys.write_text(keys.read_text() + "# by hand\n")
    before = project.path.read_text()
    refused = project.ogen("adopt", "gpu1", code=1).stderr
    assert "no change of the inventory renders this edit" in refused
    assert "it is made from templates/Modelfile.j2" in refused
    assert "+# by hand" in refused
    assert "it holds secrets" in project.ogen("adopt", "edge", code=1).stderr
    document = json.loads(project.ogen("adopt", "gpu1", "--format", "json", code=1).stdout)
    assert [one["path"].rsplit("/")[-1] for one in document["refused"]] == ["chat.Modelfile"]
    assert "is not edited on gpu1" in project.ogen("adopt", "gpu1", "nginx.conf", code=1).stderr
    assert "did you mean `gpu" in project.ogen("adopt", "gpu", code=1).stderr
    assert project.path.read_text() == before
    assert CANARY not in project.output


def test_drift_alone_counts_what_happened_on_hosts(project: Project) -> None:
    project.ogen("apply")
    project.write(context=4096)
    project.ogen("diff", code=2)
    assert project.ogen("diff", "--drift").stderr.endswith("no changes\n")
    edited = project.on_host("gpu1", "models/chat.Modelfile")
    edited.write_text(edited.read_text() + "# by hand\n")
    shown = project.ogen("diff", "--drift", code=2).stdout
    assert "edited on the host, and not yet applied" in shown
    assert "+# by hand" in shown
    assert "+PARAMETER num_ctx 4096" in shown
    assert "gpu2" not in shown
    annotated = project.ogen("diff", "--format", "github", code=2).stdout.splitlines()
    assert any(line.startswith("::warning file=") and "Modelfile" in line for line in annotated)
    assert any(line.startswith("::notice ") for line in annotated)
    assert "leave one of them out" in project.ogen("diff", "--drift", "--base", "HEAD", code=1).stderr


def test_a_foreign_drop_in_is_a_finding_and_nothing_to_apply(project: Project) -> None:
    project.ogen("apply")
    dropin = project.farm.root("gpu1") / "etc/systemd/system/ogen-ollama-gpu0.service.d/override.conf"
    dropin.parent.mkdir(parents=True)
    dropin.write_text("[Service]\nNice=5\n")
    shown = project.ogen("diff", code=2).stdout
    assert "override.conf (foreign drop-in for a unit of ogen's; apply leaves it)" in shown
    assert "+Nice=5" in shown
    project.ogen("apply", "--dry-run")
    assert "only `Environment=` lines" in project.ogen("adopt", "gpu1", code=1).stderr
    dropin.write_text("[Service]\nEnvironment=OLLAMA_DEBUG=1\n")
    project.ogen("adopt", "gpu1", "override.conf")
    assert 'env: {OLLAMA_DEBUG: "1"}' in project.path.read_text()


def test_hosts_that_were_not_asked_are_named(project: Project) -> None:
    project.ogen("apply")
    text = project.path.read_text()
    project.path.write_text(text.replace("  gpu2: {", "  gpu2: {state: out, reason: fan, "))
    project.path.with_name("inventory.lock.yaml").write_text(
        "version: 1\nhosts:\n  gone1:\n    ollama: 0.32.15\n"
    )
    document = json.loads(project.ogen("diff", "--format", "json", code=2).stdout)
    assert {one["host"]: one["why"].split(";")[0] for one in document["unseen"]} == {
        "gpu2": "out (fan)",
        "gone1": "removed from the inventory, the lock knows it",
    }
    assert "gone1" in project.ogen("diff", "--format", "markdown", code=2).stdout
    project.ogen("apply")
    assert json.loads(project.ogen("diff", "--format", "json").stdout)["changed"] is False


def test_a_dry_run_changes_nothing(project: Project) -> None:
    before = sorted(project.farm.folder.rglob("*"))
    dry = project.ogen("apply", "--dry-run", code=2)
    assert "31 added" in dry.stdout or "added" in dry.stdout
    assert sorted(project.farm.folder.rglob("*")) == before


def test_limit_takes_the_balancers_along_and_no_match_is_an_error(project: Project) -> None:
    shown = json.loads(project.ogen("apply", "--limit", "gpu1", "--format", "json").stdout)
    assert sorted(host["host"] for host in shown["hosts"]) == ["edge", "gpu1"]
    nothing = project.ogen("apply", "--limit", "gpu9", code=1)
    assert "gpu9" in nothing.stderr


def test_hosts_that_do_not_answer_are_4_and_told_with_json_too(project: Project) -> None:
    project.write(gpu1=1)
    told = project.ogen("diff", code=4)
    assert "error: gpu1: " in told.stderr
    document = json.loads(project.ogen("apply", "--format", "json", code=4).stdout)
    statuses = {host["host"]: host["status"] for host in document["hosts"]}
    assert statuses == {"gpu1": "unreachable", "gpu2": "not_started", "edge": "not_started"}
    assert {error["host"] for error in document["errors"]} >= {"gpu1"}


def test_there_is_nothing_to_go_back_to(project: Project) -> None:
    assert "nothing was applied yet" in project.ogen("rollback", code=1).stderr
    project.ogen("apply")
    assert "the first one on" in project.ogen("rollback", code=1).stderr
    assert "`ogen history` lists the runs" in project.ogen("rollback", "--to", "nope", code=1).stderr


# --------------------------------------------------------------------------------------- secrets
def leaks(text: str) -> bool:
    return CANARY in text or PASSWORD in text or "canary-" in text


def test_no_reporter_shows_a_secret(project: Project, tmp_path: Path) -> None:
    project.ogen("diff", code=2)
    project.ogen("apply")
    held = project.on_host("edge", "balancers/api/keys.conf").read_text()
    assert hashlib.sha256(CANARY.encode()).hexdigest() in held  # it is truly in use
    # somebody copied the new key, as nginx's file writes it, into a file that is not secret
    copied = project.on_host("gpu2", "models/chat.Modelfile")
    copied.write_text(copied.read_text() + nginx_exactly(CANARY + "-2"))
    project.keys(CANARY + "-2")
    project.write(context=4096)
    copied = project.on_host("gpu1", "models/chat.Modelfile")
    copied.write_text(copied.read_text() + f"# {CANARY}-2\n# \x1b]0;{PASSWORD}\x07\n")
    for shape in ("text", "json", "markdown"):
        changed = project.ogen("diff", "--format", shape, code=2).stdout
        assert "keys.conf" in changed
    assert "<secret:" in project.output
    project.ogen("diff", "--stat", code=2)
    project.ogen("apply", "--format", "json")
    project.ogen("history", "--format", "json")
    project.ogen("validate", "--format", "json")
    project.ogen("plan")
    project.ogen("plan", "--format", "json")
    project.ogen("render", "-o", str(tmp_path / "rendered"))
    rendered = subprocess.run(["grep", "-r", "canary", tmp_path / "rendered"], capture_output=True, text=True)
    project.ogen("rollback", code=3)  # the release to go back to was edited, and is refused
    project.write(gpu1=1)
    project.ogen("apply", "--format", "json", code=4)
    assert rendered.stdout == ""
    assert not leaks(project.output)


def test_the_check_for_leaks_can_fail(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """With redaction switched off, the same edit on a host is seen."""
    monkeypatch.setattr(console, "hide", lambda redact: None)
    monkeypatch.setattr("ogen.cli.vault.Vault.redactor", lambda vault: lambda text: text)
    monkeypatch.setattr("ogen.cli.live.Comparer", _Open)
    project.ogen("apply")
    copied = project.on_host("gpu1", "models/chat.Modelfile")
    copied.write_text(copied.read_text() + f"# {CANARY}\n")
    project.ogen("diff", code=2)
    assert leaks(project.output)


def _Open(context: int, _: object) -> object:
    from ogen.release.diff import Comparer
    from ogen.release.redaction import Redactor

    return Comparer(context, Redactor())


def test_a_secret_that_is_missing_is_told_before_any_host_is_contacted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.folder / "secrets" / "keys.yaml").unlink()
    result = project.ogen("apply", code=1)
    assert "secrets/keys.yaml" in result.stderr
    assert "no such file" in result.stderr
    assert "inventory.yaml:12:" in result.stderr
    assert all(server.connections == 0 for server in project.farm.servers.values())


# ----------------------------------------------------------------------------- a git revision
def git(folder: Path, *args: str) -> None:
    names = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *names, *args], check=True, capture_output=True)


def test_offline_against_a_git_revision(project: Project) -> None:
    git(project.folder, "init", "-q")
    git(project.folder, "add", "inventory.yaml")
    git(project.folder, "commit", "-qm", "first")
    (project.folder / "secrets" / "keys.yaml").unlink()  # nobody reads it
    assert project.ogen("diff", "--base", "HEAD").stdout == ""
    project.write(context=4096)
    changed = project.ogen("diff", "--base", "HEAD", code=2).stdout
    assert "-PARAMETER num_ctx 8192\n+PARAMETER num_ctx 4096\n" in changed
    limited = json.loads(
        project.ogen("diff", "--base", "HEAD", "--limit", "gpu1", "--format", "json", code=2).stdout
    )
    assert {host for change in limited["changes"] for host in change["hosts"]} == {"gpu1"}
    assert project.ogen("diff", "--base", "HEAD", "--format", "markdown", code=2).stdout.startswith(
        "### ogen:"
    )
    assert "git knows no commit" in project.ogen("diff", "--base", "nope", code=1).stderr
    assert all(server.connections == 0 for server in project.farm.servers.values())


def test_a_base_without_the_inventory_makes_everything_new(project: Project) -> None:
    git(project.folder, "init", "-q")
    git(project.folder, "commit", "-qm", "empty", "--allow-empty")
    shown = project.ogen("diff", "--base", "HEAD", "--stat", code=2).stdout
    assert (
        "new in the inventory: gpu1, gpu2, edge" in shown or "new in the inventory: edge, gpu1, gpu2" in shown
    )


def test_a_base_that_is_not_valid_is_told_as_the_bases(project: Project) -> None:
    git(project.folder, "init", "-q")
    good = project.path.read_text()
    project.path.write_text(good.replace("models:", "modles:"))
    git(project.folder, "add", "inventory.yaml")
    git(project.folder, "commit", "-qm", "broken")
    project.path.write_text(good)
    told = project.ogen("diff", "--base", "HEAD", code=1).stderr
    assert "error: the inventory at HEAD is not valid:" in told
    assert "modles" in told


def test_no_command_of_the_inventory_runs_offline(project: Project, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    text = project.path.read_text().replace("!file secrets/keys.yaml", f"!command [touch, {ran}]")
    project.path.write_text(text)
    git(project.folder, "init", "-q")
    git(project.folder, "add", "inventory.yaml")
    git(project.folder, "commit", "-qm", "hostile")
    project.ogen("validate")
    project.ogen("plan")
    project.ogen("diff", "--base", "HEAD")
    project.ogen("render", "-o", str(tmp_path / "out"))
    project.ogen("env")
    assert not ran.exists()
    project.ogen("diff", code=1)  # against hosts it does run, and gives nothing
    assert ran.exists()


# --------------------------------------------------------------------------------------- Ctrl-C
def test_ctrl_c_once_starts_no_other_host(capsys: pytest.CaptureFixture[str]) -> None:
    options = Options()
    before = signal.getsignal(signal.SIGINT)
    with fleet.interruptible(options):
        os.kill(os.getpid(), signal.SIGINT)
        assert options.stop.wait(5)
    assert signal.getsignal(signal.SIGINT) is before
    assert "finishing the hosts under way" in capsys.readouterr().err


def test_ctrl_c_twice_stops_watching() -> None:
    code = (
        "import os, signal, time\nfrom ogen.cli import fleet\nfrom ogen.push import Options\n"
        "with fleet.interruptible(Options()):\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT); time.sleep(30)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, check=False)
    assert done.returncode == 130


def test_an_interrupted_apply_is_130(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the hosts are looked at: nothing is started, and the exit code says why."""

    real = fleet.interruptible

    def interrupted(options: Options, again: Callable[[], None]) -> AbstractContextManager[None]:
        options.stop.set()
        return real(options, again)

    monkeypatch.setattr(fleet, "interruptible", interrupted)
    result = project.ogen("apply", code=130)
    assert "3 not started" in result.stdout
    assert not project.on_host("gpu1", "").exists()
