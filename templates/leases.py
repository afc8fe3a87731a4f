#!/usr/bin/python3 -I
"""Keeps balancers away from instances that are leased out: ogen's drain, standard library only.

usage: leases.py adopt BALANCER     before its nginx starts or reloads (the unit calls it)
       leases.py serve              watches leases and probes; ogen-leases.service

A lease is a file LEASES/ID.json: {"servers": ["192.0.2.11:11434"], "until": SECONDS, "who": TEXT}, with
`until` on the monotonic clock. While it lasts, and after its end until the instance answers a probe,
each balancer of this machine has `down` at these servers. So a controller that is lost heals itself.
So it has at servers that probe.py calls bad, while it does so; but of the servers of a pool that are not
leased, one stays: probes alone take nobody's last server away.

nginx reads RUN/ogen-balancer-NAME/nginx.conf: the release's nginx.conf as it was when nginx last
started or was told to reload by an apply, with `down` added. This program alone adds it, and reloads
nginx at most once a second. STATE tells what is down, and which balancers have taken it.
"""

import concurrent.futures
import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

RELEASE = "/etc/ogen/current/balancers"
RUN = "/run"
KEYS = "/etc/ogen/keys"  # of each balancer NAME.conf: the keys of the last apply, which a rollback leaves
LEASES = RUN + "/ogen/leases"
STATE = RUN + "/ogen/leases.json"
PROBES = RUN + "/ogen/probes.json"  # what probe.py says
TICK = 0.1  # seconds between two looks at the leases
PACE = 1.0  # seconds between two reloads of nginx, and between two probes
FRESH = 60.0  # seconds that a round of probes counts
MEMORY = 600.0  # seconds that the end of a lease is told to probe.py
CHECK = 3.0  # seconds between two looks at what nginx really has down
SERVER = re.compile(r"^(\s*server\s+)(\S+:\d+)([^;\n]*);", re.MULTILINE)
ANSWER = 'return 200 "none\\n";'  # the release's answer to GET /down
GATES = 'ogen.start("none")'  # where a gate learns which servers' slots it can't count on


# ------------------------------------------------------------------------------- configurations
def marked(text, down):
    """A configuration in which the servers of `down` are down."""
    text = SERVER.sub(lambda m: m[1] + m[2] + m[3] + (" down" if m[2] in down else "") + ";", text)
    listed = sorted(set(down) & set(servers(text)))
    if listed:
        text = text.replace(ANSWER, 'return 200 "%s\\n";' % " ".join(listed))
        text = text.replace(GATES, 'ogen.start("%s")' % " ".join(listed))
    return text


def servers(text):
    """The servers of a configuration's upstreams."""
    return [m[2] for m in SERVER.finditer(text)]


def folder(name):
    return "%s/ogen-balancer-%s" % (RUN, name)


def write(path, data, mode=0o644):
    """Readers see the old file or the new one."""
    handle = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
    os.rename(path + ".new", path)


