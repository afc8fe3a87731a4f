"""Provisioning over hosts: batches, what counts as failed, and what a playbook knows of a host."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ogen.errors import BecomeError, ConnectError, HostError, LockedError, PlaybookError
from ogen.inventory.model import Archive, Balancer, Gpu, Host, Inventory, Mirror, Ollama, Pin, Rollout, Ssh
from ogen.playbook import load
from ogen.push import bare, refusals
from ogen.push import provision as module
from ogen.push.become import PythonMissing
from ogen.push.provision import Provisioned, batches, provision, variables
from ogen.push.results import Event, Options

FACTS = {"distribution": "Debian", "os_family": "Debian", "service_mgr": "systemd", "services": {}}
CARD = Gpu(0, "RTX 3090", "nvidia", 24 << 30)
PLAY = "- {hosts: all, become: true, tasks: [{name: Copy, copy: {dest: /x, content: x}}]}\n"


def host(name: str, **more: Any) -> Host:
    return Host(name, "192.0.2.1", **more)


def inventory(*hosts: Host, **more: Any) -> Inventory:
    values: dict[str, Any] = {
        "models": (),
        "balancers": (),
        "groups": {},
        "rollout": Rollout(),
        "folder": ".",
    }
    return Inventory(hosts=hosts, name="inventory.yaml", **{**values, **more})


class Boxes:
    """Hosts without a network: each answers with results, or with an error."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.errors: dict[str, list[HostError | None]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.uid = 0
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.pythons: list[str] = []
        self.there: set[str] = set()  # paths of the hosts
        self.driver: dict[str, Any] = {}
        self.sent: list[Mapping[str, str]] = []
        patch.setattr(module, "contact", self.contact)
        patch.setattr(bare, "install_python", lambda host, options: self.pythons.append(host.name))

    @contextmanager
    def contact(self, host: Host, options: Options, on_event: Any) -> Iterator[Any]:
        errors = self.errors.get(host.name, [])
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        yield Answering(self, host.name)


class Answering:
    def __init__(self, boxes: Boxes, name: str) -> None:
        self.boxes, self.name = boxes, name

    def ansible_facts(self) -> tuple[int, Mapping[str, Any]]:
        return self.boxes.uid, FACTS

    def driver(self) -> Mapping[str, Any]:
        return self.boxes.driver

    def stat(self, path: str) -> Mapping[str, Any]:
        return {"exists": path in self.boxes.there}

    def steps(self, document: Mapping[str, Any], uploads: Mapping[str, str]) -> Mapping[str, Any]:
        self.boxes.asked.append((self.name, document))
        self.boxes.sent.append(uploads)
        base = {"changed": True, "failed": False, "msg": "", "diff": {"before": "", "after": "x"}}
        own = self.boxes.results.get(self.name, {})
        return {
            "results": [{**base, **own, "name": s["name"], "module": s["module"]} for s in document["steps"]]
        }


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> Boxes:
    return Boxes(monkeypatch)


def run(
    folder: Path, hosts: Sequence[Host], text: str = PLAY, **more: Any
) -> tuple[list[str], tuple[Provisioned, ...]]:
    """Events as text, and the results."""
    path = folder / "play.yaml"
    path.write_text(text)
    events: list[Event] = []
    known = inventory(*hosts, groups=more.pop("groups", {}), folder=str(folder))
    done = provision(known, hosts, load(path), more.pop("options", Options()), events.append, **more)
    return [f"{e.host} {e.phase} {e.message}" for e in events], done


def statuses(done: Sequence[Provisioned]) -> list[str]:
    return [result.status for result in done]


def test_changed_unchanged_pending(boxes: Boxes, tmp_path: Path) -> None:
    boxes.results["b"] = {"changed": False}
    hosts = [host("a"), host("b")]
    events, done = run(tmp_path, hosts)
    assert statuses(done) == ["changed", "unchanged"]
    assert [s.name for s in done[0].changes] == ["Copy"]
    assert sorted(events) == ["a done changed", "b done unchanged"]
    assert statuses(run(tmp_path, hosts, check=True)[1]) == ["pending", "unchanged"]
    assert [document["check"] for _, document in boxes.asked] == [False, False, True, True]


