#!/usr/bin/python3 -I
"""Probes the instances that this machine's balancers send to: ogen's prober, standard library only.

usage: probe.py      one round; ogen-probe.timer starts one every few seconds

Each server of RUN/ogen-balancer-*/members.json is asked for /api/version and /api/ps, and for a load of
what is loaded anyway (an empty prompt): none of it waits behind generations, so a busy instance is a
good one. A bad round is one in which it refuses, hangs, answers with an error, has lost a model that
stays in memory, or has a model on the CPU that the plan puts on a card. After BAD such rounds in a row
PROBES calls it bad, after GOOD good ones good again. A round that tells neither changes nothing.

leases.py acts on it. What is under a lease is forgotten, and so is what was seen before a lease ended:
it was restarted meanwhile, maybe, and is judged anew.
"""

import http.client
import json
import os
import sys
import threading
import time

RELEASE = "/etc/ogen/current/balancers"
RUN = "/run"
PROBES = RUN + "/ogen/probes.json"
STATE = RUN + "/ogen/leases.json"  # what leases.py says
BAD = 3  # bad rounds in a row until a server counts as bad
GOOD = 2  # good ones until it counts as good again
WAIT = 3.0  # seconds for one answer
ROUND = 15.0  # seconds for all answers of a server
FRESH = 60.0  # seconds after which a round is no longer one of a row
ENOUGH = 0.9  # of a model's memory must be on cards where the plan has all of it there
LARGEST = 4 << 20  # bytes of an answer


class Bad(Exception):
    """What is wrong with a server."""


class Unknown(Exception):
    """It may be well: what was asked tells nothing."""


# --------------------------------------------------------------------------------- one instance
def ask(server, path, body=None):
    """Status and JSON object of an answer; OSError or HTTPException without one."""
    host, _, port = server.rpartition(":")
    link = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=WAIT)
    try:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Host": "localhost:11434", "Content-Type": "application/json"}
        link.request("GET" if body is None else "POST", path, data, headers)
        response = link.getresponse()
        try:
            said = json.loads(response.read(LARGEST).decode("utf-8", "replace") or "{}")
        except ValueError:
            said = {}
        return response.status, said if isinstance(said, dict) else {}
    finally:
        link.close()


def get(server, path):
    """The object that a healthy instance answers at once, whatever else it does."""
    try:
        status, said = ask(server, path)
    except (OSError, http.client.HTTPException) as error:
        raise Bad("%s: %s" % (path, reason(error))) from None
    if status != 200:
        raise Bad("%s: HTTP %d %s" % (path, status, str(said.get("error") or "")[:200]))
    return said


def reason(error):
    return "no answer in %g s" % WAIT if "timed out" in str(error) else str(error) or type(error).__name__


def probe(server, models):
    """Raises Bad or Unknown."""
    end = time.monotonic() + ROUND / 2
    get(server, "/api/version")
    running = objects(get(server, "/api/ps").get("models"))
    pairs = [(model, loaded(server, model["name"], running)) for model in models]
    pairs = [(model, seen) for model, seen in pairs if seen is None or planned(model, seen)]
    try:
        for model, seen in pairs:
            if model["resident"] and seen:
                touch(server, model, end)
    finally:  # after it: Ollama loads anew, as planned, what a client's options had on the CPU
        for model, seen in pairs:
            judge(model, seen)


def planned(model, seen):
    """Whether it was loaded as planned: not so by a client's options, or a release before or after this."""
    return seen.get("context_length") in (model["context"], *model.get("rungs", ()), 0, None)


def objects(value):
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def loaded(server, name, running):
    """The entry of /api/ps for a model; it may be there under an alias, which has the same digest."""
    name = name if ":" in name.rpartition("/")[2] else name + ":latest"
    digest = None
    for entry in running:
        if entry.get("name") == name:
            return entry
    if running:
        tags = objects(get(server, "/api/tags").get("models"))
        digest = next((each.get("digest") for each in tags if each.get("name") == name), None)
    return next((each for each in running if digest and each.get("digest") == digest), None)


def judge(model, seen):
    """Whether a model is where the plan has it."""
    if seen is None:
        if model["stays"]:
            raise Bad("%s is not loaded" % model["name"])
        return
    size, vram = int(seen.get("size") or 0), int(seen.get("size_vram") or 0)
    least = {"full": ENOUGH * size, "partial": 1}.get(model["verdict"], 0)
    if size and vram < least:
        part = 100.0 * vram / size
        raise Bad("%s has fallen back to the CPU: %.0f %% of it is on the card" % (model["name"], part))


