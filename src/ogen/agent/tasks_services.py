"""The module `systemd_service`: what a unit is, and what it should be."""

from __future__ import annotations

import glob
import os
from typing import Dict, List

from .tasks_host import Args, Change, Failed, Host, Result, last_lines, result

_FOLDERS = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
_NOT_FOUND = {"LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": ""}
_RUNNING = ("active", "activating", "reloading", "deactivating")
_VERBS = {"started": "start", "stopped": "stop", "restarted": "restart", "reloaded": "reload"}


def systemd_service(args: Args, host: Host) -> Result:
    """Ansible's `systemd_service`; like there, daemon_reload alone is no change."""
    if args.get("daemon_reload") and not host.check:
        host.do("systemctl", "daemon-reload")
    if "name" not in args:
        return result([])
    unit = args["name"] if "." in args["name"] else args["name"] + ".service"
    found = _properties(unit, host)
    if found.get("LoadState") == "not-found" and not args.get("masked"):
        raise Failed("no unit is named %s" % unit)
    changes: List[Change] = []
    _masked(unit, args, host, found, changes)
    _enabled(unit, args, host, found, changes)
    _state(unit, args, host, found, changes)
    if host.check and changes:
        host.promised["unit " + unit] = found
    return result(changes)


def _properties(unit: str, host: Host) -> Dict[str, str]:
    if "unit " + unit in host.promised:
        return dict(host.promised["unit " + unit] or _NOT_FOUND)
    shown = host.ask("systemctl", "show", "-p", "LoadState,ActiveState,UnitFileState", "--", unit)
    if shown.code:
        raise Failed("systemctl show %s: %s" % (unit, last_lines(shown)))
    found = dict(line.split("=", 1) for line in shown.text.splitlines() if "=" in line)
    if found.get("LoadState") == "not-found" and "started" in host.promised:
        return host.packaged(unit)
    return found


def _masked(unit: str, args: Args, host: Host, found: Dict[str, str], changes: List[Change]) -> None:
    if "masked" not in args:
        return
    now = found.get("UnitFileState") in ("masked", "masked-runtime") or found.get("LoadState") == "masked"
    if now == args["masked"]:
        return
    own = host.real("%s/%s" % (_FOLDERS[0], unit))
    if args["masked"] and os.path.isfile(own) and not os.path.islink(own):
        raise Failed("%s/%s is a file, and where a mask would be" % (_FOLDERS[0], unit))
    changes.append(("masked", str(now).lower(), str(args["masked"]).lower()))
    if host.check:
        found.update(_NOT_FOUND if found.get("LoadState") == "not-found" else {})
        found["UnitFileState"] = "masked" if args["masked"] else _beneath(unit, host)
        found["LoadState"] = "masked" if args["masked"] else "loaded"
    else:
        host.do("systemctl", "mask" if args["masked"] else "unmask", "--", unit)
        found.update(_properties(unit, host))


def _beneath(unit: str, host: Host) -> str:
    """What a masked unit is when the mask is taken away."""
    texts = [host.real("%s/%s" % (folder, unit)) for folder in _FOLDERS]
    for path in (path for path in texts if os.path.isfile(path)):
        with open(path, encoding="utf-8", errors="replace") as reader:
            if "[Install]" not in reader.read():
                return "static"
    links = glob.glob(host.real("/etc/systemd/system/*.*/") + glob.escape(unit))
    return "enabled" if links else "disabled"


def _enabled(unit: str, args: Args, host: Host, found: Dict[str, str], changes: List[Change]) -> None:
    now = found.get("UnitFileState", "")
    if "enabled" not in args or now in ("static", "generated", "indirect", "transient", "masked"):
        return  # those have nothing that could be switched
    if now.startswith("enabled") == args["enabled"]:
        return
    changes.append(("enabled", str(not args["enabled"]).lower(), str(args["enabled"]).lower()))
    found["UnitFileState"] = "enabled" if args["enabled"] else "disabled"
    if not host.check:
        host.do("systemctl", "enable" if args["enabled"] else "disable", "--", unit)


def _state(unit: str, args: Args, host: Host, found: Dict[str, str], changes: List[Change]) -> None:
    wanted = args.get("state")
    if wanted is None:
        return
    now = found.get("ActiveState", "inactive")
    running = now in _RUNNING
    if (wanted == "started" and running) or (wanted == "stopped" and not running):
        return
    if wanted != "stopped" and found.get("LoadState") == "masked":
        raise Failed("%s is masked, and can't be %s" % (unit, wanted))
    changes.append(("state", now, wanted))
    found["ActiveState"] = "inactive" if wanted == "stopped" else "active"
    verb = "start" if wanted == "reloaded" and not running else _VERBS[wanted]
    if not host.check:
        host.do("systemctl", verb, "--", unit)