def test_errors_are_results(boxes: Boxes, tmp_path: Path) -> None:
    boxes.errors = {"a": [ConnectError("no", host="a")], "b": [LockedError("no", host="b")]}
    boxes.results["c"] = {"failed": True, "changed": False, "msg": "why\nline 1\nline 2"}
    done = run(tmp_path, [host("a"), host("b"), host("c"), host("d")])[1]
    assert statuses(done) == ["unreachable", "locked", "failed", "changed"]
    failed = done[2].error
    assert failed is not None
    assert (failed.message, failed.log) == ("Copy: why", ("line 1", "line 2"))


def test_a_host_without_python(boxes: Boxes, tmp_path: Path) -> None:
    boxes.errors = {"a": [PythonMissing("no", host="a")]}
    done = run(tmp_path, [host("a")])[1]
    assert boxes.pythons == ["a"]
    assert [s.name for s in done[0].changes] == ["Install python3, by plain sh", "Copy"]


def test_a_host_without_python_in_a_check(boxes: Boxes, tmp_path: Path) -> None:
    boxes.errors = {"a": [PythonMissing("no", host="a")]}
    done = run(tmp_path, [host("a")], check=True)[1]
    assert boxes.pythons == []
    assert (done[0].status, len(done[0].steps)) == ("pending", 1)
    assert "when python3 is there" in done[0].message


def test_a_python_of_ones_own_is_not_installed(boxes: Boxes, tmp_path: Path) -> None:
    boxes.errors = {"a": [PythonMissing("/opt/py is not there", host="a")]}
    done = run(tmp_path, [host("a", python="/opt/py")])[1]
    assert (done[0].status, boxes.pythons) == ("failed", [])


ARCHIVE = """\
- hosts: all
  tasks:
    - {stat: {path: /opt/done}, register: found}
    - name: Unpack
      unarchive: {src: dist/x.tgz, dest: /opt, creates: /opt/done}
      when: not found.stat.exists
    - {name: Other, unarchive: {src: /srv/y, remote_src: true, dest: /opt, creates: /opt/y}}
"""


def test_a_file_of_the_project_is_named_by_its_digest(boxes: Boxes, tmp_path: Path) -> None:
    file = tmp_path / "dist/x.tgz"
    file.parent.mkdir()
    file.write_bytes(b"x")
    digest = "sha256:" + hashlib.sha256(b"x").hexdigest()
    run(tmp_path, [host("a")], ARCHIVE)
    assert [step["args"]["src"] for step in boxes.asked[0][1]["steps"]] == [digest, "/srv/y"]
    assert boxes.sent == [{digest: str(file)}]
    boxes.there.add("/opt/done")
    file.unlink()  # nobody needs it where it is unpacked already
    assert statuses(run(tmp_path, [host("a")], ARCHIVE)[1]) == ["changed"]
    assert boxes.sent[1:] == [{}]


@pytest.mark.parametrize(
    ("src", "said"), [("../x.tgz", "outside of the project"), ("none.tgz", "no such file")]
)
def test_a_file_that_can_t_be_sent(boxes: Boxes, tmp_path: Path, src: str, said: str) -> None:
    done = run(tmp_path, [host("a")], ARCHIVE.replace("dist/x.tgz", src))[1]
    assert (statuses(done), boxes.asked) == (["failed"], [])
    error = done[0].error
    assert error is not None
    assert error.where is not None
    assert (error.where.line, said in error.message) == (4, True)


def test_cards_are_checked_before_anything_changes(boxes: Boxes, tmp_path: Path) -> None:
    boxes.driver = cards_seen()
    (done,) = run(tmp_path, [host("a", gpus=(CARD,))])[1]
    assert (done.status, done.message) == ("changed", "")
    boxes.driver = cards_seen(persistence_mode="Disabled")
    (done,) = run(tmp_path, [host("a", gpus=(CARD,))])[1]
    assert "persistence mode is off" in done.message
    boxes.asked.clear()
    boxes.driver = {**cards_seen(), "nodes": ["/dev/nvidiactl"]}
    for check in (False, True):
        (done,) = run(tmp_path, [host("a", gpus=(CARD,))], check=check)[1]
        assert (done.status, boxes.asked) == ("failed", [])
        assert "/dev/nvidia-uvm is missing" in str(done.error)


