"""The loader: what the subset holds, and that everything else is an error with its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ogen import shipped
from ogen.errors import OgenError, PlaybookError, Problems
from ogen.playbook import find, load, sizes
from ogen.playbook.modules import FLEET, MODULES, short_name

WHOLE = """\
- name: First
  hosts: boxes
  become: true
  gather_facts: false
  force_handlers: true
  serial: [1, "25%", 100%]
  max_fail_percentage: 10
  tags: [base]
  vars: {folder: /srv, deep: {a: ["{{ folder }}"]}}
  tasks:
    - name: Copy
      ansible.builtin.copy: {content: "x\\n", dest: "{{ folder }}/x", mode: "0644"}
      when: [ansible_facts.distribution == "Debian", true]
      notify: Restart
      tags: files, early
    - apt: {name: "a, b"}
      loop: [1, 2]
  handlers:
    - name: Restart
      ansible.builtin.systemd: {name: x, state: restarted}
- hosts: all
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "play.yaml"
    path.write_text(text)
    return path


def errors_of(path: Path) -> list[OgenError]:
    with pytest.raises((PlaybookError, Problems)) as caught:
        load(path)
    return list(caught.value.errors) if isinstance(caught.value, Problems) else [caught.value]


def test_everything_of_the_subset(tmp_path: Path) -> None:
    first, second = load(write(tmp_path, WHOLE)).plays
    assert (first.name, first.hosts, first.become, first.gather_facts) == ("First", "boxes", True, False)
    assert (sizes(first, {}), first.max_fail_percentage) == ((1, "25%", "100%"), 10.0)
    assert first.force_handlers
    copy, apt = first.tasks
    assert copy.module == "copy"
    assert copy.tags == {"base", "files", "early"}
    assert copy.notify == ("Restart",)
    assert len(copy.when) == 2
    assert str(copy.args["dest"].where).endswith("play.yaml:12:52")
    assert (apt.module, apt.name, apt.title) == ("apt", None, "apt")
    assert first.handlers[0].module == "systemd_service"
    assert (second.name, sizes(second, {}), second.become) == ("all", None, False)


def play(task: str) -> str:
    return f"- hosts: all\n  tasks:\n    - {task}\n"


