"""Edits of rendered files → the change of the inventory that renders them; proven by rendering."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ogen.adopt import batch, lines
from ogen.adopt.project import Project
from ogen.adopt.search import Found, Wanted, search

INVENTORY = """\
# who runs what
version: 1
ollama: {version: 0.32.15, keep_alive: "-1"}
models:
  chat: {from: "llama3.1:8b-instruct-q4_K_M", context: 8192, on: boxes}   # everybody's
  coder:
    from: qwen2.5-coder:7b-instruct-q4_K_M
    context: {want: 8192, at_least: 4096}
    parameters: {temperature: 0.2, top_p: 0.95}
    replicas: 1
    on: solo
groups:
  boxes: {hosts: ["gpu[1:2]"], gpus: [{model: RTX 3090, count: 2}], env: {OLLAMA_DEBUG: "1"}}
hosts:
  "gpu[1:2]": {address: "192.0.2.[11:12]"}
  solo: {address: 192.0.2.20, gpus: [{model: RTX 3090}]}
  edge: {address: 192.0.2.10}
balancers:
  api:
    hosts: [edge]
    listen: 8080
    max_fails: 2
    fail_timeout: 10s
"""
UNIT = "/etc/systemd/system/ogen-ollama-gpu0.service"
NGINX = "/etc/ogen/current/balancers/api/nginx.conf"
CHAT = "/etc/ogen/current/models/chat.Modelfile"
CODER = "/etc/ogen/current/models/coder.Modelfile"
MONITOR = "/etc/ogen/current/monitor.json"
Change = Callable[[str], str]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    file = tmp_path / "inventory.yaml"
    file.write_text(INVENTORY)
    return Project.read(file)


def by(old: str, new: str) -> Change:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


def adopt(project: Project, host: str, path: str, change: Change, **extra: bool) -> Found:
    mine = project.text(host, path)
    assert mine is not None
    return search(project, Wanted(host, path, change(mine)), **extra)


def inventory(found: Found) -> str:
    (text,) = found.project.texts.values()
    return text


CASES = [
    ("gpu1", CHAT, by("num_ctx 8192", "num_ctx 4096"), "context: 8192, on", "context: 4096, on"),
    ("solo", CODER, by("num_ctx 8192", "num_ctx 6000"), "want: 8192", "want: 6000"),
    ("solo", CODER, by("temperature 0.2", "temperature 0.7"), "temperature: 0.2", "temperature: 0.7"),
    ("solo", CODER, by("PARAMETER temperature 0.2\n", ""), "temperature: 0.2, ", ""),
    (
        "solo",
        CODER,
        by("PARAMETER top_p", "PARAMETER top_k 40\nPARAMETER top_p"),
        "top_p: 0.95}",
        "top_p: 0.95, top_k: 40}",
    ),
    ("edge", NGINX, by("max_fails=2", "max_fails=3"), "max_fails: 2", "max_fails: 3"),
    ("edge", NGINX, by("fail_timeout=10s", "fail_timeout=30s"), "fail_timeout: 10s", "fail_timeout: 30s"),
    ("edge", NGINX, by("listen 8080", "listen 9090"), "listen: 8080", "listen: 9090"),
    (
        "edge",
        NGINX,
        by("least_conn;", "ip_hash;"),
        "fail_timeout: 10s\n",
        "fail_timeout: 10s\n    strategy: ip_hash\n",
    ),
    (
        "edge",
        NGINX,
        by("proxy_connect_timeout 2s", "proxy_connect_timeout 5s"),
        "fail_timeout: 10s\n",
        "fail_timeout: 10s\n    connect_timeout: 5s\n",
    ),
    (
        "gpu1",
        UNIT,
        by("OLLAMA_KEEP_ALIVE=-1", "OLLAMA_KEEP_ALIVE=30m"),
        "  edge: {address: 192.0.2.10}\n",
        "  edge: {address: 192.0.2.10}\n  gpu1: {ollama: {keep_alive: 30m}}\n",
    ),
    (
        "solo",
        UNIT,
        by("Environment=OGEN_MODELS", "Environment=OLLAMA_NEW_ENGINE=1\nEnvironment=OGEN_MODELS"),
        "gpus: [{model: RTX 3090}]}",
        'gpus: [{model: RTX 3090}], env: {OLLAMA_NEW_ENGINE: "1"}}',
    ),
    (
        "solo",
        MONITOR,
        by('"interval_s": 5.0', '"interval_s": 10.0'),
        "gpus: [{model: RTX 3090}]}",
        "gpus: [{model: RTX 3090}], monitoring: {interval: 10s}}",
    ),
    (
        "solo",
        "/etc/logrotate.d/ogen",
        by("rotate 14", "rotate 30"),
        "gpus: [{model: RTX 3090}]}",
        "gpus: [{model: RTX 3090}], monitoring: {keep_days: 30}}",
    ),
]


@pytest.mark.parametrize(("host", "path", "change", "old", "new"), CASES)
def test_a_setting_is_found(
    project: Project, host: str, path: str, change: Change, old: str, new: str
) -> None:
    found = adopt(project, host, path, change)
    assert found.why == ""
    assert found.remaining is None
    assert inventory(found) == INVENTORY.replace(old, new)
    rendered = found.project.text(host, path)
    assert rendered is not None
    assert lines.equal(rendered, change(project.text(host, path) or ""))


def test_several_settings_in_one_line(project: Project) -> None:
    found = adopt(project, "edge", NGINX, by("max_fails=2 fail_timeout=10s", "max_fails=5 fail_timeout=60s"))
    assert {str(edit) for edit in found.edits} == {
        "balancers.api.max_fails: 5",
        "balancers.api.fail_timeout: 60s",
    }
    assert "max_fails: 5\n    fail_timeout: 60s\n" in inventory(found)


def test_only_this_host_changes_where_that_is_possible(project: Project) -> None:
    """The variable is the group's; the edit was on one of its hosts."""
    found = adopt(project, "gpu2", UNIT, by("OLLAMA_DEBUG=1", "OLLAMA_DEBUG=2"))
    assert found.done
    before, after = ({r.host: r.id for r in one.releases()} for one in (project, found.project))
    assert {host for host in before if before[host] != after[host]} == {"gpu2"}
    assert 'env: {OLLAMA_DEBUG: "1"}' in inventory(found)


