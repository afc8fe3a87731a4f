"""The compiler: expressions, conditions, loops, handlers and tags become plain steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ogen import shipped
from ogen.errors import PlaybookError
from ogen.playbook import FACTS, Step, load
from ogen.playbook import compile as compile_playbook

DEBIAN = {
    "distribution": "Debian",
    "distribution_major_version": "12",
    "os_family": "Debian",
    "service_mgr": "systemd",
    "services": {"ollama.service": {"name": "ollama.service", "status": "enabled", "state": "running"}},
}
NODE = {
    "ogen_node": True,
    "ogen_gpu": True,
    "ogen_balancer": False,
    "ogen_conf_d": False,
    "ogen_by_model": False,
    "ogen_gate": False,
    "ogen_mirror": False,
    "ogen_user": "ollama",
    "ogen_group": "ollama",
    "ogen_models_dir": "/srv/models",
    "ogen_ollama_dir": "/opt/ogen/ollama/0.33.0",
    "ogen_ollama_archives": [],
    "ogen_queue_redis": False,
    "ogen_queue_libraries": [],
    "ogen_queue_dir": "/opt/ogen/queue/1",
}


def steps(folder: Path, text: str, facts: dict[str, Any] | None = None, **variables: Any) -> tuple[Step, ...]:
    path = folder / "play.yaml"
    path.write_text(text)
    return compile_playbook(load(path), facts or DEBIAN, variables)


def tasks(*lines: str, head: str = "") -> str:
    return f"- hosts: all\n{head}  tasks:\n" + "".join(f"    - {line}\n" for line in lines)


def refused(folder: Path, text: str, **variables: Any) -> PlaybookError:
    with pytest.raises(PlaybookError) as caught:
        steps(folder, text, **variables)
    assert caught.value.where is not None
    return caught.value


def test_expressions_keep_their_types(tmp_path: Path) -> None:
    text = tasks(
        'user: {name: "{{ who }}", groups: "{{ more }}", append: "{{ on }}", home: "/home/{{ who }}"}',
        'apt: {name: "a, {{ who }}"}',
        'copy: {dest: /x, content: "{{ who }}\\n"}',
    )
    user, apt, copy = steps(tmp_path, text, who="ada", more=["video"], on=False)
    assert user.args == {"name": "ada", "groups": ["video"], "append": False, "home": "/home/ada"}
    assert apt.args == {"name": ["a", "ada"]}
    assert copy.args["content"] == "ada\n"


@pytest.mark.parametrize(("text", "value"), [("{{ -1 }}", "-1"), ("{{- n -}}", "3"), (" {{ n }}", " 3")])
def test_what_surrounds_an_expression(tmp_path: Path, text: str, value: str) -> None:
    made = steps(tmp_path, tasks(f'copy: {{dest: /x, content: "{{{{ [1] }}}}{text}"}}'), n=3)
    assert made[0].args["content"] == "[1]" + value


def test_vars_see_those_above_them(tmp_path: Path) -> None:
    head = '  vars: {a: "{{ base }}/a", b: "{{ a }}/b", own: {list: ["{{ a }}", 1]}}\n'
    (step,) = steps(
        tmp_path, tasks('file: {path: "{{ own.list[0] }}/{{ b }}", state: touch}', head=head), base="/s"
    )
    assert step.args["path"] == "/s/a//s/a/b"


def test_when_and_loop(tmp_path: Path) -> None:
    text = tasks(
        "{name: Make, file: {path: '{{ item.path }}', state: directory}, loop: '{{ all }}', when: item.on}",
        "{name: Never, fail: {}, when: [true, ansible_facts.distribution == 'Ubuntu']}",
        "{name: Skipped, fail: {}, when: false}",
    )
    made = steps(tmp_path, text, all=[{"path": "/a", "on": True}, {"path": "/b", "on": False}])
    assert [(s.name, s.args["path"]) for s in made] == [("Make (/a)", "/a")]


def test_handlers_stand_at_the_end_of_their_play(tmp_path: Path) -> None:
    text = """\
- hosts: all
  tasks: [{name: a, apt: {name: x}, notify: [again]}]
  handlers: [{name: again, systemd_service: {name: "{{ item }}", state: restarted}, loop: [x, y]}]
- hosts: all
  tasks: [{name: b, apt: {name: y}}]
