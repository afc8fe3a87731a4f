#!/usr/bin/python3 -I
"""Chooses among an instance's configurations by the memory that is free: ogen's autofit, standard library
only.

usage: autofit.py adopt INSTANCE     before the instance starts (its unit calls it)
       autofit.py serve              looks at the cards again and again; ogen-autofit.service

The release brings each instance's rungs, best first: INSTANCES/NAME/rungs.json says what each needs on
each card, where its models' manifests lie, and which of the server's variables are others than planned.
This program alone decides which one is in force. It reads what is free on the cards (NVML, for AMD sysfs)
and what the instance holds itself, and takes the first rung that fits:
  * down as soon as the rung in force has not fitted at two looks one after the other;
  * up when a better one has fitted, with a margin, for the whole hold time, and not too often an hour.
Nothing is switched while a request is in flight, or while an apply holds the host. Where this host's own
balancers list the instance, and have another one to send to, they are kept away from it meanwhile; else it
waits for a moment without a request. A rung that differs in its manifests alone needs no restart; for
another one the instance is restarted, but never the last one that such a balancer has.

OWN/NAME holds what was chosen: chosen.json (for people, `ogen status` and preload.py), env, manifests/.
"""

import collections
import contextlib
import ctypes
import fcntl
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

INSTANCES = "/etc/ogen/current/instances"
CONFIG = "/etc/ogen/current/autofit.json"
OWN = "/var/lib/ogen/autofit"
LOCKS = ("/etc/ogen/lock", "/etc/ogen/tx.lock")
JOURNAL = "/etc/ogen/journal"  # of the transactions: its last record tells whether one is unfinished
LEASES = "/run/ogen/leases"
STATE = "/run/ogen/leases.json"
RUN = "/run"
DRM = "/sys/class/drm"
CGROUPS = ("/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice")
CONTEXT = 457 << 20  # bytes of a process on a card beyond what its models need; Ollama's own figure
HOUR = 3600.0
IN_FLIGHT = "a request is in flight"
DRAIN = 60.0  # seconds that balancers are kept away, for an instance to end what it has begun
REST = 300.0  # seconds until they are kept away again, where it did not
QUIET = 5  # looks in a row, a fifth of a second apart, without a request
SPOKEN = 1000  # milliseconds after which a connection that the instance spoke on last is an idle one
SPOKEN_LONG = 5000  # and before a restart, which would cut a stream that pauses
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


# ------------------------------------------------------------------------------------ the decision
#: every: seconds between looks; hold, margin, per_hour: see the inventory's `autofit`
Rules = collections.namedtuple("Rules", "every hold margin per_hour")
#: at: the rung in force; short: since when it does not fit; better: since when a rung above does, and the
#: worst such rung since then; switches: their times
Mind = collections.namedtuple("Mind", "at short better best switches")
#: to: a rung, or None; why: in words, "" where there is nothing to say
Decision = collections.namedtuple("Decision", "to why")


def mind(at, switches=()):
    return Mind(at, None, None, None, tuple(switches))


def fits(need, room, margin=0):
    """Whether a rung's bytes are there on each card."""
    return all(bytes_ + margin <= free for bytes_, free in zip(need, room))


def first(needs, room, margin=0):
    """The first rung that fits; None where none does."""
    return next((rung for rung, need in enumerate(needs) if fits(need, room, margin)), None)


def decide(needs, rules, known, now, room):
    """One look: what is known now, and the decision. `needs`: of each rung, best first, bytes on each card;
    `room`: bytes on each card that are free or the instance's own, None where the cards don't tell."""
    known = known._replace(switches=tuple(t for t in known.switches if now - t < HOUR))
    if room is None:
        return known._replace(short=None, better=None, best=None), Decision(None, "the cards do not tell")
    fit = first(needs, room)
    if fit is None:
        lacking = sum(max(0, n - r) for n, r in zip(needs[-1], room))
        known = known._replace(short=None, better=None, best=None)
        return known, Decision(None, "no rung fits: %s are missing for the lowest" % shown(lacking))
    if not fits(needs[known.at], room):
        return _short(rules, known, now, fit)
    return _better(needs, rules, known._replace(short=None), now, room)