def test_a_line_in_another_place_is_told(project: Project) -> None:
    """An order of variables that means nothing is no reason to refuse; what differs is there to be shown."""
    found = adopt(
        project, "solo", UNIT, by("Environment=HOME", "Environment=OLLAMA_DEBUG=2\nEnvironment=HOME")
    )
    assert found.done
    assert found.remaining is not None
    assert 'env: {OLLAMA_DEBUG: "2"}' in inventory(found)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (UNIT, by("[Service]\n", "[Service]\n# by hand\n")),
        (UNIT, by("Environment=OLLAMA_NOPRUNE=1\n", "")),  # ogen's own
        (CODER, by("num_ctx 8192", "num_ctx 8192000")),  # does not fit any card
        (CODER, by("PARAMETER top_p 0.95", "PARAMETER top_p 7")),  # the inventory does not take it
        ("/etc/ogen/current/bin/monitor.py", by("import json\n", "import json\nimport os.path\n")),
    ],
)
def test_what_no_setting_says_is_refused(project: Project, path: str, change: Change) -> None:
    found = adopt(project, "solo", path, change)
    assert not found.done
    assert "no change of the inventory" in found.why
    assert found.remaining is not None
    assert found.project.texts == project.texts


def test_half_of_an_edit_is_none(project: Project) -> None:
    found = adopt(
        project, "solo", CODER, lambda text: by("num_ctx 8192", "num_ctx 6000")(text) + "# by hand\n"
    )
    assert not found.done
    assert [str(edit) for edit in found.edits] == ["models.coder.context.want: 6000"]
    assert found.project.texts == project.texts
    assert found.remaining is not None
    assert "# by hand" in found.remaining[1]


@pytest.mark.parametrize(
    ("path", "change", "name"),
    [
        (UNIT, by("RestartSec=3\n", "RestartSec=7\n"), "ollama.service.j2"),
        (UNIT, by("RestartSec=3\n", "RestartSec=3\nNice=5\n"), "ollama.service.j2"),
        (UNIT, by("OOMPolicy=continue\n", ""), "ollama.service.j2"),
        ("/etc/ogen/current/bin/monitor.py", by("import json\n", "import json  # a b c\n"), "monitor.py"),
    ],
)
def test_the_template_s_own_text_becomes_a_template_of_the_project(
    project: Project, path: str, change: Change, name: str
) -> None:
    refused = adopt(project, "solo", path, change)
    assert (refused.done, refused.offer, refused.project.templates) == (False, name, {})
    found = adopt(project, "solo", path, change, override=True)
    assert (found.done, found.templates, list(found.project.templates)) == (True, (name,), [name])
    rendered = found.project.text("solo", path)
    assert rendered is not None
    assert lines.equal(rendered, change(project.text("solo", path) or ""))


def test_a_setting_and_the_template_s_text(project: Project) -> None:
    def both(text: str) -> str:
        return by("RestartSec=3\n", "RestartSec=7\n")(by("KEEP_ALIVE=-1", "KEEP_ALIVE=1h")(text))

    found = adopt(project, "solo", UNIT, both, override=True)
    assert found.done
    assert "keep_alive: 1h" in inventory(found)
    assert "RestartSec=7" in found.project.templates["ollama.service.j2"]


def test_an_edit_is_carried_over_what_the_inventory_changed_since(project: Project, tmp_path: Path) -> None:
    base = project.text("solo", CODER)
    assert base is not None
    (tmp_path / "inventory.yaml").write_text(INVENTORY.replace("temperature: 0.2", "temperature: 0.3"))
    now = Project.read(tmp_path / "inventory.yaml")
    found = search(now, Wanted("solo", CODER, by("num_ctx 8192", "num_ctx 6000")(base), base))
    assert found.done
    assert "want: 6000" in inventory(found)
    assert "temperature: 0.3" in inventory(found)
    clash = search(now, Wanted("solo", CODER, by("temperature 0.2", "temperature 0.9")(base), base))
    assert "changed the same lines" in clash.why