def cards_seen(count: int = 1, **more: str) -> dict[str, Any]:
    row = {"uuid": "", "name": "NVIDIA GeForce RTX 3090", "memory.total": "24576"}
    row |= {"driver_version": "550.54.15", "persistence_mode": "Enabled", **more}
    return {
        "code": 0,
        "said": [],
        "rows": [{"index": str(n), **row, "uuid": f"GPU-{n}"} for n in range(count)],
        "nouveau": False,
        "bus": {"nvidia": count, "amd": 0},
        "nodes": ["/dev/nvidiactl", "/dev/nvidia-uvm"],
        "nvidia": count,
        "render": 0,
    }


def test_root_is_needed(boxes: Boxes, tmp_path: Path) -> None:
    boxes.uid = 1000
    done = run(tmp_path, [host("a")])[1]
    assert "set ssh.become: true" in str(done[0].error)
    assert boxes.asked == []
    assert statuses(run(tmp_path, [host("a")], PLAY.replace("true", "false"))[1]) == ["changed"]


def test_hosts_that_are_folders_are_skipped(boxes: Boxes, tmp_path: Path) -> None:
    done = run(tmp_path, [host("a", root="/srv/a")])[1]
    assert (statuses(done), boxes.asked) == (["skipped"], [])


def test_plays_choose_their_hosts(boxes: Boxes, tmp_path: Path) -> None:
    text = "".join(
        f"- {{hosts: {hosts}, tasks: [{{name: {name}, copy: {{dest: /x, content: x}}}}]}}\n"
        for name, hosts in (("one", "all"), ("two", "web"))
    )
    done = run(tmp_path, [host("a"), host("b")], text, groups={"web": ("b",)})[1]
    assert [[s.name for s in d.steps] for d in done] == [["one"], ["one", "two"]]
    with pytest.raises(PlaybookError, match=r"play.yaml:1:3"):
        run(tmp_path, [host("a")], "- hosts: nowhere\n")


def test_a_failed_host_is_in_no_further_play(boxes: Boxes, tmp_path: Path) -> None:
    boxes.errors = {"a": [None, ConnectError("no", host="a"), None]}
    done = run(tmp_path, [host("a"), host("b")], PLAY * 3)[1]
    assert statuses(done) == ["unreachable", "changed"]
    assert [len(d.steps) for d in done] == [1, 3]


def test_a_mistake_in_the_last_play_shows_before_a_change(boxes: Boxes, tmp_path: Path) -> None:
    text = PLAY + '- {hosts: all, tasks: [{copy: {dest: "{{ nowhere }}", content: x}}]}\n'
    done = run(tmp_path, [host("a")], text)[1]
    assert boxes.asked == []
    error = done[0].error
    assert error is not None
    assert error.where is not None
    assert error.where.line == 2
    assert "'nowhere' is undefined" in error.message


SERIAL = "- {hosts: all, serial: [1, 2], max_fail_percentage: 40, tasks: [{copy: {dest: /x, content: x}}]}\n"


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("", "cccccc"),
        ("a", "uwwwww"),  # all of the canary
        ("b", "cucwww"),  # 50 % is more than 40 %
        ("f", "cccccu"),
    ],
)
def test_serial_and_max_fail_percentage(boxes: Boxes, tmp_path: Path, bad: str, expected: str) -> None:
    boxes.errors = {name: [ConnectError("no", host=name)] for name in bad}
    done = run(tmp_path, [host(name) for name in "abcdef"], SERIAL)[1]
    assert "".join(result.status[0] for result in done) == expected


def test_root_is_probed_everywhere_before_the_first_batch(boxes: Boxes, tmp_path: Path) -> None:
    boxes.errors = {"f": [BecomeError("no", host="f")]}
    events = run(tmp_path, [host(name) for name in "abcdef"], SERIAL)[0]
    assert events.index("f connect no") < events.index("a done changed")
    assert events[-1] == "f done failed: no"


def test_ctrl_c_starts_no_other_host(boxes: Boxes, tmp_path: Path) -> None:
    options = Options()
    options.stop.set()
    assert statuses(run(tmp_path, [host("a")], options=options)[1]) == ["withheld"]