# what is refused, the line and column of the error, a word of its message or hint
REFUSED = {
    "no list": ("hosts: all", (1, 1), "list of plays"),
    "empty": ("", (1, 1), "list of plays"),
    "play is text": ("- all", (1, 3), "a play is a map"),
    "no hosts": ("- name: x", (1, 3), "needs `hosts`"),
    "import": ("- ansible.builtin.import_playbook: x.yaml", (1, 3), "ansible-playbook"),
    "roles": ("- hosts: all\n  roles: [web]", (2, 3), "ansible-playbook"),
    "pre_tasks": ("- hosts: all\n  pre_tasks: []", (2, 3), "pre_tasks"),
    "strategy": ("- hosts: all\n  strategy: free", (2, 3), "strategy"),
    "vars_files": ("- hosts: all\n  vars_files: [x]", (2, 3), "vars_files"),
    "typo in a play": ("- hosts: all\n  serail: 1", (2, 3), "'serial'"),
    "hosts templated": ('- hosts: "{{ x }}"', (1, 10), "plain text"),
    "serial of zero": ("- hosts: all\n  serial: 0", (2, 11), "serial"),
    "serial of 0%": ('- hosts: all\n  serial: ["0%"]', (2, 12), "serial"),
    "serial of words": ("- hosts: all\n  serial: half", (2, 11), "serial"),
    "max_fail of 101": ("- hosts: all\n  max_fail_percentage: 101", (2, 24), "0 to 100"),
    "vars of list": ("- hosts: all\n  vars: [a]", (2, 9), "a map"),
    "vars take item": ("- hosts: all\n  vars: {item: 1}", (2, 10), "item"),
    "yes": ("- hosts: all\n  become: yes", (2, 11), "true or false"),
    "octal": (play("ansible.builtin.file: {path: /x, state: touch, mode: 0644}"), (3, 60), "quotes"),
    "mode as number": (play("file: {path: /x, state: touch, mode: 644}"), (3, 44), "octal"),
    "sexagesimal": ("- hosts: all\n  vars:\n    at: 1:30", (3, 9), "quotes"),
    "tasks as map": ("- hosts: all\n  tasks: {}", (2, 10), "a list"),
    "task as text": (play("reboot"), (3, 7), "a task is a map"),
    "no module": (play("name: x"), (3, 7), "needs a module"),
    "two modules": (play("{apt: {name: x}, fail: {msg: x}}"), (3, 24), "one module"),
    "unknown module": (play("community.docker.docker_container: {name: x}"), (3, 7), "ansible-playbook"),
    "misspelt module": (play("ansible.builtin.copi: {dest: /x}"), (3, 7), "outside"),
    "shell": (play("ansible.builtin.shell: echo"), (3, 7), "ansible-playbook"),
    "block": (play("block: []"), (3, 7), "ansible-playbook"),
    "include": (play("include_tasks: x.yaml"), (3, 7), "include_tasks"),
    "with_items": (play("{apt: {name: x}, with_items: [1]}"), (3, 24), "loop"),
    "register": (play("{apt: {name: x}, register: r}"), (3, 24), "another's result"),
    "task become": (play("{apt: {name: x}, become: true}"), (3, 24), "for the play"),
    "ignore_errors": (play("{apt: {name: x}, ignore_errors: true}"), (3, 24), "ignore_errors"),
    "delegate_to": (play("{apt: {name: x}, delegate_to: x}"), (3, 24), "delegate_to"),
    "free form": (play("command: ls -l"), (3, 16), "map"),
    "unknown parameter": (play("apt: {name: x, deb: y}"), (3, 22), "deb"),
    "missing parameter": (play("copy: {dest: /x}"), (3, 13), "`content`"),
    "changed_when that depends": (
        play("{command: {cmd: ls}, changed_when: r.rc == 0}"),
        (3, 42),
        "true or false",
    ),
    "changed_when of a file": (
        play("{file: {path: /x, state: touch}, changed_when: false}"),
        (3, 40),
        "by themselves",
    ),
    "template from elsewhere": (play("template: {src: ../x, dest: /y}"), (3, 23), "inside the project"),
    "absolute template": (play("template: {src: /etc/x, dest: /y}"), (3, 23), "inside the project"),
    "uri of a file": (play("uri: {url: 'file:///etc/passwd'}"), (3, 18), "https"),
    "uri that writes": (play("uri: {url: 'http://x', method: POST}"), (3, 38), "GET, HEAD"),
    "status of words": (play("uri: {url: 'http://x', status_code: [ok]}"), (3, 43), "whole number"),
    "short name of ogen's": (play("release: {state: present}"), (3, 7), "outside"),
    "command without creates": (play("command: {cmd: ls}"), (3, 16), "creates"),
    "unarchive without creates": (play("unarchive: {src: /x, dest: /y}"), (3, 18), "creates"),
    "get_url without checksum": (play("get_url: {url: 'https://x', dest: /x}"), (3, 16), "verified"),
    "get_url of a file": (
        play(f"get_url: {{url: 'file:///etc', dest: /x, checksum: 'sha256:{'0' * 64}'}}"),
        (3, 22),
        "https",
    ),
    "weak checksum": (play("get_url: {url: 'https://x', dest: /x, checksum: 'md5:x'}"), (3, 55), "sha256"),
    "stat without register": (play("stat: {path: /x}"), (3, 7), "needs `register`"),
    "stat in a handler": (
        "- hosts: all\n  handlers:\n    - {name: a, stat: {path: /x}}",
        (3, 7),
        "for tasks",
    ),
    "relative path": (play("file: {path: x, state: touch}"), (3, 20), "absolute"),
    "climbing path": (play("file: {path: /a/../b, state: touch}"), (3, 20), "'..'"),
    "bad choice": (play("apt: {name: x, state: latest}"), (3, 29), "present, absent"),
    "bad bool": (play('apt: {name: x, update_cache: "true"}'), (3, 36), "true or false"),
    "option as name": (play('apt: {name: ["--force"]}'), (3, 19), "no name"),
    "facts with filter": (play("service_facts: {gather: x}"), (3, 22), "no parameters"),
    "when in braces": (play('{apt: {name: x}, when: "{{ a }}"}'), (3, 30), "without the braces"),
    "when of number": (play("{apt: {name: x}, when: 1}"), (3, 30), "expression"),
    "when broken": (play('{apt: {name: x}, when: "a =="}'), (3, 30), "unexpected"),
    "statement": (play('apt: {name: "{% if a %}b{% endif %}"}'), (3, 19), "statements"),
    "template broken": (play('apt: {name: "{{ a | }}"}'), (3, 19), "expected"),
    "unknown filter": (play('apt: {name: "{{ a | to_yaml }}"}'), (3, 19), "to_yaml"),
    "vault": (play("apt: {name: !vault x}"), (3, 19), "!vault"),
    "loop of text": (play("{apt: {name: x}, loop: abc}"), (3, 30), "list"),
    "no such handler": (play("{apt: {name: x}, notify: Resart}"), (3, 7), "no handler"),
    "handler without name": ("- hosts: all\n  handlers:\n    - fail: {}", (3, 7), "needs a name"),
    "handler that notifies": (
        "- hosts: all\n  handlers:\n    - {name: a, fail: {}, notify: b}",
        (3, 27),
        "outside",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    text, place, word = REFUSED[case]
    first = errors_of(write(tmp_path, text))[0]
    assert first.where is not None
    assert (first.where.line, first.where.column) == place
    assert word in str(first)


def test_all_errors_at_once(tmp_path: Path) -> None:
    text = play("{apt: {name: x}, register: r}") + "    - {shell: ls}\n    - {copy: {dest: x, content: y}}\n"
    assert [e.where.line for e in errors_of(write(tmp_path, text)) if e.where] == [3, 4, 5]


def test_full_and_short_names() -> None:
    assert short_name("ansible.builtin.apt") == short_name("apt") == "apt"
    assert short_name("ansible.builtin.systemd") == "systemd_service"
    assert short_name("community.general.apt") is None


def test_the_shipped_playbooks_load() -> None:
    files = sorted(shipped.folder("playbooks").glob("*.yaml"))
    assert [f.name for f in files] == ["apply.yaml", "provision.yaml", "retire.yaml", "rollback.yaml"]
    for file in files:
        tasks = [t for p in load(file).plays for t in (*p.tasks, *p.handlers)]
        assert all(t.name and t.module in MODULES for t in tasks)


def test_a_project_overrides_by_name(tmp_path: Path) -> None:
    assert find("provision.yaml", tmp_path) == shipped.folder("playbooks") / "provision.yaml"
    own = tmp_path / "playbooks" / "provision.yaml"
    own.parent.mkdir()
    own.write_text("- hosts: all\n")
    assert find("provision.yaml", tmp_path) == own


def test_an_override_stays_inside_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.yaml").write_text("- hosts: all\n")
    project = tmp_path / "project"
    (project / "playbooks").mkdir(parents=True)
    (project / "playbooks" / "provision.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(PlaybookError, match="outside of the project"):
        find("provision.yaml", project)


def test_serial_may_be_an_expression(tmp_path: Path) -> None:
    text = "- {hosts: all, serial: \"{{ ogen_batches | default(['100%']) }}\"}\n"
    (play,) = load(write(tmp_path, text)).plays
    assert sizes(play, {"ogen_batches": [1, "25%"]}) == (1, "25%")
    assert sizes(play, {}) == ("100%",)
    assert sizes(play, {"ogen_batches": 3}) == (3,)
    with pytest.raises(PlaybookError, match=r"serial.*'half'") as caught:
        sizes(play, {"ogen_batches": "half"})
    assert str(caught.value.where).endswith("play.yaml:1:24")


def test_a_command_says_whether_it_changes_something(tmp_path: Path) -> None:
    text = play("{command: {cmd: ls}, changed_when: false}") + "    - {command: {cmd: a, creates: /b}}\n"
    looks, makes = load(write(tmp_path, text)).plays[0].tasks
    assert (looks.changed_when, makes.changed_when) == (False, None)


def test_ansible_takes_the_shipped_playbooks(tmp_path: Path) -> None:
    """Its own modules are those of a collection: here it only has to be there."""
    pytest.importorskip("ansible", reason="ansible-core is not installed")
    modules = tmp_path / "ansible_collections/ogen/fleet/plugins/modules"
    modules.mkdir(parents=True)
    for name in FLEET:
        (modules / f"{name.rpartition('.')[2]}.py").touch()
    command = [Path(sys.executable).with_name("ansible-playbook"), "--syntax-check", "-i", "localhost,"]
    for file in sorted(shipped.folder("playbooks").glob("*.yaml")):
        places = {"ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)}
        env = {**os.environ, **places, "LC_ALL": "C.UTF-8"}
        done = subprocess.run([*command, file], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_what_is_outside_of_the_subset_names_the_export(tmp_path: Path) -> None:
    with pytest.raises(OgenError) as caught:
        load(write(tmp_path, play("ansible.builtin.shell: echo hi")))
    (error,) = caught.value.errors if isinstance(caught.value, Problems) else (caught.value,)
    assert "`ogen export ansible`" in str(error.hint)
    assert error.where is not None
