"""The agent's modules: what they change, what they say, and that check mode predicts just that."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import threading
from collections import namedtuple
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ogen.agent import tasks, tasks_facts, tasks_packages, tasks_urls
from ogen.agent.disk import group_name, user_name
from ogen.agent.errors import AgentError
from ogen.agent.machine import Done, Machine
from ogen.agent.tasks_host import Failed, Host
from ogen.playbook import FACTS
from ogen.playbook.modules import FLEET, FROM_HELLO, LOOKS, MODULES, TEMPLATE

User = namedtuple("User", "pw_name pw_uid pw_gid pw_dir pw_shell")
Group = namedtuple("Group", "gr_name gr_gid gr_mem")
ME, MINE = user_name(os.getuid()), group_name(os.getgid())


class Box(Machine):
    """A machine with packages, units and accounts in memory; says what was run on it."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.packages: set[str] = set()
        self.units: dict[str, dict[str, str]] = {}
        self.answers: list[Done] = []  # to apt-get, before it works
        self.users: dict[str, Any] = {}
        self.groups: dict[str, Any] = {}

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        words = [w for w in command if w not in ("env", "DEBIAN_FRONTEND=noninteractive")]
        if words[0] in ("tar", "chown", "chgrp", "sync"):
            return super().run(command, timeout, stdin)
        if words[:2] == ["dpkg-query", "-L"]:
            return Done(0, "")
        if words[0] == "dpkg-query":
            return self.query(words[4:])
        if words[:2] == ["systemctl", "show"]:
            return self.show(words[-1])
        if words[0] == "apt-get" and "-s" in words:
            names = words[words.index("--") + 1 :]
            return Done(0, "".join(f"Inst {name} (1.0 somewhere)\n" for name in names if "install" in words))
        self.ran.append(words)
        return getattr(self, words[0].replace("-", "_"), lambda rest: Done(0, ""))(words[1:])

    def query(self, names: list[str]) -> Done:
        lines = [f"{n} installed" if n in self.packages else f"{n} config-files" for n in names[1:]]
        return Done(
            1,
            "dpkg-query: no packages found matching x\n"
            + "\n".join([f"{names[0]} installed"] * (names[0] in self.packages) + lines),
        )

    def apt_get(self, rest: list[str]) -> Done:
        if self.answers:
            return self.answers.pop(0)
        names = set(rest[rest.index("--") + 1 :]) if "--" in rest else set()
        self.packages = self.packages | names if "install" in rest else self.packages - names
        return Done(0, "")

    def show(self, unit: str) -> Done:
        found = self.units.get(
            unit, {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": ""}
        )
        return Done(0, "".join(f"{k}={v}\n" for k, v in found.items()))

    def systemctl(self, rest: list[str]) -> Done:
        change = {
            "start": ("ActiveState", "active"),
            "restart": ("ActiveState", "active"),
            "stop": ("ActiveState", "inactive"),
            "enable": ("UnitFileState", "enabled"),
            "disable": ("UnitFileState", "disabled"),
            "mask": ("UnitFileState", "masked"),
            "unmask": ("UnitFileState", "disabled"),
        }.get(rest[0])
        if change:
            found = self.units.setdefault(rest[-1], {"LoadState": "not-found", "ActiveState": "inactive"})
            found[change[0]] = change[1]
            if "mask" in rest[0]:
                found["LoadState"] = "masked" if rest[0] == "mask" else "loaded"
        return Done(0, "")

    def groupadd(self, rest: list[str]) -> Done:
        self.groups[rest[-1]] = Group(rest[-1], 900 + len(self.groups), [])
        return Done(0, "")

    def useradd(self, rest: list[str]) -> Done:
        options = dict(pairwise(rest))
        group = self.groups[options["-g"]].gr_gid if "-g" in options else 100
        self.users[rest[-1]] = User(rest[-1], 900, group, options.get("-d", ""), options.get("-s", "/bin/sh"))
        for name in options.get("-G", "").split(","):
            if name:
                self.groups[name].gr_mem.append(rest[-1])
        return Done(0, "")


class Fake(Host):
    """A host whose accounts are the box's; files lie under `root`."""

    machine: Box

    def user(self, name: str) -> Any:
        known = User(ME, os.getuid(), os.getgid(), "/", "/bin/sh")
        return known if name == ME else self.machine.users.get(name)

    def group(self, name: str) -> Any:
        return Group(MINE, os.getgid(), []) if name == MINE else self.machine.groups.get(name)

    def groups_of(self, user: str) -> list[str]:
        return sorted(g.gr_name for g in self.machine.groups.values() if user in g.gr_mem)


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "usr/sbin").mkdir(parents=True)
    (made / "srv").mkdir()
    return made


@pytest.fixture
def do(box: Box, root: Path) -> Any:
    """Runs one step: predicts it, does it, does it again; returns the result of the doing."""

    def run(module: str, check_only: bool = False, **args: Any) -> dict[str, Any]:
        predicted = one(module, args, Fake(True, str(root), box))
        if check_only:
            return predicted
        done = one(module, args, Fake(False, str(root), box))
        assert (predicted["changed"], predicted["diff"]) == (done["changed"], done["diff"])
        if not done["failed"] and args.get("state") not in ("touch", "restarted", "reloaded"):
            again = one(module, args, Fake(False, str(root), box))
            assert (again["changed"], again["failed"]) == (False, False)
        return done

    return run


