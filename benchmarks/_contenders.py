"""Ways to bring a folder of files to hosts over SSH: ogen, its peers, and what plain ssh(1) needs for it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from _farm import Box, Farm

HERE = Path(__file__).resolve().parent
SEARCH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
PYTHON = "/usr/bin/python3"  # on the hosts: the same machine here


@dataclass(frozen=True, slots=True)
class Work:
    """What every contender gets: hosts, the files to push, and a folder for its own things."""

    farm: Farm
    files: Path
    folder: Path

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@dataclass(frozen=True, slots=True)
class Job:
    """Processes that run at once. `stdin` is a file that each of them reads."""

    commands: Sequence[Sequence[str]]
    stdin: Path | None = None
    env: tuple[tuple[str, str], ...] = ()
    codes: frozenset[int] = frozenset({0})


class Contender(ABC):
    """`place` is where the files lie on a host after a push."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()  # programs
    shows = True  # a dry run shows the line that would change

    def __init__(self, work: Work) -> None:
        self.work = work
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Writes what the contender reads: inventories, playbooks, archives."""

    def place(self, box: Box) -> Path:
        return box.home / self.name

    @abstractmethod
    def push(self) -> Job: ...

    def again(self) -> Job:
        """With nothing to do."""
        return self.push()

    def dry(self) -> Job | None:
        """A dry run with a diff, if there is such a thing."""
        return None

    @classmethod
    def lacking(cls) -> str | None:
        """What keeps this contender out on this machine."""
        missing = [n for n in cls.needs if not shutil.which(n, path=SEARCH)]
        return f"{', '.join(missing)} not found" if missing else None


def program(name: str) -> str:
    return str(shutil.which(name, path=SEARCH))


# ---------------------------------------------------------------------------------------- ogen
class Ogen(Contender):
    name = "ogen"
    transport = "paramiko"

    def prepare(self) -> None:
        farm = self.work.farm
        spec = {
            "hosts": [
                {"name": b.name, "address": b.address, "port": b.port, "root": str(b.home / self.name)}
                for b in farm.boxes
            ],
            "user": farm.user,
            "key": str(farm.folder / "key"),
            "known_hosts": str(farm.folder / "known_hosts"),
            "files": str(self.work.files),
            "transport": self.transport,
            "peak": True,
        }
        self.spec = self.work.write(f"{self.name}.json", json.dumps(spec))

    def place(self, box: Box) -> Path:
        return box.home / self.name / "etc/ogen/current"

    def push(self) -> Job:
        return Job([[sys.executable, str(HERE / "_ogen_push.py"), "apply", str(self.spec)]])

    def dry(self) -> Job:
        return Job([[sys.executable, str(HERE / "_ogen_push.py"), "diff", str(self.spec)]])


class OgenOpenssh(Ogen):
    name = "ogen-openssh"
    transport = "openssh"
    needs = ("ssh",)


# ------------------------------------------------------------------------------------- the floor
class Floor(Contender):
    """One ssh(1) per host, all at once: tar into place; one `sha256sum` to see that nothing is to be done."""

    name = "ssh+tar"
    needs = ("ssh", "tar")
    config = "ssh_config"

    def prepare(self) -> None:
        self.archive = tar(self.work, self.name)

    def _ssh(self, command: str) -> list[list[str]]:
        """`{}` in the command is the place on the host."""
        config = str(self.work.farm.folder / self.config)
        boxes = self.work.farm.boxes
        return [["ssh", "-F", config, b.address, command.format(self.place(b))] for b in boxes]

    def push(self) -> Job:
        return Job(self._ssh("mkdir -p {0} && tar -x -p -C {0}"), self.archive)

    def again(self) -> Job:
        return Job(self._ssh("sha256sum {}/*"))


class FloorDefault(Floor):
    name = "ssh+tar-default-kex"
    config = "ssh_config.default"


def tar(work: Work, name: str) -> Path:
    """The files as an archive; made outside of the measured time."""
    import tarfile

    path = work.folder / f"{name}.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted(work.files.iterdir()):
            archive.add(file, file.name)
    return path


# ---------------------------------------------------------------------------------------- ansible
class Ansible(Contender):
    """ansible-core with pipelining and a fork per host; ssh's quick key exchange is its too."""

    needs: ClassVar[tuple[str, ...]] = ("ansible-playbook", "ssh")
    shows = False
    task: ClassVar[str]

    def prepare(self) -> None:
        boxes = self.work.farm.boxes
        lines = [f"{b.name} ansible_host={b.address} place={self.place(b)}" for b in boxes]
        self.inventory = self.work.write(f"{self.name}.ini", "[all]\n" + "\n".join(lines) + "\n")
        text = f"- hosts: all\n  gather_facts: false\n  tasks:\n{self.tasks()}"
        self.playbook = self.work.write(f"{self.name}.yaml", text)

    def tasks(self) -> str:
        made = "    - ansible.builtin.file: {path: '{{ place }}', state: directory}\n"
        return made + self.task.format(files=self.work.files, tar=self.work.folder / f"{self.name}.tar")

    def _env(self) -> tuple[tuple[str, str], ...]:
        farm = self.work.farm
        return (
            ("ANSIBLE_PIPELINING", "True"),
            ("ANSIBLE_FORKS", str(len(farm.boxes))),
            ("ANSIBLE_SSH_ARGS", f"-F {farm.folder}/ssh_config -o ControlMaster=auto -o ControlPersist=60s"),
            ("ANSIBLE_PYTHON_INTERPRETER", PYTHON),
            ("ANSIBLE_NOCOLOR", "1"),
            ("ANSIBLE_LOCALHOST_WARNING", "False"),
            ("ANSIBLE_INVENTORY_UNPARSED_WARNING", "False"),
        )

    def _run(self, *more: str) -> Job:
        command = [program("ansible-playbook"), "-i", str(self.inventory), str(self.playbook), *more]
        return Job([command], env=self._env())

    def push(self) -> Job:
        tar(self.work, self.name)
        return self._run()

    def dry(self) -> Job:
        tar(self.work, self.name)
        return self._run("--check", "--diff")