def _short(rules, known, now, fit):
    """The rung in force does not fit: the first one that does, at the second look."""
    since = now if known.short is None else known.short
    known = known._replace(short=since, better=None, best=None)
    if now - since < rules.every:
        return known, Decision(None, "")
    return known, Decision(fit, "it does not fit any more")


def _better(needs, rules, known, now, room):
    """The rung in force fits: is there a better one that has done so, with a margin, for long enough?"""
    up = first(needs, room, rules.margin)
    if up is None or up >= known.at:
        return known._replace(better=None, best=None), Decision(None, "")
    if known.better is None:
        known = known._replace(better=now, best=up)
    known = known._replace(best=max(known.best, up))
    last = known.switches[-1] if known.switches else now - rules.hold
    if now - max(known.better, last) < rules.hold:
        return known, Decision(None, "")
    if len(known.switches) >= rules.per_hour:
        return known, Decision(
            None, "a better rung fits, but there were %d switches in the last hour" % rules.per_hour
        )
    return known, Decision(known.best, "memory has come back for %d s" % rules.hold)


def switched(known, to, now):
    """What is known after a switch."""
    return mind(to, (*known.switches, now))


def shown(size):
    return "%.1f GiB" % (size / 2.0**30) if size >= 2**30 // 10 else "%d MiB" % (size >> 20)


# ------------------------------------------------------------------------------------------- cards
class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("instance", ctypes.c_uint),
        ("compute", ctypes.c_uint),
    ]


class NoFigures(Exception):
    """The driver, or a card, does not tell."""


class Nvml:
    """The driver's own library; opened anew for each look, so that a driver may be replaced."""

    def __enter__(self):
        try:
            self.lib = ctypes.CDLL("libnvidia-ml.so.1")
            self.call("nvmlInit_v2")
        except (OSError, AttributeError) as error:
            raise NoFigures(str(error)) from None
        return self

    def __exit__(self, *_):
        self.lib.nvmlShutdown()

    def call(self, name, *args, may=()):
        code = getattr(self.lib, name)(*args)
        if code and code not in may:
            raise NoFigures("%s: error %d" % (name, code))
        return code

    def device(self, gpu):
        """A handle by UUID, or by index."""
        device = ctypes.c_void_p()
        if gpu.isdigit():
            self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(gpu)), ctypes.byref(device))
        else:
            self.call("nvmlDeviceGetHandleByUUID", gpu.encode(), ctypes.byref(device))
        return device

    def memory(self, device):
        """(total, used) bytes."""
        memory = Memory()
        self.call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        return memory.total, memory.used

    def held(self, device, pids):
        """Bytes that these processes hold; None where the driver does not tell."""
        count = ctypes.c_uint(64)
        for _ in range(4):
            rows = (Process * count.value)()
            try:
                name = "nvmlDeviceGetComputeRunningProcesses_v3"
                code = self.call(name, device, ctypes.byref(count), rows, may=(7,))
            except (NoFigures, AttributeError):
                return None
            if code == 0:
                own = [row.used for row in rows[: count.value] if row.pid in pids]
                return sum(own) if own and all(used < 1 << 60 for used in own) else None
            count = ctypes.c_uint(count.value * 2)
        return None


class Amd:
    """Cards of the kernel's driver amdgpu, from sysfs; numbered by PCI address, as ROCm does."""

    def __enter__(self):
        try:
            names = [name for name in os.listdir(DRM) if name[:4] == "card" and name[4:].isdigit()]
        except OSError as error:
            raise NoFigures(str(error)) from None
        folders = {os.path.realpath("%s/%s/device" % (DRM, name)) for name in names}
        self.cards = sorted(one for one in folders if self.is_amd(one))
        return self

    def __exit__(self, *_):
        pass

    def is_amd(self, folder):
        return first_line(folder + "/vendor") == "0x1002" and os.path.exists(folder + "/mem_info_vram_total")

    def device(self, gpu):
        """A card's folder by UUID, or by index."""
        if gpu.isdigit() and int(gpu) < len(self.cards):
            return self.cards[int(gpu)]
        for folder in self.cards:
            if ("GPU-" + first_line(folder + "/unique_id")).lower() == gpu.lower():
                return folder
        raise NoFigures("no card " + gpu)

    def memory(self, folder):
        """(total, used) bytes."""
        total, used = (first_line("%s/mem_info_vram_%s" % (folder, name)) for name in ("total", "used"))
        if not (total.isdigit() and used.isdigit()):
            raise NoFigures("%s gives no figures" % folder)
        return int(total), int(used)

    def held(self, folder, pids):
        """Not told by process: the instance's own account counts."""
        return


