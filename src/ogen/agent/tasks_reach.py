"""The modules `uri` and `wait_for`: whether something answers, or is there. They change nothing, and a check
does not run them: what they look for may be what earlier steps would have made."""

from __future__ import annotations

import contextlib
import socket
from typing import Optional

from .tasks_host import Args, Failed, Host, Result, result

PAUSE = 1.0  # seconds between two looks, as in Ansible
PATIENCE = 5.0  # seconds for one connection
NEWS = 15.0  # seconds after which the controller hears that we still wait
_SKIPPED = "a check does not run it"


def uri(args: Args, host: Host) -> Result:
    """Ansible's `uri` for GET and HEAD: fails where the answer's status is another one."""
    import http.client
    import urllib.error
    import urllib.request

    if host.check:
        return result([], _SKIPPED)
    url, wanted = args["url"], args.get("status_code", [200])
    request = urllib.request.Request(url, method=args.get("method", "GET"))
    host.announce()
    try:
        with urllib.request.urlopen(request, timeout=args.get("timeout", 30)) as answer:
            status, length = answer.status, len(answer.read(1 << 20))
    except urllib.error.HTTPError as error:
        status, length = error.code, 0
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Failed("%s: %s" % (url, getattr(error, "reason", None) or error)) from None
    if status not in wanted:
        shown = ", ".join(map(str, wanted))
        raise Failed("%s answers with status %d, and should with %s" % (url, status, shown))
    return result([], "status %d, %d bytes" % (status, length))


def wait_for(args: Args, host: Host) -> Result:
    """Ansible's `wait_for` for a port or a path; fails after `timeout` seconds."""
    if ("port" in args) == ("path" in args):
        raise Failed("either `port` or `path` says what to wait for")
    if host.check:
        return result([], _SKIPPED)
    there = args.get("state", "started") in ("started", "present")
    what = args.get("path") or "%s:%d" % (args.get("host", "127.0.0.1"), args["port"])
    machine, limit = host.machine, float(args.get("timeout", 300))
    begun = told = machine.now()
    host.announce()
    while _is_there(args, host) != there:
        now = machine.now()
        if now - begun >= limit:
            state = "is not there" if there else "is still there"
            raise Failed(args.get("msg") or "%s %s after %d s" % (what, state, limit))
        if now - told >= NEWS:
            told = now
            host.progress(100.0 * (now - begun) / limit)
        machine.wait(PAUSE)
    return result([], "%s is %s" % (what, "there" if there else "gone"))


def _is_there(args: Args, host: Host) -> bool:
    path: Optional[str] = args.get("path")
    if path is not None:
        return host.exists(path)
    try:
        with contextlib.closing(
            socket.create_connection((args.get("host", "127.0.0.1"), args["port"]), PATIENCE)
        ):
            return True
    except OSError:
        return False