def touch(server, model, end):
    """Has a loaded model loaded: nothing is generated, and a runner that is broken shows."""
    if time.monotonic() > end:
        raise Unknown(model["name"])
    keep = model["keep_alive"]
    body = {"model": model["name"], "keep_alive": int(keep) if keep.lstrip("-").isdigit() else keep}
    path = "/api/embed" if model["embedding"] else "/api/generate"
    body.update({"input": "ogen"} if model["embedding"] else {"stream": False})
    try:
        status, said = ask(server, path, body)
    except (OSError, http.client.HTTPException) as error:
        if "timed out" in str(error):  # it waits for a load, or behind other embeddings
            raise Unknown(model["name"]) from None
        raise Bad("%s: %s" % (model["name"], reason(error))) from None
    if status == 404 or (status >= 500 and status != 503):  # 503: its queue is full
        raise Bad("%s: HTTP %d %s" % (model["name"], status, str(said.get("error") or "")[:200]))
    if status != 200:
        raise Unknown(model["name"])


# ------------------------------------------------------------------------------------- a round
def servers():
    """Models by server, of all balancers that have started here."""
    found = {}
    for name in sorted(os.listdir(RUN)):
        if name.startswith("ogen-balancer-") and there(name):
            members = read("%s/%s/members.json" % (RUN, name)).get("probes") or {}
            for server, models in members.items():
                known = found.setdefault(server, {})
                known.update({model["name"]: model for model in models})
    return {server: list(models.values()) for server, models in found.items()}


def there(folder):
    """Whether a balancer is of the release in force, or still runs: a folder may stay behind."""
    if os.path.isdir("%s/%s" % (RELEASE, folder[len("ogen-balancer-") :])):
        return True
    try:
        with open("%s/%s/nginx.pid" % (RUN, folder), encoding="ascii") as file:
            os.kill(int(file.read()), 0)
    except (OSError, ValueError):
        return False
    return True


def seen(wanted):
    """What each server shows: None for a good one, text for a bad one; without those that tell nothing.

    A thread for each, which nobody waits for beyond the round."""
    found = {}

    def one(server, models):
        try:
            probe(server, models)
            found[server] = None
        except Bad as error:
            found[server] = " ".join(str(error).split())
        except Unknown:
            found[server] = Unknown
        except Exception as error:  # an answer of a form that nobody has thought of
            found[server] = "its answers can't be read: %r" % error

    threads = [threading.Thread(target=one, args=each, daemon=True) for each in wanted.items()]
    end = time.monotonic() + ROUND
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    told = {server: found.get(server, "no answer in %g s" % ROUND) for server in wanted}
    return {server: why for server, why in told.items() if why is not Unknown}


def after(old, why, now):
    """A server's entry after a round; `old` is {} for one that is new.

    began: the first bad round of the row that made it bad, or is about to; since: when it became so.
    """
    bad = bool(old.get("bad"))
    if why is not None:
        entry = dict(old, passed=0, failed=old.get("failed", 0) + 1, why=why)
        entry["bad"] = bad or entry["failed"] >= BAD
        if entry["failed"] == 1 and not bad:
            entry["began"] = now
    else:
        entry = dict(old, passed=old.get("passed", 0) + 1, failed=0)
        if not bad or entry["passed"] >= GOOD:
            entry = {"bad": False, "passed": entry["passed"], "failed": 0, "since": old.get("since")}
    if entry["bad"] != bad or entry.get("since") is None:
        entry["since"] = now
    return entry


def forgotten(entry, server, state):
    """Whether what was seen of a server counts no longer: it was leased since."""
    freed = float((state.get("freed") or {}).get(server) or 0)
    return "began" in entry and float(entry["began"]) <= freed


def turn(now=time.monotonic):
    """One round; returns what changed, in words."""
    wanted, last = servers(), read(PROBES)
    old = (last.get("servers") or {}) if now() - float(last.get("at") or 0) <= FRESH else {}
    told, state = seen(wanted), read(STATE)
    entries, changes = {}, []
    for server in sorted(wanted):
        before = old.get(server) or {}
        if server in (state.get("leased") or ()):
            continue
        if forgotten(before, server, state):
            before = {}
        entries[server] = entry = after(before, told[server], now()) if server in told else before
        if bool(entry.get("bad")) != bool((old.get(server) or {}).get("bad")):
            changes.append("%s is %s" % (server, "bad: " + entry["why"] if entry["bad"] else "good again"))
    write(PROBES, json.dumps({"at": now(), "servers": entries}, sort_keys=True).encode())
    return changes


def read(path):
    """A JSON object; {} where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write(path, data):
    """Readers see the old file or the new one."""
    handle = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    try:
        for line in turn():
            print("<5>" + line, flush=True)
    except Exception as error:  # below a notice nothing of this unit reaches the journal
        sys.exit("<3>no round of probes: %r" % error)