@contextlib.contextmanager
def alone(name):
    """One at a time writes a balancer's configuration: an apply, or a lease."""
    handle = os.open(folder(name) + "/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def adopt(name):
    """Takes the release in force over: its files, and its nginx.conf with what is down now."""
    source, target = "%s/%s" % (RELEASE, name), folder(name)
    with alone(name):
        for each in sorted(os.listdir(source)):
            path, held = source + "/" + each, "%s/%s.conf" % (KEYS, name)
            if each == "keys.conf" and os.path.exists(held):
                path = held
            mode = os.stat(path).st_mode & 0o777
            with open(path, "rb") as file:
                data = file.read()
            write("%s/%s" % (target, "release.conf" if each == "nginx.conf" else each), data, mode)
        derive(name, set(read(STATE).get("down") or ()))


def released(name):
    """The nginx.conf of the release that was adopted last."""
    with open(folder(name) + "/release.conf", encoding="utf-8") as file:
        return file.read()


def derive(name, down):
    """Writes the configuration that nginx reads."""
    write(folder(name) + "/nginx.conf", marked(released(name), down).encode())


def read(path):
    """A JSON object; {} where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


# ------------------------------------------------------------------------------------- the watch
def leased(now):
    """Servers under a lease that has not ended; files of ended ones are removed."""
    found = set()
    try:
        names = os.listdir(LEASES)
    except OSError:
        return found
    for name in names:
        if not name.endswith(".json"):
            continue
        lease = read("%s/%s" % (LEASES, name))
        if float(lease.get("until") or 0) > now:
            found |= set(map(str, lease.get("servers") or ()))
        else:
            remove("%s/%s" % (LEASES, name))
    return found


def remove(path):
    try:
        os.unlink(path)
    except OSError:
        pass


def balancers():
    """Members of each balancer that has started here, by its name; what is left of one that was taken out
    and has ended is removed."""
    found = {}
    for each in sorted(os.listdir(RUN)):
        name = each[len("ogen-balancer-") :]
        if not each.startswith("ogen-balancer-") or not os.path.isdir("%s/%s" % (RUN, each)):
            continue
        if not os.path.isdir("%s/%s" % (RELEASE, name)) and not running(name):
            shutil.rmtree("%s/%s" % (RUN, each), ignore_errors=True)
        else:
            members = read("%s/%s/members.json" % (RUN, each))
            if members:
                found[name] = members
    return found


def condemned(freed, now):
    """Servers that fail their probes, each with its entry; not by what was seen before a lease ended."""
    said = read(PROBES)
    if not 0 <= now - float(said.get("at") or 0) <= FRESH:
        return {}
    entries = {server: each for server, each in (said.get("servers") or {}).items() if each.get("bad")}
    return {s: each for s, each in entries.items() if float(each.get("began") or 0) > freed.get(s, 0.0)}


def pools(known):
    """The pools of all balancers: (balancer, name) → servers; one that lists no models is one pool."""
    found = {}
    for balancer, members in known.items():
        for server, models in members["servers"].items():
            for model in models or [""]:
                found.setdefault((balancer, model), set()).add(server)
    return found


def spared(bad, away, known):
    """Those of `bad` that stay, so that each pool has a server beside what is `away` by leases: where all
    of a pool fail, the one that began last."""
    taken, kept = set(away), set()
    groups = list(pools(known).values())
    for server in sorted(bad, key=lambda each: (float(bad[each].get("since") or 0), each)):
        mine = [group for group in groups if server in group]
        if all(group - taken - {server} for group in mine):
            taken.add(server)
        else:
            kept.add(server)
    return kept


def serves(server, models):
    """Whether an instance answers, and has all the models that balancers send to it."""
    host, _, port = server.rpartition(":")
    link = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=1.0)
    try:
        link.request("GET", "/api/tags", headers={"Host": "localhost:11434"})
        response = link.getresponse()
        listed = json.loads(response.read().decode("utf-8")).get("models") or []
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        return False
    finally:
        link.close()
    names = {str(each.get("name")) for each in listed if isinstance(each, dict)}
    return response.status == 200 and all(full(model) in names for model in models)


def full(name):
    return name if ":" in name.rpartition("/")[2] else name + ":latest"


def passed(servers_, known):
    """Those servers that no balancer lists any more, and those that serve again."""
    models = {}
    for members in known.values():
        for server, wanted in members["servers"].items():
            models.setdefault(server, set()).update(wanted)
    todo = sorted(servers_ & set(models))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        good = list(pool.map(lambda each: serves(each, models[each]), todo))
    return (servers_ - set(models)) | {server for server, fine in zip(todo, good) if fine}


def tell_nginx(name, unit, down):
    """Has nginx take `down`; True when it answers so, or does not run."""
    if not running(name):
        return True
    with alone(name):
        derive(name, down)
        wanted = listed(name, down)
    if answer(name) == wanted:
        return True
    subprocess.run(["systemctl", "kill", "-s", "HUP", "--kill-who=main", unit], check=False, timeout=30)
    end = time.monotonic() + 5
    while answer(name) != wanted:
        if time.monotonic() > end:
            print("balancer %s did not take: down %s" % (name, wanted), flush=True)
            return False
        time.sleep(0.05)
    return True


def listed(name, down):
    """What a balancer's nginx answers that has `down` in force."""
    return " ".join(sorted(down & set(servers(released(name))))) or "none"


def running(name):
    try:
        with open(folder(name) + "/nginx.pid", encoding="ascii") as file:
            os.kill(int(file.read()), 0)
    except (OSError, ValueError):
        return False
    return True


def answer(name):
    """What a running nginx says it has down."""
    link = http.client.HTTPConnection("localhost", timeout=1.0)
    try:
        link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.sock.settimeout(1.0)
        link.sock.connect(folder(name) + "/release.sock")
        link.request("GET", "/down")
        return link.getresponse().read().decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        link.close()


class Watch:
    """What is down now, and why: under a lease, coming back from one, or failing its probes."""

    def __init__(self):
        state = read(STATE)
        self.down = set(state.get("down") or ())
        self.leased = set(state.get("leased") or ())
        self.returning = self.down - self.leased - set(state.get("failing") or ())  # their lease has ended
        #: server → when its lease ended, or it served again after one
        self.freed = {server: float(at) for server, at in (state.get("freed") or {}).items()}
        self.failing = {}  # server → why probes alone keep it down
        self.kept = {}  # server → why it should be so, but its pool has nobody else
        self.taken = {}  # balancer → what it has down
        self.saved = {}
        self.reloaded = self.probed = self.checked = 0.0

    def step(self):
        """One look; True when something was changed."""
        now = time.monotonic()
        known = balancers()
        self.lease(known, now)
        self.judge(known, now)
        wanted = self.leased | self.returning | set(self.failing)
        if now - self.checked >= CHECK:
            self.checked = now
            self.check(known)
        late = [name for name in known if self.taken.get(name) != wanted]
        if wanted == self.down and not late:
            self.save()
            return False
        if late and now - self.reloaded < PACE:
            return False
        self.change(wanted, known, late)
        return True

    def lease(self, known, now):
        """What is leased, and what was until it serves again."""
        out = leased(now)
        ended = self.leased - out
        self.freed = {**self.freed, **dict.fromkeys(ended, now)}
        self.leased, self.returning = out, (self.returning | ended) - out
        if self.returning and now - self.probed >= PACE:
            self.probed = now
            back = passed(self.returning, known)
            self.freed = {**self.freed, **dict.fromkeys(back, now)}
            self.returning -= back

    def judge(self, known, now):
        """What probes alone keep down, and whom they have to leave."""
        self.freed = {server: at for server, at in self.freed.items() if now - at < MEMORY}
        listed_ = {server for members in known.values() for server in members["servers"]}
        bad = condemned(self.freed, now)
        away = self.leased | self.returning
        bad = {server: each for server, each in bad.items() if server in listed_ - away}
        stay = spared(bad, away, known)
        why = {server: str(each.get("why") or "") for server, each in bad.items()}
        kept = {server: why[server] for server in stay}
        for server in sorted(set(kept) - set(self.kept)):
            print("the last of its pool, stays up: %s (%s)" % (server, why[server]), flush=True)
        self.kept = kept
        self.failing = {server: text for server, text in why.items() if server not in stay}

    def change(self, wanted, known, late):
        for word, which in (("down", wanted - self.down), ("up", self.down - wanted)):
            if which:
                told = [s + (" (%s)" % self.failing[s] if s in self.failing else "") for s in sorted(which)]
                print("%s: %s" % (word, ", ".join(told)), flush=True)
        self.down = wanted
        self.save()  # a balancer that starts meanwhile reads it
        self.reloaded = time.monotonic()
        for name in late:
            if tell_nginx(name, known[name]["unit"], wanted):
                self.taken[name] = set(wanted)
        self.save()

    def check(self, known):
        """An nginx that was just starting may have come up with what was down before: it is told again."""
        for name in set(known) & set(self.taken):
            said = answer(name) if running(name) else ""
            if said and said != listed(name, self.taken[name]):
                print("balancer %s has down: %s" % (name, said), flush=True)
                del self.taken[name]

    def save(self):
        """For balancers that start, for probe.py, and for who looks; `down` is the three below together."""
        state = {
            "down": sorted(self.down),
            "leased": sorted(self.leased),
            "returning": sorted(self.returning),
            "failing": self.failing,
            "kept": self.kept,
            "freed": self.freed,
            "taken": {name: sorted(down) for name, down in self.taken.items()},
        }
        if state != self.saved:
            write(STATE, json.dumps(state, sort_keys=True).encode())
            self.saved = state


def serve():
    os.makedirs(LEASES, mode=0o755, exist_ok=True)
    watch = Watch()
    while True:
        try:
            watch.step()
        except Exception as error:  # it must not end: without it no lease does
            print("leases: %r" % error, flush=True)
            time.sleep(PACE)
        time.sleep(TICK)


def main(words):
    if words[:1] == ["adopt"] and len(words) == 2 and re.match(r"[A-Za-z0-9._-]+\Z", words[1]):
        adopt(words[1])
        return 0
    if words == ["serve"]:
        serve()
    sys.stderr.write(__doc__.split("\n\n")[1] + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
