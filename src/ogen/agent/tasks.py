"""The steps of a playbook, run in order on this machine: the agent's operation `steps`.

A document {"check", "force_handlers", "steps": [{"module", "args", "name", "notify", "handler"}]} comes in;
results in Ansible's shape (`changed`, `failed`, `msg`, `diff`) with `name`, `module` and `handler` go out.
The first step that fails ends the run; what was notified by then runs only with `force_handlers`.
"""

from __future__ import annotations

import os
import shlex
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Optional, Set

from .tasks_accounts import group, user
from .tasks_archives import unarchive
from .tasks_files import copy, file
from .tasks_host import Args, Failed, Host, Result, result
from .tasks_packages import apt
from .tasks_reach import uri, wait_for
from .tasks_services import systemd_service
from .tasks_urls import get_url

Tell = Callable[[str, str, Optional[float]], None]  # phase, text, percent


def run(document: Mapping[str, Any], tell: Tell, host: Optional[Host] = None) -> Dict[str, Any]:
    """The results of all steps, how many changed something, whether one failed.

    `tell` hears when a tool begins to change something: the steps that only look are over at once.
    """
    host = host or Host(check=bool(document.get("check")))
    mask = os.umask(0o022)
    try:
        results = _all(document["steps"], bool(document.get("force_handlers")), host, tell)
    finally:
        os.umask(mask)
    return {
        "results": results,
        "changed": sum(r["changed"] for r in results),
        "failed": any(r["failed"] for r in results),
    }


def _all(steps: List[Dict[str, Any]], force: bool, host: Host, tell: Tell) -> List[Result]:
    installs = [step["args"] for step in steps if step["module"] == "apt"]
    host.packages = [
        n for args in installs if args.get("state", "present") == "present" for n in args["name"]
    ]
    results: List[Result] = []
    notified: Set[str] = set()
    failed = False
    for number, step in enumerate(steps):
        called = not step["handler"] or step["name"] in notified
        if not called or (failed and not (force and step["handler"])):
            continue
        host.announce = partial(tell, "step", step["name"], 100.0 * number / len(steps))
        host.progress = partial(tell, "step", step["name"])
        done = _one(step, host)
        results.append(done)
        failed = failed or done["failed"]
        notified.update(step["notify"] if done["changed"] else ())
    return results


def _one(step: Mapping[str, Any], host: Host) -> Result:
    """One step's result; whatever goes wrong in it is a failed step, never a dead agent."""
    module = MODULES.get(step["module"], _unknown)
    try:
        if host.folder and step["module"] not in FOLDER:
            raise Failed("%s: this host is a folder (`root`), it has nothing but files" % step["module"])
        done = module(step["args"], host)
    except Failed as error:
        done = _failure(str(error))
    except OSError as error:
        done = _failure("%s: %s" % (error.filename or step["module"], error.strerror or error))
    return {"name": step["name"], "module": step["module"], "handler": step["handler"], **done}


def _failure(msg: str) -> Result:
    return {"changed": False, "failed": True, "msg": msg, "diff": {"before": "", "after": ""}}


def _unknown(args: Args, host: Host) -> Result:
    raise Failed("this agent knows no such module")


# ---------------------------------------------------------------------------- the two smallest modules
def command(args: Args, host: Host) -> Result:
    """Ansible's `command`: nothing runs where the path of `creates` is there already. Without `creates` the
    task has said itself, by `changed_when`, whether it changes something; a check does not run it."""
    if args.get("creates") and host.exists(args["creates"]):
        return result([], "did not run: %s exists" % args["creates"])
    words = list(args.get("argv") or shlex.split(args.get("cmd", "")))
    if not words:
        raise Failed("neither `cmd` nor `argv` says what to run")
    if not host.check:
        host.do(*words)
    elif "creates" in args:
        host.makes(args["creates"])
    made = ("creates", "absent", args["creates"]) if "creates" in args else ("command", "", " ".join(words))
    did = "would run " if host.check else "ran "
    return result([made] if args.get("changed_when", True) else [], did + " ".join(words))


def fail(args: Args, host: Host) -> Result:
    raise Failed(args.get("msg", "Failed as requested from task"))


#: modules that change files alone, or nothing
FOLDER = ("copy", "fail", "file", "get_url", "uri", "wait_for")
MODULES: Dict[str, Callable[[Args, Host], Result]] = {
    "apt": apt,
    "command": command,
    "copy": copy,
    "fail": fail,
    "file": file,
    "get_url": get_url,
    "group": group,
    "systemd_service": systemd_service,
    "unarchive": unarchive,
    "uri": uri,
    "user": user,
    "wait_for": wait_for,
}