def first_line(path):
    """Of a small file; "" where there is none."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline(256).strip()
    except OSError:
        return ""


def pids_of(unit):
    """The processes of a unit, by its control group."""
    for folder in CGROUPS:
        try:
            with open("%s/%s/cgroup.procs" % (folder, unit), encoding="ascii") as file:
                return {int(line) for line in file}
        except (OSError, ValueError):
            continue
    return set()


def room_of(ladder, need, running):
    """Bytes on each card of an instance that are free or its own, less what is reserved for others and not
    taken by them; None where the cards don't tell. `need`: of the rung in force, to divide what /api/ps
    tells."""
    pids = pids_of(ladder["unit"])
    try:
        with Amd() if ladder.get("vendor") == "amd" else Nvml() as driver:
            devices = [driver.device(card["gpu"]) for card in ladder["cards"]]
            memory = [driver.memory(device) for device in devices]
            held = [driver.held(device, pids) for device in devices]
    except NoFigures:
        return None
    if None in held:
        held = divided(loaded_bytes(running), need)
    return [
        total - max(card["reserve"], used - min(own, used))
        for card, (total, used), own in zip(ladder["cards"], memory, held)
    ]


def loaded_bytes(running):
    """What an instance's loaded models hold on its cards, by its own account."""
    sizes = [int(model.get("size_vram") or 0) for model in running]
    return sum(size + CONTEXT for size in sizes if size > 0)


