#!/usr/bin/python3 -I
"""Keeps balancers away from instances that are leased out: ogen's drain, standard library only.

usage: leases.py adopt BALANCER     before its nginx starts or reloads (the unit calls it)
       leases.py serve              watches leases and probes; ogen-leases.service

A lease is a file LEASES/ID.json: {"servers": ["192.0.2.11:11434"], "until": SECONDS, "who": TEXT}, with
`until` on the monotonic clock. While it lasts, and after its end until the instance answers a probe,
each balancer of this machine has `down` at these servers. So a controller that is lost heals itself.

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
import socket
import subprocess
import sys
import time

RELEASE = "/etc/ogen/current/balancers"
RUN = "/run"
LEASES = RUN + "/ogen/leases"
STATE = RUN + "/ogen/leases.json"
TICK = 0.1  # seconds between two looks at the leases
PACE = 1.0  # seconds between two reloads of nginx, and between two probes
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
            mode = os.stat(source + "/" + each).st_mode & 0o777
            with open(source + "/" + each, "rb") as file:
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
    """Members of each balancer that has started here, by its name."""
    found = {}
    for name in sorted(os.listdir(RUN)):
        if name.startswith("ogen-balancer-"):
            members = read("%s/%s/members.json" % (RUN, name))
            if members:
                found[name[len("ogen-balancer-") :]] = members
    return found


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
    """What is down now, and why: under a lease, or coming back."""

    def __init__(self):
        self.down = set(read(STATE).get("down") or ())
        self.returning = set()  # those of them whose lease has ended
        self.taken = {}  # balancer → what it has down
        self.reloaded = self.probed = self.checked = 0.0

    def step(self):
        """One look; True when something was changed."""
        now = time.monotonic()
        out = leased(now)
        back = self.down - out
        known = balancers()
        if back and now - self.probed >= PACE:
            self.probed = now
            back -= passed(back, known)
        wanted = out | back
        if now - self.checked >= CHECK:
            self.checked = now
            self.check(known)
        late = [name for name in known if self.taken.get(name) != wanted]
        if wanted == self.down and not late:
            if back != self.returning:
                self.save(back)
            return False
        if late and now - self.reloaded < PACE:
            return False
        self.change(wanted, back, known, late)
        return True

    def change(self, wanted, back, known, late):
        for word, which in (("down", wanted - self.down), ("up", self.down - wanted)):
            if which:
                print("%s: %s" % (word, ", ".join(sorted(which))), flush=True)
        self.down = wanted
        self.save(back)  # a balancer that starts meanwhile reads it
        self.reloaded = time.monotonic()
        for name in late:
            if tell_nginx(name, known[name]["unit"], wanted):
                self.taken[name] = set(wanted)
        self.save(back)

    def check(self, known):
        """An nginx that was just starting may have come up with what was down before: it is told again."""
        for name in set(known) & set(self.taken):
            said = answer(name) if running(name) else ""
            if said and said != listed(name, self.taken[name]):
                print("balancer %s has down: %s" % (name, said), flush=True)
                del self.taken[name]

    def save(self, back):
        self.returning = back
        state = {
            "down": sorted(self.down),
            "returning": sorted(back),
            "taken": {name: sorted(down) for name, down in self.taken.items()},
        }
        write(STATE, json.dumps(state, sort_keys=True).encode())


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
