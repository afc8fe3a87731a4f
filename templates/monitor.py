#!/usr/bin/python3 -I
"""Watches the cards, Ollama instances and queues of this machine: ogen's monitor, standard library only.

usage: monitor.py CONFIG.json [--once]

Every `interval_s` seconds it reads each card (NVIDIA's by NVML through ctypes, else nvidia-smi's CSV; AMD's
from sysfs), asks all instances at once (/api/ps) and the fronts of queues that run here, then writes
  * `csv`: two CSV files for people, one line per card or model and time (rotated by logrotate);
  * `prom`: a textfile for Prometheus' node_exporter, replaced as a whole (folder missing: left out);
  * one line to the journal when something changes: a card is lost, an instance goes down, a model is
    loaded, or lies in host memory.
A missing or replaced driver, a lost card, a hung instance or a full disk never ends it, nor keeps it
from the rest for more than a few seconds.
"""

import ctypes
import errno
import json
import os
import select
import socket
import sys
import time

CARDS_HEADER = (
    "time,gpu,uuid,name,memory_used_bytes,memory_free_bytes,memory_total_bytes,"
    "utilization_percent,temperature_celsius,power_watts"
)
MODELS_HEADER = "time,instance,up,model,size_bytes,vram_bytes,context,expires,host_bytes"
TIMEOUT = 3.0  # seconds that all instances have for their answers
VERSION = 300.0  # seconds until an instance is asked for its version again: it logs each request
AGAIN = 60.0  # seconds until a lost card, or an nvidia-smi that failed, is tried again
SMI_WAIT = 10.0  # seconds that nvidia-smi has
LARGEST = 4 << 20  # bytes of an answer
MIB = 1024 * 1024
DRM = "/sys/class/drm"
JOBS = ("waiting", "delayed", "running", "dead")  # where a job may be before it has ended well
EVENTS = ("submitted", "started", "done", "failed", "expired", "cancelled", "retried", "released", "lost")
SILENT = 30.0  # seconds after which a worker is not there


class NoDriver(Exception):
    """No figures from any source now."""


# ----------------------------------------------------------------------------------------- cards
class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Memory2(ctypes.Structure):
    """As nvidia-smi counts: what the driver keeps for itself is not `used`."""

    _fields_ = [("version", ctypes.c_uint)] + [
        (name, ctypes.c_ulonglong) for name in ("total", "reserved", "free", "used")
    ]


class Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Nvml:
    """The driver's own library. It is let go of after each failure: a driver brings another file."""

    def __init__(self):
        try:
            self.lib = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            raise NoDriver(str(error)) from None
        try:
            self.call("nvmlInit_v2")
            self.driver = self.text("nvmlSystemGetDriverVersion")
        except (NoDriver, AttributeError) as error:
            self.close()
            raise NoDriver(str(error)) from None

    def call(self, name, *args):
        code = getattr(self.lib, name)(*args)
        if code:
            raise NoDriver("%s: error %d" % (name, code))

    def close(self):
        try:
            self.lib.nvmlShutdown()
        except (OSError, AttributeError):
            pass
        import _ctypes

        _ctypes.dlclose(self.lib._handle)

    def read(self):
        count = ctypes.c_uint()
        self.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [self.card(index) for index in range(count.value)]

    def card(self, index):
        """One card; a lost one has nothing but its index."""
        card = {"gpu": index, "driver": self.driver}
        try:
            device = ctypes.c_void_p()
            self.call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(device))
            card["uuid"] = self.text("nvmlDeviceGetUUID", device)
            card["name"] = self.text("nvmlDeviceGetName", device)
            memory = self.memory(device)
            card.update(total=memory.total, free=memory.free, used=memory.used)
        except (NoDriver, AttributeError) as error:
            card["lost"] = str(error)
            return card
        self.extras(card, device)
        return card

    def memory(self, device):
        """Drivers before 510 have the older call only."""
        newer = Memory2(version=ctypes.sizeof(Memory2) | 2 << 24)
        try:
            self.call("nvmlDeviceGetMemoryInfo_v2", device, ctypes.byref(newer))
            return newer
        except (NoDriver, AttributeError):
            older = Memory()
            self.call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(older))
            return older

    def extras(self, card, device):
        """What not every card tells."""
        use, value = Utilization(), ctypes.c_uint()
        for name, call, args in (
            ("utilization", "nvmlDeviceGetUtilizationRates", (ctypes.byref(use),)),
            ("temperature", "nvmlDeviceGetTemperature", (0, ctypes.byref(value))),
            ("power", "nvmlDeviceGetPowerUsage", (ctypes.byref(value),)),
        ):
            try:
                self.call(call, device, *args)
            except (NoDriver, AttributeError):
                continue
            card[name] = {"utilization": use.gpu, "temperature": value.value, "power": value.value / 1000.0}[
                name
            ]

    def text(self, call, *device):
        buffer = ctypes.create_string_buffer(96)
        self.call(call, *device, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode("utf-8", "replace")


SMI_FIELDS = (
    "index,uuid,driver_version,name,"
    "memory.used,memory.free,memory.total,utilization.gpu,temperature.gpu,power.draw"
)


class Smi:
    """The same figures from `nvidia-smi`. A broken driver may keep one from ending, even when killed."""

    def __init__(self):
        self.stuck = None

    def read(self):
        import subprocess

        if self.stuck is not None and self.stuck.poll() is None:
            raise NoDriver("nvidia-smi does not end")
        try:
            process = subprocess.Popen(
                ["nvidia-smi", "--query-gpu=" + SMI_FIELDS, "--format=csv,noheader,nounits"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise NoDriver("nvidia-smi: %s" % error.strerror) from None
        try:
            text = process.communicate(timeout=SMI_WAIT)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            process.kill()
            process.stdout.close()
            self.stuck = process
            raise NoDriver("nvidia-smi gives no answer in %g s" % SMI_WAIT) from None
        if process.returncode:
            raise NoDriver((text.strip().splitlines() or ["nvidia-smi failed"])[0])
        return [smi_card(line) for line in text.splitlines() if line.count(",") >= 9]


def smi_card(line):
    fields = line.split(",")  # a name may hold a comma
    head, tail = [field.strip() for field in fields[:3]], [field.strip() for field in fields[-6:]]
    card = {"uuid": head[1], "driver": head[2], "name": ",".join(fields[3:-6]).strip()}
    card["gpu"] = int(head[0]) if head[0].isdigit() else -1
    units = (
        ("used", MIB),
        ("free", MIB),
        ("total", MIB),
        ("utilization", 1),
        ("temperature", 1),
        ("power", 1),
    )
    for (name, unit), value in zip(units, tail):
        try:
            card[name] = float(value) * unit if name == "power" else int(float(value)) * unit
        except ValueError:
            pass  # "[N/A]": not every card tells everything
    if "total" not in card:
        card["lost"] = "no figures"
    return card


class Cards:
    """All cards, by the best source that works now; one that was there once is missed."""

    def __init__(self, clock=time.monotonic):
        self.clock = clock
        self.nvml = None
        self.smi = Smi()
        self.smi_why, self.smi_after = "", 0.0  # how nvidia-smi failed, and when it is tried again
        self.anew = 0.0  # when NVML may be opened anew for a lost card
        self.known = {}  # UUID → what told the card apart when it was last seen

    def read(self):
        """The cards and an empty text, or none and why."""
        cards = self.by_nvml()
        if cards is None:
            try:
                cards = self.by_smi()
            except NoDriver as error:
                return [], str(error)
        return missed(self.known, cards), ""

    def by_nvml(self):
        """None where it does not work. It takes long to open, so that a lost card is no reason each time."""
        try:
            self.nvml = self.nvml or Nvml()
            cards = self.nvml.read()
        except NoDriver:
            self.drop()
            return None
        if any("lost" in card for card in cards) and self.clock() >= self.anew:
            self.anew = self.clock() + AGAIN
            self.drop()
        return cards

    def by_smi(self):
        if self.smi_why and self.clock() < self.smi_after:
            raise NoDriver(self.smi_why)
        try:
            cards = self.smi.read()
            self.smi_why = ""
            return cards
        except NoDriver as error:
            self.smi_why, self.smi_after = str(error), self.clock() + AGAIN
            raise

    def drop(self):
        if self.nvml is not None:
            self.nvml.close()
        self.nvml = None


def missed(known, cards):
    """`cards` with the names of lost ones, and with those that are not even listed any more."""
    listed = {card.get("uuid") for card in cards}
    away = {uuid: card for uuid, card in known.items() if uuid not in listed}
    for card in cards:
        if "lost" not in card:
            known[card["uuid"]] = {key: card[key] for key in ("gpu", "uuid", "name")}
        elif not card.get("uuid"):
            same = next((uuid for uuid, one in away.items() if one["gpu"] == card["gpu"]), None)
            card.update(away.pop(same, {}))
    return cards + [dict(card, lost="the driver lists it no more") for card in away.values()]


class Amd:
    """Cards of the kernel's driver amdgpu, from sysfs; numbered by PCI address, as ROCm does."""

    def __init__(self, folder=DRM):
        self.folder = folder
        self.known = {}  # as of Cards

    def read(self):
        """The cards and an empty text, or none and why."""
        try:
            names = [name for name in os.listdir(self.folder) if name[:4] == "card" and name[4:].isdigit()]
        except OSError:
            names = []
        folders = {os.path.realpath("%s/%s/device" % (self.folder, name)) for name in names}
        found = sorted(one for one in folders if is_amd(one))
        cards = missed(self.known, [self.card(index, folder) for index, folder in enumerate(found)])
        return cards, "" if cards else "no AMD card in %s: is amdgpu loaded?" % self.folder

    def card(self, index, folder):
        """One card; a lost one has no figures."""
        unique, pci = first(folder + "/unique_id"), os.path.basename(folder)
        card = {
            "gpu": index,
            "uuid": "GPU-" + unique.lower() if unique.strip("0") else pci,
            "name": first(folder + "/product_name") or "AMD " + first(folder + "/device"),
            "driver": "amdgpu " + (first("/sys/module/amdgpu/version") or os.uname().release),
        }
        total, used = number(folder + "/mem_info_vram_total"), number(folder + "/mem_info_vram_used")
        if total is None or used is None:
            card["lost"] = "the driver gives no figures"
            return card
        card.update(total=total, used=used, free=max(0, total - used))
        sensors = sorted(os.listdir(folder + "/hwmon")) if os.path.isdir(folder + "/hwmon") else []
        hwmon = "%s/hwmon/%s/" % (folder, sensors[0]) if sensors else ""
        for key, paths, unit in (
            ("utilization", [folder + "/gpu_busy_percent"], 1),
            ("temperature", [hwmon + "temp1_input"], 1000),
            ("power", [hwmon + "power1_average", hwmon + "power1_input"], 1000000.0),
        ):
            value = next((one for one in map(number, paths) if one is not None), None)
            if value is not None:
                card[key] = value / unit if key == "power" else value // unit
        return card


def is_amd(folder):
    """By AMD, and driven by amdgpu: another driver has no figures of memory."""
    return first(folder + "/vendor") == "0x1002" and os.path.exists(folder + "/mem_info_vram_total")


def first(path):
    """The first line of a small file; "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(256).strip()
    except OSError:
        return ""


def number(path):
    text = first(path)
    return int(text) if text.isdigit() else None


# ------------------------------------------------------------------------------------- instances
class Call:
    """One GET. HTTP/1.0: the answer ends with the connection."""

    def __init__(self, key, url, path):
        self.key, self.data, self.error = key, bytearray(), "no answer in %g s" % TIMEOUT
        scheme, _, place = url.partition("//")
        host, _, port = place.rpartition(":")
        name = "localhost:" + port if scheme == "http:" else "localhost"
        self.request = b"GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" % (path.encode(), name.encode())
        self.link = socket.socket() if scheme == "http:" else socket.socket(socket.AF_UNIX)
        self.link.setblocking(False)
        self.code = self.link.connect_ex((host, int(port)) if scheme == "http:" else place)

    def go_on(self, poll):
        """Does what can be done without waiting; whether there is more to come."""
        try:
            if self.request:
                code = self.link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or self.code
                if code not in (0, errno.EINPROGRESS):
                    raise OSError(code, os.strerror(code))
                self.request = self.request[self.link.send(self.request) :]
                if not self.request:
                    poll.modify(self.link, select.POLLIN)
                return True
            part = self.link.recv(65536)
            self.data += part
            if part and len(self.data) <= LARGEST:
                return True
            self.error = "" if not part else "an answer without end"
        except BlockingIOError:
            return True
        except OSError as error:
            self.error = error.strerror or str(error)
        return False

    def answer(self):
        """The object in it; ValueError and OSError say what is wrong."""
        if self.error:
            raise OSError(self.error)
        head, _, body = bytes(self.data).partition(b"\r\n\r\n")
        words = head.split(None, 2)
        if len(words) < 2 or words[1] != b"200":
            raise OSError("HTTP %s" % words[1].decode("ascii", "replace") if len(words) > 1 else "no HTTP")
        value = json.loads(body.decode("utf-8", "replace"))
        if not isinstance(value, dict):
            raise ValueError("no object")
        return value


def call_all(calls):
    """Brings the calls to their ends together, within TIMEOUT."""
    poll, open_calls = select.poll(), {}
    for call in calls:
        poll.register(call.link, select.POLLOUT)
        open_calls[call.link.fileno()] = call
    end = time.monotonic() + TIMEOUT
    while open_calls:
        left = end - time.monotonic()
        if left <= 0:
            break
        for number, _ in poll.poll(left * 1000 + 1):
            if not open_calls[number].go_on(poll):
                poll.unregister(number)
                open_calls.pop(number).link.close()
    for call in open_calls.values():
        call.link.close()


class Instances:
    """Versions and loaded models of the instances; one that does not answer is not up."""

    def __init__(self, instances, clock=time.monotonic):
        self.instances, self.clock = instances, clock
        self.versions = {}  # name → version, and until when it is believed

    def read(self):
        calls = []
        for instance in self.instances:
            name = instance["name"]
            calls.append(Call((name, "ps"), instance["url"], "/api/ps"))
            if self.versions.get(name, ("", 0.0))[1] <= self.clock():
                calls.append(Call((name, "version"), instance["url"], "/api/version"))
        call_all(calls)
        found = {call.key: call for call in calls}
        return [self.state(instance, found) for instance in self.instances]

    def state(self, instance, found):
        name = instance["name"]
        state = {"name": name, "ollama": instance["ollama"], "up": False, "version": "", "models": []}
        try:
            if (name, "version") in found:
                version = str(found[name, "version"].answer().get("version", ""))
                self.versions[name] = (version, self.clock() + VERSION)
            models = found[name, "ps"].answer().get("models") or []
            state["models"] = [model_state(model) for model in models]
            state["version"] = self.versions[name][0]
            state["up"] = True
        except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            state["why"] = str(error) or type(error).__name__
            self.versions.pop(name, None)  # what comes up again may be another
        return state


def model_state(model):
    size, vram = int(model.get("size") or 0), int(model.get("size_vram") or 0)
    return {
        "name": str(model.get("name", "")),
        "size": size,
        "vram": vram,
        "host": max(0, size - vram),
        "context": int(model.get("context_length") or 0),
        "expires": str(model.get("expires_at") or ""),
    }


# ---------------------------------------------------------------------------------------- queues
def read_queues(queues):
    """What the fronts of the queues say: each one tells of its whole queue, or `why` it does not."""
    calls = [Call(queue["name"], "unix://" + queue["socket"], "/admin/status") for queue in queues]
    call_all(calls)
    return [queue_state(call) for call in calls]


def queue_state(call):
    state = {"name": call.key, "up": False, "pools": []}
    try:
        told = call.answer()
        memory = told["memory"]
        state["used"], state["most"] = int(memory["used_bytes"]), int(memory["most_bytes"])
        state["pools"] = [pool_state(str(model), pool) for model, pool in sorted(told["pools"].items())]
        state["up"] = True
    except (OSError, ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        state["why"] = str(error) or type(error).__name__
    return state


def pool_state(model, pool):
    return {
        "model": model,
        "jobs": {kind: int(pool[kind]) for kind in JOBS},
        "places": int(pool["length"]),
        "oldest": float(pool["oldest_s"]),
        "workers": sum(float(age) < SILENT for age in pool["workers"].values()),
        "events": {name: int(pool["counts"].get(name, 0)) for name in EVENTS},
        "busy": int(pool["counts"].get("busy_ms", 0)) / 1000.0,
    }


# ---------------------------------------------------------------------------------------- output
def plain(text):
    """Text from the outside, without what would break a line, a terminal or an encoding."""
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def cell(value):
    """A CSV cell: text from the outside can't begin a formula, a line or a column."""
    text = "" if value is None else plain(value)
    if text[:1] in ("=", "+", "-", "@") and not isinstance(value, (int, float)):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text


def append(path, header, rows):
    """Adds lines, all or none; the file is opened for each time, so that logrotate may move it away."""
    if not rows:
        return
    text = "".join(",".join(map(cell, row)) + "\n" for row in rows)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size == 0:
            text = header + "\n" + text
        elif os.pread(handle, 1, size - 1) != b"\n":
            text = "\n" + text  # a power cut has torn the last line
        try:
            write(handle, text.encode())
        except OSError:
            try:
                os.ftruncate(handle, size)
            except OSError:
                pass  # no file that can be cut
            raise
    finally:
        os.close(handle)


def write(handle, data):
    while data:
        data = data[os.write(handle, data) :]


def card_rows(now, cards):
    keys = ("gpu", "uuid", "name", "used", "free", "total", "utilization", "temperature", "power")
    return [[now] + [card.get(key) for key in keys] for card in cards]


def model_rows(now, states):
    rows = []
    for state in states:
        for model in state["models"] or [{}]:
            keys = ("name", "size", "vram", "context", "expires", "host")
            rows.append([now, state["name"], int(state["up"])] + [model.get(key) for key in keys])
    return rows


METRICS = (
    ("ogen_gpu_memory_used_bytes", "gauge", "Memory in use on the card."),
    ("ogen_gpu_memory_free_bytes", "gauge", "Memory free on the card."),
    ("ogen_gpu_memory_total_bytes", "gauge", "Memory of the card."),
    ("ogen_gpu_utilization_ratio", "gauge", "Share of time in which the card computed."),
    ("ogen_gpu_temperature_celsius", "gauge", "Temperature of the card."),
    ("ogen_gpu_power_watts", "gauge", "Power draw of the card."),
    ("ogen_gpu_up", "gauge", "Whether the card answers the driver."),
    ("ogen_gpu_info", "gauge", "Name of the card, and its driver."),
    ("ogen_gpu_driver_up", "gauge", "Whether the driver answers."),
    ("ogen_ollama_up", "gauge", "Whether the instance answers."),
    ("ogen_ollama_info", "gauge", "Version of the instance."),
    ("ogen_ollama_model_size_bytes", "gauge", "Memory of a loaded model, on the card and beside it."),
    ("ogen_ollama_model_vram_bytes", "gauge", "Memory of a loaded model on the card."),
    ("ogen_queue_up", "gauge", "Whether the front and the Redis of the queue answer."),
    ("ogen_queue_jobs", "gauge", "Jobs of a model by where they are."),
    ("ogen_queue_places", "gauge", "Jobs of a model that may wait."),
    ("ogen_queue_oldest_seconds", "gauge", "How long the job that is next has waited."),
    ("ogen_queue_workers", "gauge", "Workers of a model heard of in the last 30 s."),
    ("ogen_queue_jobs_total", "counter", "What happened to jobs of a model, by what."),
    ("ogen_queue_busy_seconds_total", "counter", "Time that jobs took which are done."),
    ("ogen_queue_redis_memory_used_bytes", "gauge", "Memory that the Redis of the queue uses."),
    ("ogen_queue_redis_memory_max_bytes", "gauge", "Memory that it may use; 0: no bound."),
    ("ogen_monitor_last_run_timestamp_seconds", "gauge", "When the monitor last ran."),
)


def label(value):
    return plain(value).replace("\\", "\\\\").replace('"', '\\"')


def queue_samples(queues):
    found = []
    for queue in queues:
        who = {"queue": queue["name"]}
        found.append(("ogen_queue_up", who, int(queue["up"])))
        if not queue["up"]:
            continue
        found.append(("ogen_queue_redis_memory_used_bytes", who, queue["used"]))
        found.append(("ogen_queue_redis_memory_max_bytes", who, queue["most"]))
        for pool in queue["pools"]:
            of = dict(who, model=pool["model"])
            found += [("ogen_queue_jobs", dict(of, state=kind), pool["jobs"][kind]) for kind in JOBS]
            found += [("ogen_queue_jobs_total", dict(of, what=name), pool["events"][name]) for name in EVENTS]
            found.append(("ogen_queue_places", of, pool["places"]))
            found.append(("ogen_queue_oldest_seconds", of, pool["oldest"]))
            found.append(("ogen_queue_workers", of, pool["workers"]))
            found.append(("ogen_queue_busy_seconds_total", of, pool["busy"]))
    return found


def samples(cards, states, driver_up, now, queues=()):
    """(metric, labels, value) of one round; a card is told by index and UUID."""
    found = [("ogen_gpu_driver_up", {}, int(driver_up))] if driver_up is not None else []
    for card in cards:
        who = {"gpu": card["gpu"], "uuid": card.get("uuid", "")}
        found.append(("ogen_gpu_up", who, int("lost" not in card)))
        found.append(
            ("ogen_gpu_info", dict(who, name=card.get("name", ""), driver=card.get("driver", "")), 1)
        )
        for key, metric, scale in (
            ("used", "memory_used_bytes", 1),
            ("free", "memory_free_bytes", 1),
            ("total", "memory_total_bytes", 1),
            ("utilization", "utilization_ratio", 0.01),
            ("temperature", "temperature_celsius", 1),
            ("power", "power_watts", 1),
        ):
            if key in card:
                found.append(("ogen_gpu_" + metric, who, card[key] * scale))
    for state in states:
        who = {"ollama": state["ollama"]}
        found.append(("ogen_ollama_up", who, int(state["up"])))
        if state["version"]:
            found.append(("ogen_ollama_info", dict(who, version=state["version"]), 1))
        for model in state["models"]:
            of = dict(who, model=model["name"])
            found.append(("ogen_ollama_model_size_bytes", of, model["size"]))
            found.append(("ogen_ollama_model_vram_bytes", of, model["vram"]))
    found += queue_samples(queues)
    found.append(("ogen_monitor_last_run_timestamp_seconds", {}, int(now)))
    return found


def exposition(found):
    """Prometheus' text format: each metric's samples together, under HELP and TYPE."""
    own = {}
    for metric, labels, value in found:
        text = ",".join('%s="%s"' % (key, label(labels[key])) for key in sorted(labels))
        line = "%s%s %s" % (metric, "{%s}" % text if text else "", round(value, 6))
        own.setdefault(metric, []).append(line)
    lines = []
    for metric, kind, about in METRICS:
        if metric in own:
            lines += ["# HELP %s %s" % (metric, about), "# TYPE %s %s" % (metric, kind)] + own[metric]
    return "\n".join(lines) + "\n"


def replace(path, text):
    """The whole new file or the whole old one, for a reader at any moment."""
    temporary = path + ".tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


# ------------------------------------------------------------------------------------------ loop
class Monitor:
    def __init__(self, config):
        self.config = config
        self.cards = Cards()
        self.amd = Amd(config.get("drm", DRM))
        self.instances = Instances(config["instances"])
        self.said = {}

    def say(self, key, text, well="well again"):
        """A line to the journal when `text` is not what was said about `key` before."""
        if self.said.get(key, "") == text:
            return
        self.said[key] = text
        try:
            print(plain("%s: %s" % (key, text or well)), flush=True)
        except OSError:
            pass  # nobody listens

    def write(self, key, action, *args):
        try:
            action(*args)
            self.say(key, "")
        except OSError as error:
            self.say(key, "not written: %s" % (error.strerror or error))

    def round(self, now):
        cards, why = self.all_cards()
        states = self.instances.read()
        queues = read_queues(self.config.get("queues", ()))
        self.report(cards, why, states)
        for queue in queues:
            self.say("queue " + queue["name"], "" if queue["up"] else "down: " + queue["why"])
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        folder = self.config["csv"]
        self.write("cards.csv", append, folder + "/cards.csv", CARDS_HEADER, card_rows(stamp, cards))
        self.write("models.csv", append, folder + "/models.csv", MODELS_HEADER, model_rows(stamp, states))
        prom = self.config["prom"]
        if os.path.isdir(os.path.dirname(prom)):
            driver = not why if self.config["cards"] or self.config.get("amd") else None
            text = exposition(samples(cards, states, driver, now, queues))
            self.write("textfile", replace, prom, text)

    def all_cards(self):
        """Of both makers; why there are none of a maker that the plan has."""
        cards, why = self.cards.read() if self.config["cards"] else ([], "")
        if self.config.get("amd"):
            more, lacking = self.amd.read()
            cards, why = cards + more, "; ".join(filter(None, (why, lacking)))
        return cards, why

    def report(self, cards, why, states):
        self.say("driver", "no figures: " + why if why else "")
        for card in cards:
            who = " ".join(filter(None, ("card %s" % card["gpu"], card.get("uuid"))))
            self.say(who, "lost: " + card["lost"] if "lost" in card else "")
        for state in states:
            who = "instance " + state["name"]
            self.say(who, "" if state["up"] else "down: " + state.get("why", ""))
            loaded = ", ".join(map(described, sorted(state["models"], key=lambda model: model["name"])))
            self.say(who + " has loaded", loaded, "nothing")


def described(model):
    """A model and how much of it lies in host memory, where that makes it slow."""
    if not model["host"]:
        return model["name"]
    gib = float(1 << 30)
    return "%s (%.1f of %.1f GiB in host memory)" % (model["name"], model["host"] / gib, model["size"] / gib)


def main(path, once):
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    monitor, interval = Monitor(config), config["interval_s"]
    due = time.monotonic()
    while True:
        monitor.round(time.time())
        if once:
            return 0
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or (len(sys.argv) == 3 and sys.argv[2] != "--once"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], len(sys.argv) == 3))
