"""The host as steps see it: its tools and accounts, what check mode has promised, the shape of a result."""

from __future__ import annotations

import grp
import os
import pwd
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from .machine import Done, Machine

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
        self.promised: Set[str] = set()  # "user ollama", "group render", "packages", "file /x"
        self.fetched = False  # apt's lists, once in a run
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
        return os.path.lexists(self.real(path))

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

    def uid(self, name: str) -> int:
        """The number of a user; -1 for one that an earlier step would have made."""
        found = self.user(name)
        if found is None and "user " + name not in self.promised:
            raise Failed("no user is named %r" % name)
        return -1 if found is None else found.pw_uid

    def gid(self, name: str) -> int:
        """The number of a group; -1 for one that an earlier step would have made."""
        found = self.group(name)
        if found is None and "group " + name not in self.promised:
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
