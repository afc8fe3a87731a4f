"""The modules `group` and `user`, by the tools of the shadow suite."""

from __future__ import annotations

from typing import List, Tuple

from .disk import group_name
from .tasks_files import file
from .tasks_host import Args, Change, Failed, Host, Result, result


def group(args: Args, host: Host) -> Result:
    """Ansible's `group`; an existing group keeps its number."""
    name, present = args["name"], args.get("state", "present") == "present"
    if host.has("group", name) == present:
        return result([])
    if host.check:
        host.promised["group " + name] = present
    elif present:
        host.do("groupadd", *(["-r"] if args.get("system") else []), name)
    else:
        host.do("groupdel", name)
    return result([("state", *_presence(present))])


def user(args: Args, host: Host) -> Result:
    """Ansible's `user`; `state: absent` leaves the home folder."""
    name, present = args["name"], args.get("state", "present") == "present"
    found, there = host.user(name), host.has("user", name)
    if not present:
        if there and host.check:
            host.promised["user " + name] = False
        elif there:
            host.do("userdel", name)
        return result([("state", *_presence(False))] if there else [])
    for wanted in [*args.get("groups", ()), *([args["group"]] if args.get("group") else [])]:
        host.gid(wanted)  # raises for one that is missing
    if not there:
        return _create(args, host)
    return result([]) if found is None else _modify(args, host)  # None: an earlier step of a check makes it


def _create(args: Args, host: Host) -> Result:
    options = ["-r"] if args.get("system") else []
    for flag, key in (("-d", "home"), ("-s", "shell"), ("-g", "group")):
        options += [flag, args[key]] if args.get(key) else []
    if not args.get("group") and host.group(args["name"]) is not None:
        options += ["-N"]  # else useradd stumbles over the group of the same name
    options += ["-G", ",".join(args["groups"])] if args.get("groups") else []
    options += ["-m"] if args.get("create_home", True) else ["-M"]
    if host.check:
        own = [] if args.get("group") else ["group " + args["name"]]  # useradd makes one of the same name
        host.promised.update(dict.fromkeys(["user " + args["name"], *own], True))
    else:
        host.do("useradd", *options, args["name"])
    return result([("state", *_presence(True))])


def _modify(args: Args, host: Host) -> Result:
    name = args["name"]
    found = host.user(name)
    assert found is not None
    changes: List[Change] = []
    options: List[str] = []
    for flag, key, before in (("-d", "home", found.pw_dir), ("-s", "shell", found.pw_shell)):
        if args.get(key) and args[key] != before:
            changes.append((key, before, args[key]))
            options += [flag, args[key]]
    if args.get("group") and host.gid(args["group"]) != found.pw_gid:
        changes.append(("group", group_name(found.pw_gid), args["group"]))
        options += ["-g", args["group"]]
    options += _groups(args, host, changes)
    if options and not host.check:
        host.do("usermod", *options, name)
    home = args.get("home") or found.pw_dir
    if args.get("create_home", True) and home and not host.exists(home):
        made = file({"path": home, "state": "directory", "mode": "0755", "owner": name}, host)
        changes += [("create_home", *_presence(True))] if made["changed"] else []
    return result(changes)


def _groups(args: Args, host: Host, changes: List[Change]) -> List[str]:
    """Options for the further groups; without `append` the user is in these and no other."""
    if "groups" not in args:
        return []
    name = args["name"]
    if args.get("group") in args["groups"]:
        raise Failed("%s: `group` need not stand in `groups` too" % name)
    now = set(host.groups_of(name))
    found = host.user(name)
    primary = group_name(found.pw_gid) if found is not None else ""
    wanted = set(args["groups"]) - {primary}
    wanted |= now if args.get("append") else set()
    if wanted == now:
        return []
    changes.append(("groups", ",".join(sorted(now)) or "none", ",".join(sorted(wanted)) or "none"))
    return ["-G", ",".join(sorted(wanted))]


def _presence(present: bool) -> Tuple[str, str]:
    return ("absent", "present") if present else ("present", "absent")