@pytest.mark.parametrize(
    ("count", "serial", "sizes"),
    [
        (10, ["100%"], [10]),
        (10, [1, "25%", "100%"], [1, 2, 7]),
        (10, [3], [3, 3, 3, 1]),
        (3, ["10%"], [1, 1, 1]),
        (0, [1], []),
    ],
)
def test_batches(count: int, serial: list[int | str], sizes: list[int]) -> None:
    hosts = [host(f"h{number}") for number in range(count)]
    parts = list(batches(hosts, serial))
    assert [len(part) for part in parts] == sizes
    assert [h for part in parts for h in part] == hosts


def test_what_a_hosts_ollama_is_made_from(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    (tmp_path / "ollama-0.33.0.tgz").write_bytes(b"x")
    source = (
        Archive(
            "https://example.org/{version}/a.tgz?x={version}", sha256={"*": "a" * 64, "0.33.0": "b" * 64}
        ),
        Archive(file="ollama-{version}.tgz"),
    )
    gpu = host("gpu", gpus=(CARD,), ollama=Ollama("0.33.0", source))
    known = variables(inventory(gpu, folder=str(tmp_path)), gpu)
    assert known["ogen_ollama_dir"] == "/opt/ogen/ollama/0.33.0"
    url = "https://example.org/0.33.0/a.tgz?x=0.33.0"
    assert known["ogen_ollama_archives"] == [
        {"name": "a.tgz", "sha256": "b" * 64, "url": url, "file": ""},
        {
            "name": "ollama-0.33.0.tgz",
            "sha256": digest,
            "url": "",
            "file": str(tmp_path / "ollama-0.33.0.tgz"),
        },
    ]
    edge = host("edge", ollama=Ollama("0.33.0", source))
    assert variables(inventory(edge), edge)["ogen_ollama_archives"] == []


def test_a_file_of_another_digest_is_sent_nowhere(boxes: Boxes, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/x.tgz").write_bytes(b"x")
    ollama = Ollama(source=(Archive(file="dist/x.tgz", sha256={"*": "0" * 64}),))
    (done,) = run(tmp_path, [host("a", ollama=ollama)], ARCHIVE)[1]
    assert (done.status, boxes.asked) == ("failed", [])
    assert "and the inventory says 000" in str(done.error)


def test_variables() -> None:
    gpu, cpu, edge = host("gpu", gpus=(CARD,)), host("cpu", pins=(Pin((), ("m",)),)), host("edge")
    known = inventory(gpu, cpu, edge, balancers=(Balancer("api", "edge"),))
    roles = [
        [variables(known, h)[key] for key in ("ogen_node", "ogen_gpu", "ogen_balancer")] for h in known.hosts
    ]
    assert roles == [[True, True, False], [True, False, False], [False, False, True]]
    assert variables(known, gpu)["ogen_models_dir"] == "/var/lib/ollama/models"
    assert not variables(known, edge)["ogen_conf_d"]
    mirrored = replace(known, mirror=Mirror("edge"))
    assert [variables(mirrored, h)["ogen_mirror"] for h in known.hosts] == [False, False, True]
    assert variables(mirrored, edge)["ogen_node"], "it pulls models"
    assert variables(known, edge)["ogen_by_model"]
    inside = inventory(gpu, edge, balancers=(Balancer("api", "edge", into="conf.d"),))
    assert [variables(inside, h)["ogen_conf_d"] for h in inside.hosts] == [False, True]


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("sudo: python3: command not found", True),
        ("sudo: python3: Befehl nicht gefunden", True),
        ("sh: 1: python3: not found", True),
        ("bash: line 1: python3: command not found", True),
        ("zsh:1: command not found: python3", True),
        ("env: 'python3': No such file or directory", True),
        ("sh: 1: sudo: not found", False),
        ("sudo: a password is required", False),
        ("python3: can't open file", False),
    ],
)
def test_whether_python_is_missing(said: str, missing: bool) -> None:
    class Said:
        out = b""
        user = ""

        def said(self) -> str:
            return said

    box = host("a", ssh=Ssh(become=True))
    assert isinstance(refusals.refusal(Said(), box, True), PythonMissing) == missing  # type: ignore[arg-type]
