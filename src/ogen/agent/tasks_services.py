"""The module `systemd_service`: what a unit is, and what it should be."""

from __future__ import annotations

from typing import Dict, List

from .tasks_host import Args, Change, Failed, Host, Result, last_lines, result

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
        return _missing(unit, args, host)
    changes: List[Change] = []
    _masked(unit, args, host, found, changes)
    _enabled(unit, args, host, found, changes)
    _state(unit, args, host, found, changes)
    return result(changes)


def _properties(unit: str, host: Host) -> Dict[str, str]:
    shown = host.ask("systemctl", "show", "-p", "LoadState,ActiveState,UnitFileState", "--", unit)
    if shown.code:
        raise Failed("systemctl show %s: %s" % (unit, last_lines(shown)))
    return dict(line.split("=", 1) for line in shown.text.splitlines() if "=" in line)


def _missing(unit: str, args: Args, host: Host) -> Result:
    """In check mode a package of an earlier step would have brought the unit, or the release."""
    if host.check and ("packages" in host.promised or "unit " + unit in host.promised):
        wanted = [
            (key, "to be installed", str(args[key])) for key in ("state", "enabled", "masked") if key in args
        ]
        return result(wanted)
    raise Failed("no unit is named %s" % unit)


def _masked(unit: str, args: Args, host: Host, found: Dict[str, str], changes: List[Change]) -> None:
    if "masked" not in args:
        return
    now = found.get("UnitFileState") in ("masked", "masked-runtime") or found.get("LoadState") == "masked"
    if now == args["masked"]:
        return
    changes.append(("masked", str(now).lower(), str(args["masked"]).lower()))
    if not host.check:
        host.do("systemctl", "mask" if args["masked"] else "unmask", "--", unit)
        found.update(_properties(unit, host))


def _enabled(unit: str, args: Args, host: Host, found: Dict[str, str], changes: List[Change]) -> None:
    now = found.get("UnitFileState", "")
    if "enabled" not in args or now in ("static", "generated", "indirect", "transient", "masked"):
        return  # those have nothing that could be switched
    if now.startswith("enabled") == args["enabled"]:
        return
    changes.append(("enabled", str(not args["enabled"]).lower(), str(args["enabled"]).lower()))
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
    changes.append(("state", now, wanted))
    verb = "start" if wanted == "reloaded" and not running else _VERBS[wanted]
    if not host.check:
        host.do("systemctl", verb, "--", unit)
