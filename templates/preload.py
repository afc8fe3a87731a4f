#!/usr/bin/python3 -I
"""Loads an instance's resident models and keeps them loaded: ogen's preload, standard library only.

usage: preload.py CONFIG.json

CONFIG: {"url": "http://127.0.0.1:11434", "wait_s": 120, "models": [{"name", "keep_alive", "embedding",
"context"}]}, and "chosen" where autofit tells the contexts that are in force instead. Models that /api/ps
shows with that context are left alone. A model may have "hours": [[days from Monday = 0], start, end] in
minutes of the day, by the local clock. Outside of them it is not loaded, and one that would stay for ever
leaves five minutes after its last use. Exit 0: all are loaded; 1: one could not be, with its reason on
stderr (systemd's timer tries again).
"""

import json
import sys
import time
import urllib.error
import urllib.request

LOAD_TIMEOUT = 1800  # seconds; a large model from a slow disk
CALL_TIMEOUT = 10
AFTER_HOURS = "5m"
# never through a proxy: the instance is on this machine
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url, body=None, timeout=CALL_TIMEOUT):
    """The JSON that `url` answers; OSError or ValueError when it does not."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with OPENER.open(request, timeout=timeout) as reply:
            return json.loads(reply.read().decode() or "{}")
    except urllib.error.HTTPError as error:
        text = error.read(500).decode("utf-8", "replace").strip()
        raise OSError("HTTP %d %s" % (error.code, text)) from None


def wait_for(url, seconds):
    """Until the server answers; it needs a moment after its start."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call(url + "/api/version")
        except (OSError, ValueError):
            if time.monotonic() >= end:
                raise
            time.sleep(0.5)


def tagged(name):
    return name if ":" in name.rsplit("/", 1)[-1] else name + ":latest"


def loaded(url):
    """The models in memory, by name, as /api/ps tells them."""
    running = call(url + "/api/ps").get("models") or []
    return {entry.get("name"): entry for entry in running}


def wanted(hours, now):
    """Whether a moment lies in one of the spans; without spans always. One may end on the next day."""
    day, minute = now.tm_wday, now.tm_hour * 60 + now.tm_min
    for days, start, end in hours:
        if start < end and day in days and start <= minute < end:
            return True
        if start > end and ((day in days and minute >= start) or ((day - 1) % 7 in days and minute < end)):
            return True
    return not hours


def stays(entry, now):
    """Whether a loaded model stays for ever: its end is in another age."""
    year = str(entry.get("expires_at") or "")[:4]
    return year.isdigit() and int(year) > now.tm_year + 1


def chosen(path):
    """The context of each model by autofit's choice; {} where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file).get("contexts") or {})
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def load(url, model, keep):
    """Loads one model; without a prompt nothing is generated. Embedding models load by /api/embed."""
    body = {
        "model": model["name"],
        "keep_alive": int(keep) if keep.lstrip("-").isdigit() else keep,
        "stream": False,
    }
    path = "/api/generate"
    if model["embedding"]:
        path, body["input"] = "/api/embed", "ogen"
        del body["stream"]
    answer = call(url + path, body, LOAD_TIMEOUT)
    if "error" in answer:
        raise OSError(str(answer["error"]))


def todo(model, entry, context, now):
    """How long a model is to be kept from now on, and what that is, in words; None: it is left alone.
    `entry`: of /api/ps, None where it is not in memory."""
    keep, hours = model["keep_alive"], model.get("hours") or []
    if not wanted(hours, now):
        leave = entry is not None and stays(entry, now)
        return (AFTER_HOURS, "leaves %s after its last use" % AFTER_HOURS) if leave else None
    if entry is None or entry.get("context_length", context) not in (context, None):
        return keep, "loaded"
    if hours and keep.startswith("-") and not stays(entry, now):
        return keep, "stays"  # it was loaded before its hours
    return None


def main(path):
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    url, failed = config["url"], 0
    try:
        wait_for(url, config["wait_s"])
        present = loaded(url)
    except (OSError, ValueError) as error:
        print("%s does not answer: %s" % (url, error), file=sys.stderr)
        return 1
    contexts, now = chosen(config.get("chosen", "")), time.localtime()
    for model in config["models"]:
        context = contexts.get(model["name"], model["context"])
        what = todo(model, present.get(tagged(model["name"])), context, now)
        if what is None:
            continue
        began = time.monotonic()
        try:
            load(url, model, what[0])
            print("%s: %s in %.1f s" % (model["name"], what[1], time.monotonic() - began))
        except (OSError, ValueError) as error:
            failed = 1
            print("%s: not loaded: %s" % (model["name"], error), file=sys.stderr)
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