def test_a_drop_in_of_variables(project: Project) -> None:
    text = '# systemctl edit\n[Service]\nEnvironment=OLLAMA_DEBUG=2\nEnvironment="OLLAMA_KEEP_ALIVE=30m"\n'
    found = search(project, Wanted("gpu1", UNIT, text.replace('"', ""), dropin=UNIT + ".d/x.conf"))
    assert found.done
    assert "gpu1: {" in inventory(found)
    rendered = found.project.text("gpu1", UNIT) or ""
    assert "Environment=OLLAMA_DEBUG=2\n" in rendered
    assert "Environment=OLLAMA_KEEP_ALIVE=30m\n" in rendered
    other = search(project, Wanted("gpu1", UNIT, "[Service]\nMemoryMax=1G\n", dropin=UNIT + ".d/x.conf"))
    assert "only `Environment=` lines" in other.why


def test_what_looks_like_a_secret_is_not_taken(project: Project) -> None:
    add = by("Environment=OGEN_MODELS", "Environment=HF_TOKEN=hf_0123456789\nEnvironment=OGEN_MODELS")
    found = adopt(project, "solo", UNIT, add)
    assert "looks like a secret" in found.why
    assert found.remaining is None


def test_edits_are_proven_together(project: Project) -> None:
    """The second one asks for a context that the first one takes back."""
    paths = {"gpu1": "num_ctx 8192", "gpu2": "num_ctx 8192"}
    wanted = [
        Wanted(host, CHAT, by(old, f"num_ctx {4096 + n}")(project.text(host, CHAT) or ""))
        for n, (host, old) in enumerate(paths.items())
    ]
    one = batch.adopt(project, wanted[:1])
    also = {host.host: {change.path for change in host.changes} for host in one.also.hosts}
    assert CHAT not in also["gpu1"]
    assert CHAT in also["gpu2"]
    ((file, (old, new)),) = one.written().items()
    assert (file, old) == (project.path, INVENTORY)
    assert new == INVENTORY.replace("context: 8192, on", "context: 4096, on")
    both = batch.adopt(project, wanted)
    assert [found.done for found in both.found] == [False, True]
    assert both.found[0].why == "another of these edits says otherwise"
    assert "context: 4097, on" in next(iter(both.after.texts.values()))


SETTINGS = {
    "max_fails: 2": ("edge", NGINX, ["max_fails: 1", "max_fails: 9"]),
    "fail_timeout: 10s": ("edge", NGINX, ["fail_timeout: 5s", "fail_timeout: 2m"]),
    "listen: 8080": ("edge", NGINX, ["listen: 9000", "listen: 8888"]),
    "context: 8192, on": ("gpu1", CHAT, ["context: 4096, on", "context: 2048, on"]),
    "temperature: 0.2": ("solo", CODER, ["temperature: 0.25", "temperature: 1.5"]),
    "top_p: 0.95": ("solo", CODER, ["top_p: 0.5", "top_p: 0.5, seed: 7"]),
    "want: 8192": ("solo", CODER, ["want: 5000"]),
}


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_whatever_the_inventory_can_say_is_found(data: st.DataObject) -> None:
    """Some settings change, a host's file is edited to what that renders: adopting brings them back."""
    chosen = data.draw(st.sets(st.sampled_from(sorted(SETTINGS)), min_size=1, max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inventory.yaml"
        changed = INVENTORY
        for old in sorted(chosen):
            changed = changed.replace(old, data.draw(st.sampled_from(SETTINGS[old][2])))
        file.write_text(INVENTORY)
        before, wish = Project.read(file), Project(file, {file: changed})
        places = {SETTINGS[old][:2] for old in chosen}
        wanted = [Wanted(host, path, wish.text(host, path) or "") for host, path in sorted(places)]
        done = batch.adopt(before, wanted)
        assert all(found.done and found.remaining is None for found in done.found)
        for one in wanted:
            assert lines.equal(done.after.text(one.host, one.path) or "", one.theirs)


TEXT = st.lists(st.sampled_from("abc"), max_size=6).map("\n".join)


@given(TEXT, TEXT, TEXT)
@settings(max_examples=200)
def test_carrying_over(base: str, theirs: str, mine: str) -> None:
    assert lines.carried(base, theirs, base) == theirs
    assert lines.carried(base, base, mine) == mine
    assert lines.carried(base, theirs, theirs) == theirs
    one, other = lines.carried(base, theirs, mine), lines.carried(base, mine, theirs)
    assert one == other


@given(TEXT, TEXT)
def test_distance(first: str, second: str) -> None:
    assert (lines.distance(first, second) == 0) == (sorted(first.split("\n")) == sorted(second.split("\n")))
    assert lines.distance(first, second) == lines.distance(second, first)
