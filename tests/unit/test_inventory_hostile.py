"""Hostile pull requests: validate, plan and render run nothing and read nothing outside of the project.

Each folder of tests/hostile is one: `project/`, links to make in it (`links.txt`), and what must
come of it (`expect.txt`). All are watched by an audit hook in a process of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "hostile"
CASES = sorted(path.name for path in FOLDER.iterdir() if (path / "expect.txt").exists())
CANARY = "canary-5d1f0c"
GOOD = """\
version: 1
models: {chat: {from: "llama3.1:8b"}}
hosts: {gpu01: {address: 192.0.2.11, gpus: [{model: RTX 3090}]}}
"""
NGINX = "templates/nginx.conf.j2"


def made(case: str, at: Path) -> Path:
    """The project of a case under `at`, beside a folder that nobody may read."""
    outside = at / "outside"
    (outside / "templates").mkdir(parents=True)
    for file in ("secret.yaml", "model.gguf", NGINX):
        (outside / file).write_text(f"secret: {CANARY}\n")
    project = at / case / "project"
    shutil.copytree(FOLDER / case / "project", project)
    links = FOLDER / case / "links.txt"
    for line in links.read_text().splitlines() if links.exists() else ():
        place, _, target = line.partition(" -> ")
        (project / place).symlink_to(target.replace("{outside}", str(outside)))
    return project


def watched(*arguments: str) -> list[dict[str, Any]]:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(FOLDER / "watch.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    projects = [made(case, tmp_path_factory.mktemp(case)) for case in CASES]
    results = watched(*map(str, projects))
    for project, result in zip(projects, results, strict=True):
        result["ran"] = (project / "../ran").exists() or (project / "ran").exists()
    return {result["project"]: result for result in results}


@pytest.fixture(scope="module")
def diffed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same as changes to a good project that is committed."""
    projects = []
    for case in CASES:
        project = made(case, tmp_path_factory.mktemp(case))
        base = project.with_name("base")
        base.mkdir()
        (base / "inventory.yaml").write_text(GOOD)
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "-C", str(base)]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "base"]):
            subprocess.run([*git, *command], check=True, capture_output=True)
        (base / ".git").rename(project / ".git")
        projects.append(project)
    scratch = tmp_path_factory.mktemp("scratch")
    return {r["project"]: r for r in watched("--diff", str(scratch), *map(str, projects))}


def test_there_are_twenty() -> None:
    assert len(CASES) >= 20


def test_the_watch_sees_what_it_must(tmp_path: Path) -> None:
    """The negative control: without it, an empty list of events would prove nothing."""
    secret = tmp_path / "secret"
    secret.write_text(CANARY)
    (result,) = watched("--control", str(secret))
    seen = " ".join(result["events"])
    assert seen.count(f"open {str(secret)!r}") == 2
    for event in ("os.listdir", "subprocess.Popen", "os.system", "socket.", str(tmp_path / "written")):
        assert event in seen


@pytest.mark.parametrize("case", CASES)
def test_nothing_runs_and_nothing_outside_is_read(case: str, found: dict[str, dict[str, Any]]) -> None:
    result = found[case]
    assert result["events"] == []
    assert not result["ran"]
    assert CANARY not in json.dumps(result)


@pytest.mark.parametrize("case", CASES)
def test_diff_starts_git_and_nothing_else(case: str, diffed: dict[str, dict[str, Any]]) -> None:
    result = diffed[case]
    assert result["events"] == []
    assert result["exit"] in (0, 1, 2)
    assert CANARY not in json.dumps(result)


def test_diff_of_a_good_part_shows_it(diffed: dict[str, dict[str, Any]]) -> None:
    """Some of the pull requests are good files: then the diff was really made."""
    assert any(result["exit"] == 2 and "+" in result["text"] for result in diffed.values())


@pytest.mark.parametrize("case", CASES)
def test_what_comes_of_it(case: str, found: dict[str, dict[str, Any]]) -> None:
    for line in (FOLDER / case / "expect.txt").read_text().splitlines():
        step, _, outcome = line.partition(": ")
        word, _, text = outcome.partition(": ")
        assert found[case][step].startswith(word), found[case][step]
        assert text in found[case][step]


def test_a_text_is_never_a_template(found: dict[str, dict[str, Any]]) -> None:
    assert "__mro__" in found["template_in_text"]["text"]


def test_no_place_is_told_twice_over_files(found: dict[str, dict[str, Any]]) -> None:
    """A refused link names itself, not where it leads."""
    for case in ("inventory_is_a_link", "part_is_a_link", "lock_is_a_link"):
        assert "outside/secret.yaml" not in found[case]["load"]
