"""The host as steps see it: its tools and accounts, what check mode has promised, the shape of a result."""

from __future__ import annotations

import grp
import os
import pwd
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .machine import Done, Machine

_NOTED = "/var/lib/systemd/deb-systemd-helper-enabled/%s.dsh-also"
TIMEOUT = 1800.0  # seconds for one tool: apt on a slow mirror
Args = Mapping[str, Any]
Result = Dict[str, Any]
Change = Tuple[str, str, str]  # what, before, after
Fetch = Callable[[str], Tuple[int, Iterator[bytes]]]  # size, and the content in parts


class Failed(Exception):
    """A step can't be done; the text is for people."""


def _nobody(digest: str) -> Tuple[int, Iterator[bytes]]:
    raise Failed("nobody sends files here")


class Host:
    """What a module gets. In check mode nothing is changed; what a step would make is `promised`."""

    def __init__(self, check: bool = False, root: str = "/", machine: Optional[Machine] = None) -> None:
        self.check = check
        self.root = root
        self.machine = machine or Machine()
        self.folder = False  # it is a folder of another machine, which has nothing but files
        #: in a check: "user ollama", "group render", "package nginx": whether it would be there; "unit x":
        #: what systemd would show of it; "started": whether packages of earlier steps start their services
        self.promised: Dict[str, Any] = {}
        self.would: Dict[str, Any] = {}  # in a check: paths as earlier steps would leave them (tasks_paths)
        self.fetched = False  # apt's lists, once in a run
        self.unreached: List[str] = []  # what apt said of mirrors that do not answer
        self.packages: List[str] = []  # those of all steps of the run
        self.announce: Callable[[], None] = lambda: None  # called before a tool changes something
        self.progress: Callable[[float], None] = lambda percent: None  # of one step that takes long
        self.fetch: Fetch = _nobody  # a file of the controller, by its digest

    def ask(self, *command: str) -> Done:
        """Runs a tool that only reads."""
        return self.machine.run(command, TIMEOUT)

    def do(self, *command: str) -> Done:
        """Runs a tool that changes something; raises Failed with its last lines."""
        assert not self.check
        self.announce()
        done = self.machine.run(command, TIMEOUT)
        if done.code:
            raise Failed("%s: exit %d\n%s" % (" ".join(command), done.code, last_lines(done)))
        return done

    def real(self, path: str) -> str:
        """Where a path of the host lies."""
        return self.root.rstrip("/") + path

    def exists(self, path: str) -> bool:
        if not self.check:
            return os.path.lexists(self.real(path))
        from .tasks_paths import walk

        try:
            with walk(self.root, path, would=self.would) as spot:
                return spot.stat() is not None
        except (Failed, OSError):
            return False

    def packaged(self, unit: str) -> Dict[str, str]:
        """In a check: a unit that a package would bring, enabled and started as Debian's packages do. Of one
        that was removed before, Debian's helper has noted the links: it stays disabled if they are gone."""
        try:
            with open(self.real(_NOTED % unit), encoding="utf-8", errors="replace") as reader:
                links = reader.read().split()
        except OSError:
            links = []
        enabled = all(self.exists(link) for link in links)
        active = "active" if enabled and self.promised.get("started") else "inactive"
        state = "enabled" if enabled else "disabled"
        return {"LoadState": "loaded", "ActiveState": active, "UnitFileState": state}

    def makes(self, path: str) -> None:
        """In a check: a tool would leave something at `path`; a file, as far as can be told."""
        from .tasks_paths import Promised, walk

        with walk(self.root, path, would=self.would) as spot:
            spot.promise(Promised(0o100644, os.geteuid(), os.getegid(), b""))

    @property
    def sight(self) -> Optional[Dict[str, Any]]:
        """What a walk is to see beside what is there."""
        return self.would if self.check else None

    # ---- accounts, through NSS
    def user(self, name: str) -> Optional[pwd.struct_passwd]:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            return None

    def group(self, name: str) -> Optional[grp.struct_group]:
        try:
            return grp.getgrnam(name)
        except KeyError:
            return None

    def groups_of(self, user: str) -> List[str]:
        """The further groups of a user, sorted; without the primary one."""
        return sorted(entry.gr_name for entry in grp.getgrall() if user in entry.gr_mem)

    def has(self, kind: str, name: str) -> bool:
        """Whether there is such a user or group, or would be."""
        promised = self.promised.get("%s %s" % (kind, name))
        if promised is not None:
            return bool(promised)
        return (self.user(name) if kind == "user" else self.group(name)) is not None

    def uid(self, name: str) -> int:
        """The number of a user; -1 for one that an earlier step would have made."""
        found = self.user(name)
        if not self.has("user", name):
            raise Failed("no user is named %r" % name)
        return -1 if found is None else found.pw_uid

    def gid(self, name: str) -> int:
        """The number of a group; -1 for one that an earlier step would have made."""
        found = self.group(name)
        if not self.has("group", name):
            raise Failed("no group is named %r" % name)
        return -1 if found is None else found.gr_gid


def last_lines(done: Done, count: int = 8) -> str:
    """The end of what a tool said, where tools put the reason."""
    return "\n".join(done.lines[-count:])


def result(changes: Sequence[Change], msg: str = "") -> Result:
    """Ansible's result shape."""
    return {
        "changed": bool(changes),
        "failed": False,
        "msg": msg or ", ".join("%s: %s → %s" % change for change in changes),
        "diff": {
            "before": "".join("%s: %s\n" % (what, before) for what, before, _ in changes),
            "after": "".join("%s: %s\n" % (what, after) for what, _, after in changes),
        },
    }
