#!/usr/bin/python3 -I
"""Watches the cards and the Ollama instances of this machine: ogen's monitor, standard library only.

usage: monitor.py CONFIG.json [--once]

Every `interval_s` seconds it reads each card (NVML through ctypes, else nvidia-smi's CSV) and each
instance (/api/version, /api/ps), then writes
  * `csv`: two CSV files for people, one line per card or model and time (rotated by logrotate);
  * `prom`: a textfile for Prometheus' node_exporter, replaced as a whole (folder missing: left out);
  * one line to the journal when something changes: a card is lost, an instance goes down or comes up.
A missing driver, a lost card or a full disk never ends it.
"""

import ctypes
import datetime
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

CARDS_HEADER = (
    "time,gpu,uuid,name,memory_used_bytes,memory_free_bytes,memory_total_bytes,"
    "utilization_percent,temperature_celsius,power_watts"
)
MODELS_HEADER = "time,instance,up,model,size_bytes,vram_bytes,context,expires"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TIMEOUT = 3  # seconds that an instance has for an answer
MIB = 1024 * 1024


class NoDriver(Exception):
    """No figures from any source now."""


# ----------------------------------------------------------------------------------------- cards
class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Nvml:
    """The driver's own library; opened anew after each failure, so that a driver may be replaced."""

    def __init__(self):
        try:
            self.lib = ctypes.CDLL("libnvidia-ml.so.1")
            self.call("nvmlInit_v2")
        except (OSError, AttributeError) as error:
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

    def read(self):
        count = ctypes.c_uint()
        self.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [self.card(index) for index in range(count.value)]

    def card(self, index):
        """One card; a lost one has nothing but its index."""
        card = {"gpu": index}
        try:
            device = ctypes.c_void_p()
            self.call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(device))
            card["uuid"] = self.text("nvmlDeviceGetUUID", device)
            card["name"] = self.text("nvmlDeviceGetName", device)
            memory = Memory()
            self.call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
            card.update(total=memory.total, free=memory.free, used=memory.used)
        except (NoDriver, AttributeError) as error:
            card["lost"] = str(error)
            return card
        self.extras(card, device)
        return card

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

    def text(self, call, device):
        buffer = ctypes.create_string_buffer(96)
        self.call(call, device, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode("utf-8", "replace")


SMI_FIELDS = "index,uuid,name,memory.used,memory.free,memory.total,utilization.gpu,temperature.gpu,power.draw"


def from_smi():
    """The same figures from `nvidia-smi`; NoDriver where it fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=" + SMI_FIELDS, "--format=csv,noheader,nounits"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoDriver(str(error)) from None
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise NoDriver((text.strip().splitlines() or ["nvidia-smi failed"])[0])
    return [smi_card(line) for line in text.splitlines() if line.count(",") >= 8]


def smi_card(line):
    fields = line.split(",")  # a name may hold a comma
    head, tail = [field.strip() for field in fields[:2]], [field.strip() for field in fields[-6:]]
    card = {"uuid": head[1], "name": ",".join(fields[2:-6]).strip()}
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
    """All cards, by the best source that works now."""

    def __init__(self):
        self.nvml = None

    def read(self):
        """The cards and an empty text, or none and why."""
        try:
            self.nvml = self.nvml or Nvml()
            cards = self.nvml.read()
            if not any("lost" in card for card in cards):
                return cards, ""
        except NoDriver:
            cards = None
        self.drop()
        if cards is not None:
            return cards, ""
        try:
            return from_smi(), ""
        except NoDriver as error:
            return [], str(error)

    def drop(self):
        if self.nvml is not None:
            self.nvml.close()
        self.nvml = None


# ------------------------------------------------------------------------------------- instances
def get(url):
    with OPENER.open(url, timeout=TIMEOUT) as reply:
        return json.loads(reply.read(4 * MIB).decode("utf-8", "replace"))


def instance_state(instance):
    """Version and loaded models of one instance; not up when it does not answer."""
    state = {"name": instance["name"], "ollama": instance["ollama"], "up": False, "version": "", "models": []}
    try:
        state["version"] = str(get(instance["url"] + "/api/version").get("version", ""))
        models = get(instance["url"] + "/api/ps").get("models") or []
        state["models"] = [model_state(model) for model in models]
        state["up"] = True
    except (OSError, ValueError, AttributeError, TypeError) as error:
        state["why"] = str(error)
    return state


def model_state(model):
    return {
        "name": str(model.get("name", "")),
        "size": int(model.get("size") or 0),
        "vram": int(model.get("size_vram") or 0),
        "context": int(model.get("context_length") or 0),
        "expires": str(model.get("expires_at") or ""),
    }


# ---------------------------------------------------------------------------------------- output
def cell(value):
    """A CSV cell: text from the outside can't begin a formula, a line or a column."""
    text = "" if value is None else str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    if text[:1] in ("=", "+", "-", "@") and not isinstance(value, (int, float)):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text


def append(path, header, rows):
    """Adds lines; the file is opened for each, so that logrotate may move it away."""
    if not rows:
        return
    text = "".join(",".join(map(cell, row)) + "\n" for row in rows)
    with open(path, "a", encoding="utf-8") as file:
        if file.tell() == 0:
            text = header + "\n" + text
        file.write(text)


def card_rows(now, cards):
    keys = ("gpu", "uuid", "name", "used", "free", "total", "utilization", "temperature", "power")
    return [[now] + [card.get(key) for key in keys] for card in cards]


def model_rows(now, states):
    rows = []
    for state in states:
        for model in state["models"] or [{}]:
            keys = ("name", "size", "vram", "context", "expires")
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
    ("ogen_gpu_info", "gauge", "Name of the card."),
    ("ogen_gpu_driver_up", "gauge", "Whether the driver answers."),
    ("ogen_ollama_up", "gauge", "Whether the instance answers."),
    ("ogen_ollama_info", "gauge", "Version of the instance."),
    ("ogen_ollama_model_size_bytes", "gauge", "Memory of a loaded model, on the card and beside it."),
    ("ogen_ollama_model_vram_bytes", "gauge", "Memory of a loaded model on the card."),
    ("ogen_monitor_last_run_timestamp_seconds", "gauge", "When the monitor last ran."),
)