class AnsibleCopy(Ansible):
    name = "ansible-copy-loop"
    shows = True
    task = """\
    - ansible.builtin.copy: {{src: "{{{{ item }}}}", dest: "{{{{ place }}}}/", mode: preserve}}
      with_fileglob: "{files}/*"
"""


class AnsibleCopyFolder(Ansible):
    name = "ansible-copy-folder"
    task = '    - ansible.builtin.copy: {{src: {files}/, dest: "{{{{ place }}}}/", mode: preserve}}\n'


class AnsibleUnarchive(Ansible):
    name = "ansible-unarchive"
    task = '    - ansible.builtin.unarchive: {{src: {tar}, dest: "{{{{ place }}}}/"}}\n'


class AnsibleSynchronize(Ansible):
    name = "ansible-synchronize"
    needs = ("ansible-playbook", "ssh", "rsync")
    task = """\
    - ansible.posix.synchronize:
        {{src: {files}/, dest: "{{{{ place }}}}/", checksum: true, times: false, use_ssh_args: true}}
"""

    @classmethod
    def lacking(cls) -> str | None:
        return super().lacking() or _collection()


def _collection() -> str | None:
    """synchronize left ansible-core long ago."""
    interpreter = Path(program("ansible-playbook")).resolve().parent / "python"
    found = interpreter.parent.parent.glob("lib/python*/site-packages/ansible_collections/ansible/posix")
    return None if any(found) else "the collection ansible.posix is not installed (pip: ansible)"


# ---------------------------------------------------------------------------------------- pyinfra
class Pyinfra(Contender):
    needs = ("pyinfra",)
    deploy: ClassVar[str]

    def prepare(self) -> None:
        farm = self.work.farm
        shared = {
            "ssh_user": farm.user,
            "ssh_port": farm.port,
            "ssh_key": str(farm.folder / "key"),
            "ssh_known_hosts_file": str(farm.folder / "known_hosts"),
            "ssh_strict_host_key_checking": "yes",
            "ssh_config_file": "/dev/null",
        }
        hosts = [(b.address, {**shared, "place": str(self.place(b))}) for b in farm.boxes]
        self.inventory = self.work.write(f"{self.name}_inventory.py", f"hosts = {hosts!r}\n")
        self.script = self.work.write(f"{self.name}.py", self.deploy.format(files=str(self.work.files)))

    def _run(self, *more: str) -> Job:
        return Job([[program("pyinfra"), *more, str(self.inventory), str(self.script)]])

    def push(self) -> Job:
        return self._run("--yes")

    def dry(self) -> Job:
        return self._run("--dry", "--diff")  # with --yes it would not look for changes


class PyinfraPut(Pyinfra):
    name = "pyinfra-put"
    deploy = """\
from pathlib import Path
from pyinfra import host
from pyinfra.operations import files
for file in sorted(Path({files!r}).iterdir()):
    mode = oct(file.stat().st_mode & 0o777)[2:]
    files.put(src=str(file), dest=host.data.place + "/" + file.name, mode=mode)
"""


class PyinfraSync(Pyinfra):
    name = "pyinfra-sync"
    deploy = """\
from pyinfra import host
from pyinfra.operations import files
files.sync(src={files!r}, dest=host.data.place)
"""


ALL: tuple[type[Contender], ...] = (
    Floor,
    FloorDefault,
    Ogen,
    OgenOpenssh,
    AnsibleSynchronize,
    AnsibleUnarchive,
    AnsibleCopyFolder,
    AnsibleCopy,
    PyinfraPut,
    PyinfraSync,
)
