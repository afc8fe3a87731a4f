"""What the queue's workers and its front share: how Redis is reached, and the scripts that change jobs."""

import json
import os
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
RANKS = {"high": 0, "normal": 1, "low": 2}
FINAL = ("done", "failed", "expired", "cancelled")
#: answered even where Redis has no memory left: else what was begun would not come to its end
_ALLOWED = "#!lua flags=allow-oom\n"
_REFUSED = "#!lua\n"
_NEEDS_MEMORY = ("submit", "take")  # take: a job that waits takes less than one with an answer


def scripts():
    """The parts of queue.lua by name, each with what all of them use."""
    found = {}
    for part in (HERE / "queue.lua").read_text().split("\n---- ")[1:]:
        name, _, text = part.partition("\n")
        found[name.strip()] = text
    common = found.pop("common")
    return {
        name: (_REFUSED if name in _NEEDS_MEMORY else _ALLOWED) + common + text
        for name, text in found.items()
    }


def config(path):
    return json.loads(Path(path).read_text())


def address(settings):
    """The URL of Redis and more arguments for its client; the password is in a file of systemd's."""
    secret = Path(os.environ["CREDENTIALS_DIRECTORY"], "redis").read_text().strip()
    more = {"ssl_ca_certs": settings["ca"]} if settings.get("ca") else {}
    if "host" not in settings:
        return secret, more  # a URL of the user's own
    scheme = "rediss" if settings.get("tls") else "redis"
    host = "[%s]" % settings["host"] if ":" in settings["host"] else settings["host"]
    login = "%s:%s" % (quote(settings["role"]), quote(secret, safe=""))
    return "%s://%s@%s:%d/0" % (scheme, login, host, settings["port"]), more


def prefix(queue, model):
    """Before the names of a pool's keys; the braces keep them together where Redis is a cluster."""
    return "ogen:{%s/%s}:" % (queue, model)