def label(value):
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ").replace("\r", " ")


def samples(cards, states, driver_up, now):
    """(metric, labels, value) of one round; a card is told by index and UUID."""
    found = [("ogen_gpu_driver_up", {}, int(driver_up))] if driver_up is not None else []
    for card in cards:
        who = {"gpu": card["gpu"], "uuid": card.get("uuid", "")}
        found.append(("ogen_gpu_up", who, int("lost" not in card)))
        found.append(("ogen_gpu_info", dict(who, name=card.get("name", "")), 1))
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
    found.append(("ogen_monitor_last_run_timestamp_seconds", {}, int(now)))
    return found


def exposition(found):
    """Prometheus' text format: each metric's samples together, under HELP and TYPE."""
    lines = []
    for metric, kind, about in METRICS:
        own = [(labels, value) for name, labels, value in found if name == metric]
        if own:
            lines += ["# HELP %s %s" % (metric, about), "# TYPE %s %s" % (metric, kind)]
        for labels, value in own:
            text = ",".join('%s="%s"' % (key, label(labels[key])) for key in sorted(labels))
            lines.append("%s%s %s" % (metric, "{%s}" % text if text else "", round(value, 6)))
    return "\n".join(lines) + "\n"


def replace(path, text):
    """The whole new file or the whole old one, for a reader at any moment."""
    temporary = path + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


# ------------------------------------------------------------------------------------------ loop
class Monitor:
    def __init__(self, config):
        self.config = config
        self.cards = Cards()
        self.said = {}

    def say(self, key, text):
        """A line to the journal when `text` is not what was said about `key` before."""
        if self.said.get(key, "") != text:
            print("%s: %s" % (key, text or "well again"), flush=True)
            self.said[key] = text

    def write(self, key, action, *args):
        try:
            action(*args)
            self.say(key, "")
        except OSError as error:
            self.say(key, "not written: %s" % (error.strerror or error))

    def round(self, now):
        cards, why = self.cards.read() if self.config["cards"] else ([], "")
        states = [instance_state(instance) for instance in self.config["instances"]]
        self.report(cards, why, states)
        stamp = datetime.datetime.fromtimestamp(now, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        folder = self.config["csv"]
        self.write("cards.csv", append, folder + "/cards.csv", CARDS_HEADER, card_rows(stamp, cards))
        self.write("models.csv", append, folder + "/models.csv", MODELS_HEADER, model_rows(stamp, states))
        prom = self.config["prom"]
        if os.path.isdir(os.path.dirname(prom)):
            driver = not why if self.config["cards"] else None
            text = exposition(samples(cards, states, driver, now))
            self.write("textfile", replace, prom, text)

    def report(self, cards, why, states):
        self.say("driver", "no figures: " + why if why else "")
        for card in cards:
            self.say("card %s" % card["gpu"], "lost: " + card["lost"] if "lost" in card else "")
        for state in states:
            self.say("instance " + state["name"], "" if state["up"] else "down: " + state.get("why", ""))


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
