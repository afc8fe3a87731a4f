"""The module `apt`: packages by apt-get, asked for by dpkg-query first."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Iterator, List, Set

from .machine import Done
from .tasks_host import Args, Failed, Host, Result, last_lines, result

POLICY = "/usr/sbin/policy-rc.d"
_UNREACHED = "Failed to fetch"
_MEDIUM = (
    "install them from a medium, or name a mirror in sources.list that this host reaches, and run this again"
)
#: dpkg keeps a configuration file that someone edited; another apt gets two minutes to end
_APT_GET = (
    "env",
    "DEBIAN_FRONTEND=noninteractive",
    "apt-get",
    "-y",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "DPkg::Lock::Timeout=120",
)
#: a simulation leaves apt's caches alone
_IN_MEMORY = ("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=")


def apt(args: Args, host: Host) -> Result:
    """Ansible's `apt` for plain names; `update_cache` only when something is about to be installed."""
    names: List[str] = args["name"]
    present = args.get("state", "present") == "present"
    installed = _installed(names, host)
    todo = [name for name in names if (name in installed) != present]
    changes = [(name, *(("absent", "present") if present else ("present", "absent"))) for name in todo]
    if todo and host.check:
        _promise(todo, present, args, host)
    elif todo:
        with _policy(args.get("policy_rc_d"), host):
            _change(todo, present, args, host)
        left = [name for name in todo if (name in _installed(todo, host)) != present]
        if left:
            raise Failed("apt-get ended well, but did nothing about %s" % ", ".join(left))
    return result(changes)


def _promise(todo: List[str], present: bool, args: Args, host: Host) -> None:
    """What apt says it would do; the names themselves, where it has no lists yet."""
    action = _action(present, args)
    said = host.ask(*_APT_GET, *_IN_MEMORY, "-s", *action, "--", *todo)
    words = [line.split() for line in said.lines if line.startswith(("Inst ", "Remv "))]
    come = {word[1] for word in words if word[0] == "Inst"} | set(todo if present else ())
    gone = {word[1] for word in words if word[0] == "Remv"} | set(() if present else todo)
    for name in sorted(gone):
        files = host.ask("dpkg-query", "-L", name).lines
        units = [os.path.basename(path) for path in files if "/systemd/system/" in path and "." in path]
        host.promised.update({"units " + name: units, **{"unit " + unit: None for unit in units}})
    for name in sorted(come):
        host.promised["started"] = args.get("policy_rc_d") is None
        for unit in host.promised.pop("units " + name, ()):  # it was to go before
            host.promised["unit " + unit] = host.packaged(unit)
    host.promised.update({"package " + name: name in come for name in come | gone})


def _installed(names: List[str], host: Host) -> Set[str]:
    # dpkg-query exits 1 when it knows nothing of one of the names: its lines are still right
    listed = host.ask("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *names)
    if listed.code > 1:
        raise Failed("no dpkg-query here: %s" % last_lines(listed))
    pairs = [line.split() for line in listed.text.splitlines()]
    found = {pair[0] for pair in pairs if len(pair) == 2 and pair[1] == "installed"}
    return {name for name in names if host.promised.get("package " + name, name in found)}


def _change(names: List[str], present: bool, args: Args, host: Host) -> None:
    host.announce()
    if args.get("update_cache") and present and not host.fetched:
        host.unreached = [line for line in host.do(*_APT_GET, "update").lines if _UNREACHED in line]
        host.fetched = True
    action = _action(present, args)
    done = host.ask(*_APT_GET, *action, "--", *names)
    if done.code and "dpkg was interrupted" in done.text:
        host.do("dpkg", "--configure", "-a", "--force-confdef", "--force-confold")
        done = host.ask(*_APT_GET, *action, "--", *names)
    if done.code and present and host.unreached:
        raise Failed("%s can't be had: no package mirror answers\n%s" % (", ".join(names), _alone(host)))
    if done.code:
        raise Failed("apt-get %s %s\n%s" % (" ".join(action), " ".join(names), _reason(done)))


def _action(present: bool, args: Args) -> List[str]:
    if not present:
        return ["remove"]
    return ["install"] + ([] if args.get("install_recommends", True) else ["--no-install-recommends"])


def _alone(host: Host) -> str:
    """What there is to do without a mirror, for all steps at once."""
    missing = sorted(set(host.packages) - _installed(host.packages, host))
    return "%s\nmissing are, in all: %s\n%s" % ("\n".join(host.unreached[:4]), " ".join(missing), _MEDIUM)


def _reason(done: Done) -> str:
    """apt's own errors where it names them, else the last lines."""
    errors = [line for line in done.lines if line.startswith("E: ")]
    return "\n".join(errors) or last_lines(done)


@contextmanager
def _policy(code: object, host: Host) -> Iterator[None]:
    """Packages start no service meanwhile. The machine's own policy, where it has one, stays in force.

    The file stops to say no once this process is gone, so that nothing is left behind by a power cut.
    """
    path = host.real(POLICY)
    if code is None or (os.path.lexists(path) and not _ours(path)):
        yield
        return
    text = "#!/bin/sh\n# ogen, while it installs packages\n[ -d /proc/%d ] && exit %d\nexit 0\n"
    passing = path + ".ogen"
    with open(passing, "w", encoding="ascii") as writer:
        writer.write(text % (os.getpid(), code))
    os.chmod(passing, 0o755)
    os.rename(passing, path)
    try:
        yield
    finally:
        os.unlink(path)


def _ours(path: str) -> bool:
    with open(path, "rb") as reader:
        return b"# ogen, while it installs packages" in reader.read(200)