"""
    made = steps(tmp_path, text)
    assert [(s.name, s.handler, s.play) for s in made] == [
        ("a", False, 0),
        ("again", True, 0),
        ("again", True, 0),
        ("b", False, 1),
    ]
    assert made[0].notify == ("again",)
    assert json.loads(json.dumps(made[1].document())) == made[1].document()


def test_only_the_plays_of_the_host(tmp_path: Path) -> None:
    path = tmp_path / "play.yaml"
    path.write_text("- hosts: a\n  tasks: [{fail: {}}]\n- hosts: b\n  tasks: [{apt: {name: x}}]\n")
    assert [s.module for s in compile_playbook(load(path), DEBIAN, {}, plays=[1])] == ["apt"]


def test_what_stat_finds_decides_before_the_first_change(tmp_path: Path) -> None:
    text = tasks(
        "{stat: {path: '/opt/{{ item.name }}'}, loop: '{{ all }}', register: there, when: item.on}",
        "{name: Get, get_url: {url: 'https://x/{{ item.item.name }}', dest: /x, checksum: '{{ sum }}'}, "
        "loop: '{{ there.results }}', when: [item.item.on, not item.stat.exists]}",
        "{stat: {path: /one}, register: one}",
        "{name: One, fail: {}, when: one.stat.exists and one.stat.isdir}",
    )
    path = tmp_path / "play.yaml"
    path.write_text(text)
    asked: list[str] = []

    def look(place: str) -> dict[str, Any]:
        asked.append(place)
        return {"exists": place != "/opt/a", "isdir": True}

    names = {"all": [{"name": n, "on": n != "c"} for n in "abc"], "sum": "sha256:" + "0" * 64}
    made = compile_playbook(load(path), DEBIAN, names, look=look)
    assert [s.name for s in made] == ["Get (a)", "One"]
    assert asked == ["/opt/a", "/opt/b", "/one"]
    assert [s.name for s in compile_playbook(load(path), DEBIAN, names)] == ["Get (a)", "Get (b)"]


def test_tags(tmp_path: Path) -> None:
    path = tmp_path / "play.yaml"
    lines = [f"{{name: {n}, fail: {{}}, tags: {n}}}" for n in ("one", "two", "always", "never")]
    path.write_text(tasks(*lines, "{name: none, fail: {}}"))

    def names(*tags: str) -> list[str]:
        return [s.name for s in compile_playbook(load(path), DEBIAN, {}, tags=frozenset(tags))]

    assert names() == ["one", "two", "always", "none"]
    assert names("one") == ["one", "always"]
    assert names("never") == ["always", "never"]


def test_services_are_known_after_service_facts(tmp_path: Path) -> None:
    asked = "{name: a, fail: {}, when: \"'ollama.service' in ansible_facts.services\"}"
    assert [s.name for s in steps(tmp_path, tasks("service_facts:", asked))] == ["a"]
    assert "services" in str(refused(tmp_path, tasks(asked)))


def test_without_gather_facts_there_are_none(tmp_path: Path) -> None:
    text = tasks("{fail: {}, when: ansible_facts.distribution == 'Debian'}", head="  gather_facts: false\n")
    assert "distribution" in str(refused(tmp_path, text))


@pytest.mark.parametrize(
    ("task", "word"),
    [
        ('copy: {dest: "{{ nowhere }}", content: x}', "'nowhere' is undefined"),
        ('copy: {dest: /x, content: "{{ nowhere }}!"}', "'nowhere' is undefined"),
        ("{fail: {}, when: nowhere}", "'nowhere' is undefined"),
        ("{fail: {}, when: ansible_distribution == 'Debian'}", "ansible_facts"),
        ("{fail: {}, when: ansible_facts.nothing}", "nothing"),
        ("{fail: {}, when: 1 + 1}", "not true or false"),
        ("{fail: {}, when: 1 // 0 == 1}", "division"),
        ('{fail: {}, loop: "{{ 1 + 1 }}"}', "not a list"),
        ('file: {path: "{{ up }}", state: touch}', "'..'"),
        ('file: {path: /x, state: touch, mode: "{{ 420 }}"}', "octal"),
        ('apt: {name: ["{{ option }}"]}', "no name"),
        ("copy: {dest: /x, content: \"{{ ''.__class__.__mro__ }}\"}", "unsafe"),
        ('copy: {dest: /x, content: "{{ lookup(1) }}"}', "'lookup' is undefined"),
        ('copy: {dest: /x, content: "{{ range(9) }}"}', "'range' is undefined"),
    ],
)
def test_refused_before_the_first_change(tmp_path: Path, task: str, word: str) -> None:
    error = refused(tmp_path, tasks(task), up="/a/../b", option="--force")
    assert word in str(error)
    assert error.where is not None
    assert error.where.line == 3


def provision(
    facts: dict[str, Any] = DEBIAN, look: Callable[[str], dict[str, Any]] | None = None, **changes: Any
) -> list[Step]:
    book = load(shipped.folder("playbooks") / "provision.yaml")
    asked = look or (lambda path: {"exists": False})
    return list(compile_playbook(book, facts, {**NODE, **changes}, look=asked))


def named(made: list[Step], word: str) -> list[Step]:
    return [step for step in made if word in step.name]


def test_provision_of_a_node_with_cards() -> None:
    made = provision()
    assert not named(made, "nginx for")
    assert [s.args["path"] for s in named(made, "store of models")] == [
        "/srv/models",
        "/srv/models/blobs",
        "/srv/models/manifests",
    ]
    (user,) = named(made, "Ollama's user")
    assert user.args["groups"] == ["render", "video"]
    note, held_off = named(made, "stock Ollama")
    assert (note.args["content"], note.args["force"]) == ("running enabled\n", False)
    assert held_off.args == {
        "name": "ollama.service",
        "state": "stopped",
        "enabled": False,
    }


def archive(digit: str, **more: str) -> dict[str, str]:
    return {"name": f"{digit}.tgz", "sha256": digit * 64, "url": "", "file": "", **more}


def test_provision_leaves_ollama_to_others_without_a_source() -> None:
    assert not [step for step in provision() if "/opt/ogen" in str(step.args)]


def test_provision_fetches_ollama_or_sends_it() -> None:
    both = [archive("a", url="https://example.org/a.tgz"), archive("b", file="dist/b.tgz")]
    made = [step for step in provision(ogen_ollama_archives=both) if "/opt/ogen" in str(step.args)]
    assert [(step.module, step.name.rpartition("(")[2]) for step in made] == [
        ("file", "Make the folder of this version of Ollama"),
        ("get_url", "a.tgz)"),
        ("unarchive", "a.tgz)"),
        ("file", "a.tgz)"),
        ("unarchive", "b.tgz)"),
        ("command", "a.tgz)"),
        ("command", "b.tgz)"),
        ("copy", "a.tgz)"),
        ("copy", "b.tgz)"),
    ]
    assert made[1].args["checksum"] == "sha256:" + "a" * 64
    assert made[4].args["src"] == "dist/b.tgz"
    assert {step.args["creates"] for step in made[5:7]} == {
        "/opt/ogen/ollama/0.33.0/." + digit * 64 for digit in "ab"
    }


def test_provision_of_an_edge() -> None:
    made = provision(ogen_node=False, ogen_gpu=False, ogen_balancer=True)
    assert not named(made, "Ollama")
    (nginx,) = named(made, "nginx for balancers")
    assert nginx.notify == ("Hold off the package's own nginx",)
    assert {step.module for step in made} == {"apt", "file", "systemd_service"}


def test_provision_of_a_mirror_without_cards() -> None:
    made = provision(ogen_gpu=False, ogen_mirror=True)
    assert named(made, "nginx for balancers and the mirror")
    assert named(made, "store of models")
    assert not named(made, "routing by model")


def test_the_module_for_routing_by_model() -> None:
    assert not named(provision(ogen_balancer=True), "module for routing by model")
    (module,) = named(provision(ogen_balancer=True, ogen_by_model=True), "module for routing by model")
    assert module.args["name"] == ["libnginx-mod-http-js"]


def test_the_nginx_of_ubuntu_22_04_is_too_old_for_a_balancer() -> None:
    jammy = {**DEBIAN, "distribution": "Ubuntu", "distribution_major_version": "22"}
    (refused,) = named(provision(jammy, ogen_balancer=True), "Refuse")
    assert "nginx of Ubuntu 22.04 (1.18) is too old" in refused.args["msg"]
    assert not named(provision(jammy), "Refuse")
    assert not named(provision(jammy, ogen_balancer=True, ogen_conf_d=True), "Refuse")
    assert not named(provision({**jammy, "distribution_major_version": "24"}, ogen_balancer=True), "Refuse")


def test_provision_of_a_gate() -> None:
    assert not named(provision(ogen_balancer=True), "gate")
    (modules,) = named(provision(ogen_balancer=True, ogen_gate=True), "gate")
    assert modules.args["name"] == ["libnginx-mod-http-lua", "lua-cjson"]


def test_provision_of_a_queue() -> None:
    assert not named(provision(), "queue")
    libraries = [{"file": "wheels/a.tar", "id": "1"}]
    made = provision(ogen_queue_redis=True, ogen_queue_libraries=libraries)
    (redis,) = named(made, "Redis for the queue")
    assert redis.notify == ("Hold off the package's own Redis",)
    steps = [step for step in made if "/opt/ogen/queue/1" in str(step.args)]
    assert [step.module for step in steps] == ["file", "unarchive", "command", "copy"]
    assert steps[1].args["src"] == "wheels/a.tar"


def test_a_machines_own_nginx_that_balances_starts_at_boot_and_is_not_held_off() -> None:
    own = provision(ogen_balancer=True)
    assert not named(own, "at boot")
    assert named(own, "Hold off the package's own nginx")
    inside = provision(ogen_balancer=True, ogen_conf_d=True)
    assert named(inside, "at boot")[0].args == {"name": "nginx.service", "enabled": True}
    assert not named(inside, "Hold off the package's own nginx")


def test_provision_leaves_a_missing_stock_service_alone() -> None:
    assert not named(provision({**DEBIAN, "services": {}}), "stock Ollama")


def test_provision_refuses_other_systems_first() -> None:
    made = provision({**DEBIAN, "distribution": "Fedora", "os_family": "RedHat"})
    assert made[0].module == "fail"
    assert made[0].args["msg"].startswith("Fedora with systemd")


def test_the_facts_are_documented() -> None:
    page = (shipped.folder("docs") / "playbooks.md").read_text()
    assert all(f"| `{name}` |" in page for name in FACTS)