def quiet(phase: str, text: str, percent: float | None) -> None:
    """Nobody watches."""


def one(module: str, args: dict[str, Any], host: Host) -> dict[str, Any]:
    step = {"module": module, "args": args, "name": "x", "notify": [], "handler": False}
    out = tasks.run({"steps": [step]}, quiet, host)
    return dict(out["results"][0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# ------------------------------------------------------------------------------------ file and copy
def test_folder_with_those_above_it(do: Any, root: Path) -> None:
    done = do("file", path="/srv/a/b", state="directory", mode="0750", owner=ME, group=MINE)
    assert done["changed"]
    assert done["diff"] == {"before": "state: absent\n", "after": "state: directory\n"}
    assert mode(root / "srv/a") == mode(root / "srv/a/b") == 0o750


def test_check_mode_touches_nothing(do: Any, root: Path) -> None:
    before = sorted(os.walk(root))
    assert do("file", True, path="/srv/a/b", state="directory")["changed"]
    assert do("copy", True, dest="/srv/x", content="x")["changed"]
    assert do("file", True, path="/srv/l", state="link", src="/x")["changed"]
    assert do("file", True, path="/srv/t", state="touch")["changed"]
    assert sorted(os.walk(root)) == before


def test_mode_of_a_folder_that_is_there(do: Any, root: Path) -> None:
    (root / "srv/a").mkdir(mode=0o700)
    done = do("file", path="/srv/a", state="directory", mode="0755")
    assert done["msg"] == "mode: 0700 → 0755"
    assert mode(root / "srv/a") == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_owner(do: Any, root: Path, box: Box) -> None:
    box.users["ollama"] = User("ollama", 12345, 12346, "", "")
    box.groups["ollama"] = Group("ollama", 12346, [])
    (root / "srv/a").mkdir()
    done = do("file", path="/srv/a", state="directory", owner="ollama", group="ollama")
    assert done["diff"]["after"] == "owner: ollama\ngroup: ollama\n"
    found = (root / "srv/a").stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)


def test_unknown_owner(do: Any) -> None:
    assert (
        "no user is named 'nobody-here'"
        in do("file", path="/srv", state="directory", owner="nobody-here")["msg"]
    )


def test_link(do: Any, root: Path) -> None:
    assert do("file", path="/srv/l", state="link", src="/one")["changed"]
    assert do("file", path="/srv/l", state="link", src="/two")["msg"] == "src: /one → /two"
    assert (root / "srv/l").readlink() == Path("/two")
    (root / "srv/f").write_text("x")
    assert "no symlink" in do("file", path="/srv/f", state="link", src="/two")["msg"]


def test_absent(do: Any, root: Path) -> None:
    (root / "srv/f").write_text("x")
    (root / "srv/d").mkdir()
    (root / "srv/full/x").mkdir(parents=True)
    assert do("file", path="/srv/f", state="absent")["changed"]
    assert do("file", path="/srv/d", state="absent")["changed"]
    assert not do("file", path="/srv/none/x", state="absent")["changed"]
    assert "still holds" in do("file", path="/srv/full", state="absent")["msg"]
    assert sorted(p.name for p in (root / "srv").iterdir()) == ["full"]


def test_touch_and_file(do: Any, root: Path) -> None:
    assert "is not there" in do("file", path="/srv/t", state="file")["msg"]
    assert do("file", path="/srv/t", state="touch", mode="0600")["changed"]
    assert mode(root / "srv/t") == 0o600
    assert do("file", path="/srv/t", state="touch")["changed"]
    assert do("file", path="/srv/t", state="file", mode="0644")["msg"] == "mode: 0600 → 0644"


def test_copy(do: Any, root: Path) -> None:
    done = do("copy", dest="/srv/x", content="one\n", mode="0600")
    assert done["diff"] == {"before": "", "after": "one\n"}
    inode = (root / "srv/x").stat().st_ino
    assert not do("copy", dest="/srv/x", content="one\n")["changed"]
    assert (root / "srv/x").stat().st_ino == inode
    assert do("copy", dest="/srv/x", content="two\n")["diff"] == {"before": "one\n", "after": "two\n"}
    assert mode(root / "srv/x") == 0o600
    assert [p.name for p in (root / "srv").iterdir()] == ["x"]


def test_copy_needs_its_folder(do: Any, root: Path) -> None:
    assert "folder" in one("copy", {"dest": "/no/x", "content": ""}, Fake(False, str(root), Box()))["msg"]
    assert "is a folder" in do("copy", dest="/srv", content="")["msg"]


def test_copy_replaces_a_symlink_instead_of_following_it(do: Any, root: Path) -> None:
    (root / "srv/secret").write_text("keep")
    (root / "srv/x").symlink_to("secret")
    assert do("copy", dest="/srv/x", content="new")["changed"]
    assert (root / "srv/secret").read_text() == "keep"
    assert not (root / "srv/x").is_symlink()


def test_roots_symlinks_are_followed(do: Any, root: Path) -> None:
    (root / "data/models").mkdir(parents=True)
    (root / "srv/abs").symlink_to("/data")
    (root / "srv/rel").symlink_to("../data/models")
    assert do("file", path="/srv/abs/models/blobs", state="directory")["changed"]
    assert do("file", path="/srv/rel/manifests", state="directory")["changed"]
    assert not do("file", path="/srv/rel", state="directory")["changed"]
    assert sorted(p.name for p in (root / "data/models").iterdir()) == ["blobs", "manifests"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a symlink of another user")
@pytest.mark.parametrize("path", ["/srv/evil/x", "/srv/evil"])
def test_others_symlinks_are_not(do: Any, root: Path, path: str) -> None:
    (root / "etc").mkdir()
    (root / "srv/evil").symlink_to("/etc")
    os.lchown(root / "srv/evil", 12345, 12345)
    assert "does not belong to root" in do("file", path=path, state="directory", mode="0777")["msg"]
    assert mode(root / "etc") == 0o755
    assert not list((root / "etc").iterdir())


def test_hard_links_keep_their_owner_and_mode(do: Any, root: Path) -> None:
    (root / "srv/shadow").write_text("x")
    os.link(root / "srv/shadow", root / "srv/x")
    assert "hard links" in do("file", path="/srv/x", state="file", mode="0777")["msg"]


def test_loops_of_symlinks_end(do: Any, root: Path) -> None:
    (root / "srv/a").symlink_to("b")
    (root / "srv/b").symlink_to("a")
    assert "too many symlinks" in do("file", path="/srv/a/x", state="directory")["msg"]


@pytest.mark.parametrize("path", ["relative", "/srv/../etc", "/", ""])
def test_paths_that_are_none(do: Any, path: str) -> None:
    assert do("file", path=path, state="directory")["failed"]


# -------------------------------------------------------------------------------- group and user
def test_group(do: Any, box: Box) -> None:
    assert do("group", name="render", system=True)["changed"]
    assert box.ran == [["groupadd", "-r", "render"]]
    assert not do("group", name="none", state="absent")["changed"]


def test_user_is_made_once(do: Any, box: Box, root: Path) -> None:
    box.groups.update(ollama=Group("ollama", 900, []), video=Group("video", 44, []))
    (root / "h").mkdir()
    do(
        "user",
        name="ollama",
        system=True,
        group="ollama",
        groups=["video"],
        append=True,
        home="/h",
        shell="/s",
    )
    assert box.ran == [
        ["useradd", "-r", "-d", "/h", "-s", "/s", "-g", "ollama", "-G", "video", "-m", "ollama"],
    ]


def test_user_gains_what_is_missing(box: Box, root: Path) -> None:
    box.users["ollama"] = User("ollama", 900, 900, "/old", "/bin/false")
    box.groups.update(
        ollama=Group("ollama", 900, []), video=Group("video", 44, []), disk=Group("disk", 6, ["ollama"])
    )
    args = {"name": "ollama", "groups": ["video"], "append": True, "shell": "/s", "create_home": False}
    done = one("user", args, Fake(False, str(root), box))
    assert done["msg"] == "shell: /bin/false → /s, groups: disk → disk,video"
    assert box.ran == [["usermod", "-s", "/s", "-G", "disk,video", "ollama"]]
    box.ran.clear()
    one("user", {**args, "append": False}, Fake(False, str(root), box))
    assert box.ran == [["usermod", "-s", "/s", "-G", "video", "ollama"]]


def test_users_home_is_made_later(box: Box, root: Path) -> None:
    box.users[ME] = User(ME, os.getuid(), os.getgid(), "/", "/bin/sh")
    box.users["x"] = User("x", os.getuid(), os.getgid(), "/srv/home", "/bin/sh")
    assert one("user", {"name": "x"}, Fake(True, str(root), box))["changed"]
    assert one("user", {"name": "x"}, Fake(False, str(root), box))["changed"]
    assert (root / "srv/home").is_dir()


def test_user_without_its_group(do: Any) -> None:
    assert "no group is named 'none'" in do("user", name="x", groups=["none"])["msg"]


# ---------------------------------------------------------------------------------------- packages
def test_apt_installs_what_is_missing(do: Any, box: Box) -> None:
    box.packages = {"zstd"}
    done = do("apt", name=["zstd", "nginx"], update_cache=True, install_recommends=False)
    assert done["diff"] == {"before": "nginx: absent\n", "after": "nginx: present\n"}
    assert [words[-1] for words in box.ran] == ["update", "nginx"]
    assert "--no-install-recommends" in box.ran[1]
    assert "Dpkg::Options::=--force-confold" in box.ran[1]


def test_apt_fetches_no_lists_when_all_is_there(do: Any, box: Box) -> None:
    box.packages = {"zstd"}
    assert not do("apt", name=["zstd"], update_cache=True)["changed"]
    assert box.ran == []


def test_apt_fetches_the_lists_once_in_a_run(box: Box, root: Path) -> None:
    steps = [step(name, "apt", name=[name], update_cache=True) for name in ("zstd", "nginx")]
    tasks.run({"steps": steps}, quiet, Fake(False, str(root), box))
    assert [words[-1] for words in box.ran] == ["update", "zstd", "nginx"]


def test_apt_removes(do: Any, box: Box) -> None:
    box.packages = {"zstd"}
    assert do("apt", name=["zstd", "nginx"], state="absent")["changed"]
    assert box.ran[0][-3:] == ["remove", "--", "zstd"]


def test_apt_says_why(box: Box, root: Path) -> None:
    box.answers = [Done(100, "Reading package lists...\nE: Unable to locate package zsdt\n")]
    done = one("apt", {"name": ["zsdt"]}, Fake(False, str(root), box))
    assert done["failed"]
    assert done["msg"] == "apt-get install zsdt\nE: Unable to locate package zsdt"


def test_apt_mends_an_interrupted_dpkg(box: Box, root: Path) -> None:
    box.answers = [Done(100, "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'")]
    assert one("apt", {"name": ["zstd"]}, Fake(False, str(root), box))["changed"]
    assert [words[0] for words in box.ran] == ["apt-get", "dpkg", "apt-get"]


def test_apt_does_not_believe_an_exit_status(box: Box, root: Path) -> None:
    box.answers = [Done(0, "")]
    assert "did nothing about zstd" in one("apt", {"name": ["zstd"]}, Fake(False, str(root), box))["msg"]


def test_policy_says_no_only_while_apt_runs(box: Box, root: Path) -> None:
    policy = root / "usr/sbin/policy-rc.d"
    codes = []

    def apt_get(rest: list[str]) -> Done:
        codes.append(subprocess.run([policy]).returncode)
        return Done(100, "E: broken")

    box.apt_get = apt_get  # type: ignore[method-assign]
    one("apt", {"name": ["nginx"], "policy_rc_d": 101}, Fake(False, str(root), box))
    assert codes == [101]
    assert not policy.exists()


def test_a_policy_that_was_left_behind_says_yes_and_goes(box: Box, root: Path) -> None:
    policy = root / "usr/sbin/policy-rc.d"
    with subprocess.Popen(["true"]) as gone:
        pass
    with tasks_packages._policy(101, Fake(False, str(root), box)):
        policy.write_text(policy.read_text().replace(str(os.getpid()), str(gone.pid)))
        policy.with_name("kept").write_text(policy.read_text())
    policy.with_name("kept").rename(policy)
    policy.chmod(0o755)
    assert subprocess.run([policy]).returncode == 0
    assert one("apt", {"name": ["nginx"], "policy_rc_d": 101}, Fake(False, str(root), box))["changed"]
    assert not policy.exists()


def test_the_machines_own_policy_stays(box: Box, root: Path) -> None:
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    assert one("apt", {"name": ["nginx"], "policy_rc_d": 101}, Fake(False, str(root), box))["changed"]
    assert policy.read_text() == "#!/bin/sh\nexit 101\n"


# ---------------------------------------------------------------------------------------- services
def unit(active: str = "active", enabled: str = "enabled", load: str = "loaded") -> dict[str, str]:
    return {"LoadState": load, "ActiveState": active, "UnitFileState": enabled}


def test_service_is_stopped_and_disabled(do: Any, box: Box) -> None:
    box.units["ollama.service"] = unit()
    done = do("systemd_service", name="ollama", state="stopped", enabled=False)
    assert done["diff"]["before"] == "enabled: true\nstate: active\n"
    assert [words[1] for words in box.ran] == ["disable", "stop"]


@pytest.mark.parametrize(
    ("found", "args", "verbs"),
    [
        (unit("inactive", "disabled"), {"state": "started", "enabled": True}, ["enable", "start"]),
        (unit("failed"), {"state": "stopped"}, []),
        (unit("activating"), {"state": "started"}, []),
        (unit("inactive", "static"), {"enabled": False}, []),
        (unit(), {"masked": True}, ["mask"]),
        (unit("inactive", "masked", "masked"), {"masked": False, "enabled": True}, ["unmask", "enable"]),
        (unit(), {"state": "restarted", "daemon_reload": True}, ["daemon-reload", "restart"]),
        (unit("inactive"), {"state": "reloaded"}, ["start"]),
    ],
)
def test_service_states(
    box: Box, root: Path, found: dict[str, str], args: dict[str, Any], verbs: list[str]
) -> None:
    box.units["x.service"] = found
    done = one("systemd_service", {"name": "x.service", **args}, Fake(False, str(root), box))
    assert [words[1] for words in box.ran] == verbs
    assert done["changed"] == bool([v for v in verbs if v != "daemon-reload"])


def test_service_of_a_package_to_come(box: Box, root: Path) -> None:
    steps = [
        {"module": "apt", "args": {"name": ["nginx"]}, "name": "a", "notify": ["off"], "handler": False},
        {
            "module": "systemd_service",
            "args": {"name": "nginx", "enabled": False},
            "name": "off",
            "notify": [],
            "handler": True,
        },
    ]
    out = tasks.run({"steps": steps}, quiet, Fake(True, str(root), box))
    assert [r["changed"] for r in out["results"]] == [True, True]
    assert (
        "no unit"
        in one("systemd_service", {"name": "nginx", "enabled": False}, Fake(True, str(root), box))["msg"]
    )


# --------------------------------------------------------------------------------- command and run
def test_command(box: Box, root: Path) -> None:
    host = Fake(False, str(root), box)
    assert one("command", {"cmd": "make 'a b'", "creates": "/srv/x"}, host)["changed"]
    assert box.ran == [["make", "a b"]]
    (root / "srv/x").write_text("")
    assert not one("command", {"argv": ["make"], "creates": "/srv/x"}, host)["changed"]
    assert "neither" in one("command", {"creates": "/y"}, host)["msg"]


def test_a_tool_that_is_missing(root: Path) -> None:
    done = one("command", {"cmd": "ogen-no-such-tool", "creates": "/x"}, Host(False, str(root)))
    assert done["msg"].startswith("ogen-no-such-tool: exit 127")


def step(
    title: str, module: str = "fail", notify: Sequence[str] = (), handler: bool = False, **args: Any
) -> dict[str, Any]:
    return {"module": module, "args": args, "name": title, "notify": list(notify), "handler": handler}


@pytest.mark.parametrize(("force", "ran"), [(False, ["a", "b"]), (True, ["a", "b", "call"])])
def test_the_first_failure_ends_the_run(box: Box, root: Path, force: bool, ran: list[str]) -> None:
    steps = [
        step("a", "copy", ["call"], dest="/srv/a", content=""),
        step("b", msg="no"),
        step("c", "copy", dest="/srv/c", content=""),
        step("call", "copy", handler=True, dest="/srv/call", content=""),
        step("idle", "copy", handler=True, dest="/srv/idle", content=""),
    ]
    out = tasks.run({"steps": steps, "force_handlers": force}, quiet, Fake(False, str(root), box))
    assert [r["name"] for r in out["results"]] == ran
    assert (out["failed"], out["changed"]) == (True, len(ran) - 1)
    assert out["results"][1]["msg"] == "no"


def test_only_tools_that_change_something_are_told(box: Box, root: Path) -> None:
    box.packages = {"zstd"}
    steps = [step("a", "apt", name=["zstd"]), step("b", "apt", name=["nginx"]), step("c", "group", name="g")]
    seen: list[tuple[str, float | None]] = []
    tasks.run(
        {"steps": steps}, lambda phase, text, done: seen.append((text, done)), Fake(False, str(root), box)
    )
    assert [(text, round(done or 0)) for text, done in seen] == [("b", 33), ("c", 67)]


def test_check_mode_knows_what_earlier_steps_make(box: Box, root: Path) -> None:
    steps = [
        step("g", "group", name="ollama"),
        step("u", "user", name="ollama", group="ollama", create_home=False),
        step("f", "file", path="/srv/m/blobs", state="directory", owner="ollama", group="ollama"),
    ]
    out = tasks.run({"steps": steps}, quiet, Fake(True, str(root), box))
    assert [(r["changed"], r["failed"]) for r in out["results"]] == [(True, False)] * 3
    assert box.ran == []


def test_unknown_module(box: Box, root: Path) -> None:
    assert "no such module" in one("reboot", {}, Fake(False, str(root), box))["msg"]


def test_umask_of_the_login_does_not_matter(box: Box, root: Path) -> None:
    before = os.umask(0o077)
    try:
        one("file", {"path": "/srv/t", "state": "touch"}, Fake(False, str(root), box))
        assert mode(root / "srv/t") == 0o644
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)


def test_apt_without_a_mirror_says_all_that_is_missing(root: Path, box: Box) -> None:
    box.packages = {"python3"}
    lost = "W: Failed to fetch http://mirror/x  Temporary failure resolving 'mirror'"
    box.answers = [Done(0, f"Ign:1 x\n{lost}\n"), Done(100, "E: Unable to locate package zstd")]
    steps = [
        step("one", "apt", name=["python3"], update_cache=True),
        step("two", "apt", name=["zstd"], update_cache=True),
        step("three", "apt", name=["nginx", "python3"]),
        step("four", "apt", name=["telnet"], state="absent"),
    ]
    done = tasks.run({"steps": steps}, quiet, Fake(False, str(root), box))["results"][-1]
    assert (done["name"], done["failed"]) == ("two", True)
    assert done["msg"].splitlines() == [
        "zstd can't be had: no package mirror answers",
        lost,
        "missing are, in all: nginx zstd",
        tasks_packages._MEDIUM,
    ]
    # with old lists a package may be there all the same
    box.answers = [Done(0, lost), Done(0, "")]
    box.packages.add("zstd")
    assert not one("apt", {"name": ["zstd"], "update_cache": True}, Fake(False, str(root), box))["failed"]


# ---------------------------------------------------------------------------- get_url and unarchive
class Quiet(SimpleHTTPRequestHandler):
    def log_request(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address, and the folder that it serves."""
    folder = tmp_path / "origin"
    folder.mkdir()
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_get_url(do: Any, root: Path, origin: tuple[str, Path]) -> None:
    url, folder = origin[0] + "/x.tar", origin[1]
    (folder / "x.tar").write_bytes(b"one")
    args = {"url": url, "dest": "/srv/x", "checksum": sha(b"one")}
    done = do("get_url", **args)
    assert done["diff"] == {"before": "checksum: absent\n", "after": f"checksum: {sha(b'one')}\n"}
    assert ((root / "srv/x").read_bytes(), mode(root / "srv/x")) == (b"one", 0o644)
    assert do("get_url", **args, mode="0600")["msg"] == "mode: 0644 → 0600"
    (root / "srv/x").write_bytes(b"edited")
    assert do("get_url", **args)["changed"]
    assert names(root / "srv") == ["x"]


def test_get_url_keeps_what_is_there_when_the_checksum_is_another(
    do: Any, root: Path, origin: tuple[str, Path]
) -> None:
    (origin[1] / "x").write_bytes(b"evil")
    (root / "srv/x").write_bytes(b"old")
    host = Fake(False, str(root), Box())
    done = one("get_url", {"url": origin[0] + "/x", "dest": "/srv/x", "checksum": sha(b"good")}, host)
    assert done["failed"]
    assert f"the checksum is {sha(b'evil')}, and should be {sha(b'good')}" in done["msg"]
    assert [(p.name, p.read_bytes()) for p in (root / "srv").iterdir()] == [("x", b"old")]


def test_get_url_says_what_is_wrong(root: Path, origin: tuple[str, Path]) -> None:
    host = Fake(False, str(root), Box())
    args = {"dest": "/srv/x", "checksum": sha(b"")}
    assert "ile not found" in one("get_url", {"url": origin[0] + "/no", **args}, host)["msg"]
    assert "refused" in one("get_url", {"url": "http://127.0.0.1:1/x", **args}, host)["msg"]
    (origin[1] / "x").write_bytes(b"")
    assert (
        "folder above it" in one("get_url", {"url": origin[0] + "/x", **args, "dest": "/no/x"}, host)["msg"]
    )


def packed(folder: Path, name: str, *files: str) -> Path:
    """An archive of files whose content is their name."""
    tree = folder / f"{name}.tree"
    for file in files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text(file)
        (tree / file).chmod(0o755)
    how = "--zstd" if name.endswith(".zst") else "--gzip"
    subprocess.run(["tar", how, "-cf", folder / name, "-C", tree, "."], check=True)
    return folder / name


@pytest.mark.parametrize("name", ["x.tgz", "x.tar.zst"])
def test_unarchive_of_a_file_on_the_host(do: Any, root: Path, name: str) -> None:
    if name.endswith(".zst") and not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    packed(root / "srv", name, "bin/ollama", "lib/ollama/a.so").rename(root / "srv/archive")
    (root / "opt").mkdir()
    args = {"src": "/srv/archive", "remote_src": True, "dest": "/opt", "creates": "/opt/bin/ollama"}
    done = do("unarchive", **args)
    assert done["diff"] == {"before": "creates: absent\n", "after": "creates: /opt/bin/ollama\n"}
    assert sorted(str(p.relative_to(root)) for p in (root / "opt").rglob("*") if p.is_file()) == [
        "opt/bin/ollama",
        "opt/lib/ollama/a.so",
    ]
    assert mode(root / "opt/bin/ollama") == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_unarchive_gives_files_their_owner(do: Any, root: Path) -> None:
    tree = packed(root / "srv", "x.tgz", "bin/ollama").with_name("x.tgz.tree")
    os.chown(tree / "bin/ollama", 12345, 12345)
    subprocess.run(["tar", "-czf", root / "srv/x.tgz", "-C", tree, "."], check=True)
    (root / "opt").mkdir()
    args = {"src": "/srv/x.tgz", "remote_src": True, "dest": "/opt", "owner": ME, "group": MINE}
    do("unarchive", **args, creates="/opt/bin/ollama")
    found = (root / "opt/bin/ollama").stat()
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())


def test_a_second_archive_goes_over_the_first(root: Path, box: Box) -> None:
    (root / "opt/lib").mkdir(parents=True)
    (root / "opt/lib/old").write_text("kept")
    (root / "opt/lib/a").write_text("old")
    packed(root / "srv", "x.tgz", "lib/a", "lib/b")
    args = {"src": "/srv/x.tgz", "remote_src": True, "dest": "/opt", "creates": "/opt/lib/b"}
    assert one("unarchive", args, Fake(False, str(root), box))["changed"]
    assert {p.name: p.read_text() for p in (root / "opt/lib").iterdir()} == {
        "a": "lib/a",
        "b": "lib/b",
        "old": "kept",
    }
    assert names(root / "opt") == ["lib"]


@pytest.mark.parametrize("lie", [False, True])
def test_unarchive_of_a_file_that_the_controller_sends(
    root: Path, box: Box, tmp_path: Path, lie: bool
) -> None:
    data = packed(tmp_path, "x.tgz", "bin/ollama").read_bytes()
    (root / "opt").mkdir()
    (root / "opt/.ogen-part-99999999").write_text("a killed run's")
    host = Fake(False, str(root), box)
    asked: list[str] = []

    def fetch(digest: str) -> tuple[int, Iterator[bytes]]:
        asked.append(digest)
        sent = data[:-1] if lie else data
        return len(data), iter([sent[:100], sent[100:]])

    host.fetch = fetch
    told: list[float | None] = []
    args = {"src": sha(data), "dest": "/opt", "creates": "/opt/bin/ollama"}
    step = {"module": "unarchive", "args": args, "name": "x", "notify": [], "handler": False}
    done = tasks.run({"steps": [step]}, lambda phase, text, percent: told.append(percent), host)["results"][0]
    assert asked == [sha(data)]
    assert names(root / "opt") == ([] if lie else ["bin"])
    assert ("should be " + sha(data) in done["msg"], done["failed"]) == (lie, lie)
    if not lie:
        assert 100.0 in told
        assert not one("unarchive", args, host)["changed"]
        assert len(asked) == 1


def test_a_controller_that_is_gone_leaves_nothing_behind(root: Path, box: Box) -> None:
    (root / "opt").mkdir()
    host = Fake(False, str(root), box)

    def parts() -> Iterator[bytes]:
        yield b"begun"
        raise AgentError("the file did not come whole")

    host.fetch = lambda digest: (10, parts())
    done = one("unarchive", {"src": sha(b"x"), "dest": "/opt", "creates": "/opt/x"}, host)
    assert (done["failed"], done["msg"]) == (True, "the file did not come whole")
    assert names(root / "opt") == []


def test_unarchive_looks_for_room_first(root: Path, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "opt").mkdir()
    with tarfile.open(root / "srv/x.tgz", "w:gz") as archive:
        for name in ("bin/a", "bin/b b"):
            member = tarfile.TarInfo(name)
            member.size = 3 << 20
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert (root / "srv/x.tgz").stat().st_size < 1 << 20
    monkeypatch.setattr(tasks_urls, "free", lambda folder: tasks_urls.MARGIN + (6 << 20) - 1)
    args = {"src": "/srv/x.tgz", "remote_src": True, "dest": "/opt", "creates": "/opt/bin"}
    failed = one("unarchive", args, Fake(False, str(root), box))
    assert "what is in the archive needs 6.0 MiB in /opt, and 262.0 MiB are free" in failed["msg"]
    assert (failed["failed"], names(root / "opt")) == (True, [])
    host = Fake(False, str(root), box)
    sent = {**args, "src": sha(b""), "remote_src": False, "size": 7 << 20}
    assert "the archive needs 7.0 MiB in /opt" in one("unarchive", sent, host)["msg"], "not asked for"
    monkeypatch.setattr(tasks_urls, "free", lambda folder: tasks_urls.MARGIN + (6 << 20))
    assert one("unarchive", args, Fake(False, str(root), box))["changed"]


def test_unarchive_says_what_is_wrong(root: Path, box: Box) -> None:
    host = Fake(False, str(root), box)
    (root / "srv/x").write_text("no archive at all")
    args = {"src": "/srv/x", "remote_src": True, "dest": "/srv", "creates": "/srv/y"}
    assert "does not look like a tar archive" in one("unarchive", args, host)["msg"]
    assert names(root / "srv") == ["x"]
    assert "no such file" in one("unarchive", {**args, "src": "/srv/z"}, host)["msg"]
    assert "no such folder" in one("unarchive", {**args, "dest": "/no"}, host)["msg"]
    assert "nobody sends files" in one("unarchive", {**args, "remote_src": False}, host)["msg"]


def test_an_archive_does_not_leave_its_folder(root: Path, box: Box) -> None:
    (root / "opt").mkdir()
    with tarfile.open(root / "srv/x.tgz", "w:gz") as archive:
        link = tarfile.TarInfo("up")
        link.type, link.linkname = tarfile.SYMTYPE, "../srv"
        archive.addfile(link)
        for name in ("up/evil", "../srv/evil"):
            archive.addfile(tarfile.TarInfo(name))
    args = {"src": "/srv/x.tgz", "remote_src": True, "dest": "/opt", "creates": "/opt/up"}
    assert one("unarchive", args, Fake(False, str(root), box))["failed"]
    assert names(root / "srv") == ["x.tgz"]
    assert names(root / "opt") == []


def test_what_is_got_unpacked_and_removed_is_predicted(
    root: Path, box: Box, tmp_path: Path, origin: tuple[str, Path]
) -> None:
    data = packed(origin[1], "x.tgz", "bin/ollama").read_bytes()
    steps = [
        step("folder", "file", path="/opt/v", state="directory"),
        step("get", "get_url", url=origin[0] + "/x.tgz", dest="/opt/v/.x", checksum=sha(data)),
        step("unpack", "unarchive", src="/opt/v/.x", remote_src=True, dest="/opt/v", creates="/opt/v/bin"),
        step("tidy", "file", path="/opt/v/.x", state="absent"),
    ]
    predicted = tasks.run({"steps": steps}, quiet, Fake(True, str(root), box))
    assert not (root / "opt").exists()
    done = tasks.run({"steps": steps}, quiet, Fake(False, str(root), box))
    assert predicted == done
    assert (done["changed"], done["failed"]) == (4, False)
    assert names(root / "opt/v") == ["bin"]


def test_copy_without_force_keeps_what_is_there(do: Any, root: Path) -> None:
    assert do("copy", dest="/srv/x", content="one\n", force=False)["changed"]
    assert not do("copy", dest="/srv/x", content="two\n", force=False)["changed"]
    assert (root / "srv/x").read_text() == "one\n"


# ------------------------------------------------------------------------------------------- facts
def test_a_look_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to("nowhere")
    assert tasks_facts.look(str(tmp_path / "l"))["islnk"]
    assert tasks_facts.look(str(tmp_path))["isdir"]
    assert tasks_facts.look(str(tmp_path / "no")) == {"exists": False}


def test_facts_are_those_that_playbooks_know() -> None:
    assert set(tasks_facts.facts()) == set(FACTS)


@pytest.mark.parametrize(
    ("release", "point", "wanted"),
    [
        (
            'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm',
            "12.11",
            ("Debian", "12.11", "12", "bookworm", "Debian"),
        ),
        (
            'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie',
            "trixie/sid",
            ("Debian", "13", "13", "trixie", "Debian"),
        ),
        (
            'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy',
            "bookworm/sid",
            ("Ubuntu", "22.04", "22", "jammy", "Debian"),
        ),
        ("ID=fedora\nVERSION_ID=40", "", ("Fedora", "40", "40", "", "Fedora")),
    ],
)
def test_facts_of_distributions(root: Path, release: str, point: str, wanted: tuple[str, ...]) -> None:
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text(release)
    (root / "etc/debian_version").write_text(point)
    found = tasks_facts.facts(str(root))
    keys = (
        "distribution",
        "distribution_version",
        "distribution_major_version",
        "distribution_release",
        "os_family",
    )
    assert tuple(found[key] for key in keys) == wanted


# ------------------------------------------------------------------------------- uri and wait_for
@pytest.fixture
def web(tmp_path: Path) -> Iterator[int]:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "version").write_text("{}")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class Patient(Box):
    """Time goes on only when somebody waits; `then` happens after the first wait."""

    def __init__(self, then: Any = lambda: None) -> None:
        super().__init__()
        self.clock, self.then = 0.0, then

    def now(self) -> float:
        return self.clock

    def wait(self, seconds: float) -> None:
        self.clock += seconds
        self.then()


def test_uri(do: Any, web: int) -> None:
    url = f"http://127.0.0.1:{web}"
    assert do("uri", url=url + "/version")["msg"] == "status 200, 2 bytes"
    assert not do("uri", url=url + "/version", method="HEAD")["changed"]
    assert not do("uri", url=url + "/none", status_code=[200, 404])["failed"]


def one_of(module: str, args: dict[str, Any], box: Box, root: Path, check: bool = False) -> dict[str, Any]:
    return one(module, args, Fake(check, str(root), box))


def test_uri_that_fails(box: Box, root: Path, web: int) -> None:
    url = f"http://127.0.0.1:{web}/none"
    assert "status 404, and should with 200" in one_of("uri", {"url": url}, box, root)["msg"]
    refused = one_of("uri", {"url": "http://127.0.0.1:9/"}, box, root)
    assert (refused["failed"], "refused" in refused["msg"]) == (True, True)
    assert not one_of("uri", {"url": url}, box, root, check=True)["failed"], "a check does not ask"


def test_wait_for_a_port(root: Path, web: int) -> None:
    assert not one_of("wait_for", {"port": web}, Patient(), root)["failed"]
    box = Patient()
    late = one_of("wait_for", {"port": web, "state": "stopped", "timeout": 20}, box, root)
    assert (late["msg"], box.clock) == (f"127.0.0.1:{web} is still there after 20 s", 20.0)
    said = one_of("wait_for", {"port": 9, "timeout": 2, "msg": "no balancer"}, Patient(), root)
    assert (said["failed"], said["msg"]) == (True, "no balancer")


def test_wait_for_a_path(root: Path) -> None:
    box = Patient(then=(root / "srv/x").touch)
    assert one_of("wait_for", {"path": "/srv/x", "state": "present"}, box, root)["msg"] == "/srv/x is there"
    assert box.clock == 1.0
    gone = Patient(then=(root / "srv/x").unlink)
    assert not one_of("wait_for", {"path": "/srv/x", "state": "absent"}, gone, root)["failed"]
    assert one_of("wait_for", {}, Patient(), root, check=True)["failed"]


def test_a_long_wait_is_heard(root: Path) -> None:
    said: list[float] = []
    host = Fake(False, str(root), Patient())
    host.progress = said.append
    with pytest.raises(Failed):
        tasks.MODULES["wait_for"]({"path": "/srv/none", "timeout": 60}, host)
    assert said == [25.0, 50.0, 75.0]


@pytest.mark.parametrize(
    ("noted", "links", "state", "policy", "changed"),
    [
        ("", [], {"enabled": True, "state": "started"}, None, ""),
        ("", [], {"state": "started"}, 101, "state"),
        ("/etc/systemd/system/x.wants/web.service", ["web.service"], {"enabled": True}, None, ""),
        ("/etc/systemd/system/x.wants/web.service", [], {"enabled": True}, None, "enabled"),
        ("/etc/systemd/system/x.wants/web.service", [], {"state": "stopped"}, None, ""),
    ],
)
def test_a_check_knows_how_a_package_brings_its_unit(
    box: Box,
    root: Path,
    noted: str,
    links: list[str],
    state: dict[str, Any],
    policy: int | None,
    changed: str,
) -> None:
    """Enabled and started; one that was disabled when its package was removed stays so."""
    place = root / "var/lib/systemd/deb-systemd-helper-enabled"
    wants = root / "etc/systemd/system/x.wants"
    for folder in (place, wants):
        folder.mkdir(parents=True)
    if noted:
        (place / "web.service.dsh-also").write_text(noted + "\n")
    for name in links:
        (wants / name).symlink_to("/lib/systemd/system/web.service")
    host = Fake(True, str(root), box)
    more = {} if policy is None else {"policy_rc_d": policy}
    assert one("apt", {"name": ["web"], **more}, host)["changed"]
    found = one("systemd_service", {"name": "web", **state}, host)
    assert found["msg"].partition(":")[0] == changed


def test_a_command_that_only_looks(do: Any, box: Box) -> None:
    done = do("command", cmd="nvidia-smi -L", changed_when=False)
    assert (done["changed"], box.ran[-1]) == (False, ["nvidia-smi", "-L"])
    ran = len(box.ran)
    assert not do("command", check_only=True, cmd="ls", changed_when=False)["changed"]
    assert len(box.ran) == ran


# ---------------------------------------------------------------------------------------- the whole
def test_the_agent_has_every_module_that_playbooks_know() -> None:
    assert set(tasks.MODULES) == set(MODULES) - FROM_HELLO - LOOKS - {TEMPLATE, *FLEET}
    assert set(tasks.FOLDER) <= set(tasks.MODULES)


def test_the_source_is_python_3_8() -> None:
    for path in sorted(Path(tasks.__file__).parent.glob("tasks*.py")):
        ast.parse(path.read_text(), feature_version=(3, 8))
