"""A bare host gets its python by plain sh, over the same kind of connection and the same way to root."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from ..errors import RemoteError
from ..inventory.model import Host
from . import become
from .contact import running
from .results import Options

PATIENCE = 1200.0  # seconds for apt-get: a slow mirror
#: apt goes on when the connection is lost: a package half installed is worse than a late end
SCRIPT = """\
trap '' HUP
echo "ogen $1 have"
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
command -v apt-get >/dev/null || { echo "there is no apt-get to install it with"; exit 3; }
install() { apt-get -y -o DPkg::Lock::Timeout=120 install --no-install-recommends python3 2>&1; }
apt-get -o DPkg::Lock::Timeout=120 update 2>&1 || exit 4
install || { dpkg --configure -a --force-confold 2>&1 && install; }
"""


def install_python(host: Host, options: Options) -> None:
    """Installs python3; RemoteError with apt's own last lines if that fails."""
    nonce = secrets.token_hex(8)
    command = ("sh", "-c", SCRIPT, "sh", nonce)
    begun = become.program(host, command, nonce, options.keyring)
    with running(host, begun, options) as pipe:
        become.greet(pipe, begun, host)
        end = time.monotonic() + PATIENCE
        while not pipe.ended:
            pipe.pump(end, "end of apt-get")
        code = pipe.status()
        if code:
            log = [line for line in pipe.out.decode("utf-8", "replace").splitlines() if line.strip()][-20:]
            raise _failed(host, code, log)


def _failed(host: Host, code: int, log: Sequence[str]) -> RemoteError:
    hint = "install python3 on the host by hand, then run this again"
    why = log[-1] if log else f"exit {code}"
    if any("Failed to fetch" in line for line in log):
        why = "no package mirror answers"
        hint = (
            "install python3 on the host from a medium, or name a mirror that it reaches in its sources.list;"
            " then run this again"
        )
    return RemoteError(f"python3 can't be installed: {why}", host=host.name, log=log, hint=hint)