def divided(total, need):
    """`total` over cards in the proportion of `need`."""
    whole = sum(need) or 1
    return [total * part // whole for part in need]


# ---------------------------------------------------------------------------------------- instance
def ask(ladder, path, body=None, timeout=10):
    """The JSON that an instance answers; OSError or ValueError when it does not."""
    data = None if body is None else json.dumps(body).encode()
    url = "http://127.0.0.1:%d%s" % (ladder["port"], path)
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with OPENER.open(request, timeout=timeout) as reply:
        found = json.loads(reply.read(4 << 20).decode("utf-8", "replace") or "{}")
    return found if isinstance(found, dict) else {}


def running(ladder):
    """The models in memory as /api/ps tells them; OSError or ValueError without an answer."""
    models = ask(ladder, "/api/ps").get("models")
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []


def unload(ladder):
    """Every model leaves, before its manifest changes; Ollama ends what it has begun first."""
    for model in running(ladder):
        ask(ladder, "/api/generate", {"model": model.get("name"), "keep_alive": 0, "stream": False}, 60)
    return until(lambda: not running(ladder), 30.0)


def until(true, seconds, pause=0.2):
    end = time.monotonic() + seconds
    while True:
        try:
            if true():
                return True
        except (OSError, ValueError):
            pass
        if time.monotonic() >= end:
            return False
        time.sleep(pause)


def quiet(port, seconds, spoken):
    """Whether no request was in flight for a second, within `seconds`."""
    end, looks = time.monotonic() + seconds, 0
    while looks < QUIET:
        looks = 0 if in_flight(port, spoken) else looks + 1
        if time.monotonic() >= end:
            return False
        time.sleep(0.2)
    return True


def still_busy(port, seconds, spoken):
    """Why it has to wait; "" when no request was in flight for a second."""
    return "" if quiet(port, seconds, spoken) else IN_FLIGHT


def in_flight(port, spoken):
    """Connections to a port on which a request may be under way.

    A balancer keeps connections open between requests: one on which the instance spoke last, and that
    `spoken` milliseconds ago, is such a one. Without `spoken`, and where `ss` does not tell who spoke, every
    connection counts.
    """
    sockets = told_by_ss(port) if spoken else None
    if sockets is None:
        return established(port)
    return sum(not idle(socket, spoken) for socket in sockets)


def told_by_ss(port):
    """What `ss` says of each established connection to a port; None where it says nothing."""
    command = ["ss", "-Htni", "state", "established", "sport", "=", ":%d" % port]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode:
        return None
    found = []
    for line in done.stdout.decode("ascii", "replace").splitlines():
        if line[:1].isspace() and found:
            found[-1] += line
        else:
            found.append(line)
    return found


def idle(socket, spoken):
    """Whether a connection is one between requests: milliseconds since each side spoke, left out for 0."""
    found = {word: int(value) for word, value in re.findall(r"\blast(snd|rcv):(\d+)", socket)}
    sent, heard = found.get("snd", 0), found.get("rcv", 0)
    return sent >= spoken and heard >= sent


def established(port):
    found = 0
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        found += sum(row[3] == "01" and int(row[1].rpartition(":")[2], 16) == port for row in rows)
    return found


def systemctl(*args, timeout=180):
    try:
        done = subprocess.run(["systemctl", *args], stdout=subprocess.DEVNULL, timeout=timeout, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


# ------------------------------------------------------------------------------------------- files
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
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    os.rename(path + ".new", path)


def ladder_of(name):
    return read("%s/%s/rungs.json" % (INSTANCES, name))


def chosen(name):
    return read("%s/%s/chosen.json" % (OWN, name))


def place_of(ladder, choice):
    """The number of the rung that was chosen; None where the release does not have it."""
    ids = [rung["id"] for rung in ladder["rungs"]]
    return ids.index(choice["id"]) if choice.get("id") in ids else None


def put(ladder, number, why, switches=(), since=None):
    """Puts a rung in force: what was chosen first, so that a crash in between is mended by the next start;
    then each file by one rename."""
    name, rung = ladder["instance"], ladder["rungs"][number]
    folder = "%s/%s" % (OWN, name)
    choice = {
        "id": rung["id"],
        "rung": number,
        "of": len(ladder["rungs"]),
        "about": rung["about"],
        "why": why,
        "since": since or time.time(),  # for people
        "contexts": {model: told["context"] for model, told in rung["models"].items()},
        "switches": list(switches),  # on this boot's clock
        "boot": boot(),
    }
    write(folder + "/chosen.json", json.dumps(choice, sort_keys=True).encode())
    write(folder + "/env", "".join('%s="%s"\n' % pair for pair in sorted(rung["env"].items())).encode())
    for path in rung["manifests"]:
        with open("%s/%s" % (rung["folder"], path), "rb") as file:
            data = file.read()
        write("%s/manifests/%s" % (folder, path), data)
    prune(folder + "/manifests", set(rung["manifests"]))


def prune(root, kept):
    """Removes manifests of models that the release does not have."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.relpath(path, root) not in kept:
                os.unlink(path)


def boot():
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def adopt(name):
    """What was chosen before stays, where the release still has it; else the first rung that fits now."""
    ladder, choice = ladder_of(name), chosen(name)
    number = place_of(ladder, choice)
    switches = choice.get("switches") or () if choice.get("boot") == boot() else ()
    if number is not None:
        # on a full disk what lies there is of the same rung, unless an apply was just now
        try:
            return put(ladder, number, str(choice.get("why", "")), switches, choice.get("since"))
        except OSError as error:
            return print("%s: rung %d as it lies there: %s" % (name, number + 1, error))
    needs = [rung["need"] for rung in ladder["rungs"]]
    room = room_of(ladder, needs[0], [])
    number = 0 if room is None else first(needs, room)
    why = "the first that fits: %s are free" % figures(room) if room else "the cards do not tell"
    if number is None:  # it has to start with something
        number, why = len(needs) - 1, "none fits, this is the lowest: %s are free" % figures(room)
    print(
        "%s: rung %d of %d (%s): %s" % (name, number + 1, len(needs), ladder["rungs"][number]["about"], why)
    )
    return put(ladder, number, why, switches)


def figures(sizes):
    return " + ".join(map(shown, sizes))


# ------------------------------------------------------------------------------- alone on the host
@contextlib.contextmanager
def alone(what):
    """Holds the host's locks, without waiting; gives why not where somebody else does."""
    handles, why = [], ""
    try:
        for path in LOCKS:
            with contextlib.suppress(FileNotFoundError):
                handles.append(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
        if not until(lambda: all(map(locked, handles)), 0.3, 0.05):  # who merely looks holds it for a moment
            why = "an apply holds the host"
        note = {"who": "ogen-autofit", "what": what, "pid": os.getpid()}
        for handle in handles if not why else ():
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(note).encode(), 0)
        yield why or unfinished()
    finally:
        for handle in handles:
            os.close(handle)


def locked(handle):
    """Takes the lock, or raises OSError."""
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def unfinished():
    """Why nothing may be touched though nobody holds the host: a transaction waits for its recovery."""
    try:
        with open(JOURNAL, "rb") as file:
            lines = [line for line in file.read().split(b"\n") if line]
        last = json.loads(lines[-1].partition(b" ")[2].decode()) if lines else {"rec": "END"}
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError):
        return "the journal of the last apply can't be read"
    return "" if last.get("rec") in ("END", "STUCK") else "an apply is unfinished"


# ------------------------------------------------------------------------------------------ leases
def balancers():
    """Members of each balancer that has started here, by its name."""
    found = {}
    for name in sorted(os.listdir(RUN)):
        if name.startswith("ogen-balancer-"):
            members = read("%s/%s/members.json" % (RUN, name))
            if members:
                found[name[len("ogen-balancer-") :]] = members.get("servers") or {}
    return found


def only_one(server):
    """Models for which balancers here have nobody else than this server now."""
    down, found = set(read(STATE).get("down") or ()), set()
    for servers in balancers().values():
        for model in servers.get(server, ()) or ([""] if server in servers else []):
            others = [s for s, models in servers.items() if s != server and (model in models or not models)]
            if not set(others) - down:
                found.add(model)
    return sorted(found)


@contextlib.contextmanager
def leased(name, server):
    """Keeps this host's balancers away from a server: why they don't take it, and which list it."""
    names = [each for each, servers in balancers().items() if server in servers]
    if not names:
        yield "", names
        return
    path = "%s/autofit-%s.json" % (LEASES, name)
    lease = {"servers": [server], "until": time.monotonic() + 300, "who": "ogen-autofit"}
    try:
        write(path, json.dumps(lease, sort_keys=True).encode())
        taken = until(lambda: all(server in (read(STATE).get("taken") or {}).get(n, ()) for n in names), 15.0)
        yield "" if taken else "the balancers here do not take a lease", names
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


# -------------------------------------------------------------------------------------- the switch
def switch(ladder, now, to, why, switches):
    """From one rung to another; the text tells why it has to wait, "" when it is done."""
    restart = ladder["rungs"][now]["env"] != ladder["rungs"][to]["env"]
    with alone("looks") as held:  # before a balancer is told anything
        if held:
            return held
    last = only_one(ladder["server"])
    if last and restart:
        return "no other instance would serve %s" % (", ".join(last) or "meanwhile")
    with leased(ladder["instance"], "" if last else ladder["server"]) as (refused, names):
        # no lease ends a request: it ends connections between requests, so that each one left counts
        spoken = None if names else SPOKEN_LONG if restart else SPOKEN
        wait = refused or still_busy(ladder["port"], DRAIN if names else 3.0, spoken)
        if not wait:
            with alone("%s: %s" % (ladder["instance"], why)) as held:
                wait = held or wrong(ladder, now, to, spoken)
                wait = wait or (restarted if restart else swapped)(ladder, to, why, switches)
        if not wait:
            preload(ladder, wait=bool(names))
    return wait


def wrong(ladder, now, to, spoken):
    """Why it can't be done at this very moment; "" when nobody is served and the decision still is right."""
    if in_flight(ladder["port"], spoken):
        return IN_FLIGHT
    if place_of(ladder_of(ladder["instance"]), chosen(ladder["instance"])) != now:
        return "the release has changed"
    needs = [rung["need"] for rung in ladder["rungs"]]
    room = room_of(ladder, needs[now], running(ladder))
    if room is None or not fits(needs[to], room) or (to > now and fits(needs[now], room)):
        return "free memory has just changed"
    return ""


def swapped(ladder, to, why, switches):
    """Only manifests differ: the models leave, the files change; what comes next loads them anew."""
    if not unload(ladder):
        return "a request came"
    put(ladder, to, why, switches)
    return ""


def restarted(ladder, to, why, switches):
    """Settings of the server differ: it starts anew. Where it fails to, systemd tries again, and its log says
    what is wrong: the rung is in force all the same."""
    put(ladder, to, why, switches)
    if systemctl("restart", ladder["unit"]):
        until(lambda: ask(ladder, "/api/version", timeout=2), 60.0)
    return ""


def preload(ladder, wait):
    if ladder["preload"]:
        block = [] if wait else ["--no-block"]
        systemctl("restart", *block, "ogen-preload@%s.service" % ladder["instance"])


# ------------------------------------------------------------------------------------------- watch
class Watch:
    """All instances of this host that follow the free memory; one is switched at a time."""

    def __init__(self, config):
        self.rules = Rules(config["every"], config["hold"], config["margin"], config["per_hour"])
        self.names = config["instances"]
        self.minds = {}
        self.said = {}
        self.rests = {}  # instance → until when it is left alone, for it did not get quiet
        self.settled = 0.0  # until then nobody goes up: what was just switched is still loading

    def round(self, now):
        for name in self.names:
            if self.look(name, now):
                self.settled = now + 3 * self.rules.every
                return

    def look(self, name, now):
        """One instance; True when it was switched."""
        ladder, choice = ladder_of(name), chosen(name)
        number = place_of(ladder, choice) if ladder else None
        if number is None:
            return self.say(name, "its next start chooses a rung of the release in force")
        known = self.minds.get(name)
        if known is None or known.at != number:
            kept = choice.get("switches") or () if choice.get("boot") == boot() else ()
            known = mind(number, kept)
        needs, room, silent = [rung["need"] for rung in ladder["rungs"]], None, ""
        try:
            room = room_of(ladder, needs[number], running(ladder))
        except (OSError, ValueError, AttributeError):
            silent = "it does not answer"
        self.minds[name], decision = decide(needs, self.rules, known, now, room)
        if decision.to is None:
            return self.say(name, silent or decision.why)
        if now < self.rests.get(name, 0.0) or (decision.to < number and now < self.settled):
            return False
        return self.switch(ladder, number, decision, room, now)

    def switch(self, ladder, number, decision, room, now):
        name, known, began = ladder["instance"], self.minds[ladder["instance"]], time.monotonic()
        rungs, to = ladder["rungs"], decision.to
        why = "%s; %s are free or its own, rung %d needs %s, rung %d needs %s" % (
            decision.why,
            figures(room),
            number + 1,
            figures(rungs[number]["need"]),
            to + 1,
            figures(rungs[to]["need"]),
        )
        wait = switch(ladder, number, to, why, (*known.switches, now))
        if wait == IN_FLIGHT and time.monotonic() - began >= DRAIN:
            self.rests[name] = now + REST
        if wait:
            return self.say(name, "waits to go to rung %d (%s): %s" % (to + 1, rungs[to]["about"], wait))
        self.minds[name] = switched(known, to, now)
        self.said.pop(name, None)
        print("%s: rung %d of %d (%s): %s" % (name, to + 1, len(rungs), rungs[to]["about"], why), flush=True)
        return True

    def say(self, name, text):
        """A line to the journal when it is not what was said before; False, for nothing was switched."""
        if text and self.said.get(name) != text:
            print("%s: %s" % (name, text), flush=True)
        self.said[name] = text
        return False


def serve():
    watch = Watch(read(CONFIG))
    due = time.monotonic()
    while True:
        try:
            watch.round(time.monotonic())
        except Exception as error:  # one bad look must not end it
            print("autofit: %r" % error, flush=True)
        due = max(due + watch.rules.every, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    os.umask(0o022)
    if sys.argv[1:] == ["serve"]:
        serve()
    elif len(sys.argv) == 3 and sys.argv[1] == "adopt":
        adopt(sys.argv[2])
    else:
        sys.exit(__doc__)
