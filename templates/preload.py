#!/usr/bin/python3 -I
"""Loads an instance's resident models and keeps them loaded: ogen's preload, standard library only.

usage: preload.py CONFIG.json

CONFIG: {"url": "http://127.0.0.1:11434", "wait_s": 120, "models": [{"name", "keep_alive", "embedding",
"context"}]}, and "chosen" where autofit tells the contexts that are in force instead. Models that /api/ps
shows with that context are left alone. Exit 0: all are loaded; 1: one could not be, with its reason on
stderr (systemd's timer tries again).
"""

import json
import sys
import time
import urllib.error
import urllib.request

LOAD_TIMEOUT = 1800  # seconds; a large model from a slow disk
CALL_TIMEOUT = 10
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
    """Names of the models in memory, with their contexts (None where the server does not tell)."""
    running = call(url + "/api/ps").get("models") or []
    return {entry.get("name"): entry.get("context_length") for entry in running}


def chosen(path):
    """The context of each model by autofit's choice; {} where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file).get("contexts") or {})
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def load(url, model):
    """Loads one model; without a prompt nothing is generated. Embedding models load by /api/embed."""
    keep = model["keep_alive"]
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
    contexts = chosen(config.get("chosen", ""))
    for model in config["models"]:
        context = contexts.get(model["name"], model["context"])
        if present.get(tagged(model["name"]), 0) in (context, None):
            continue
        began = time.monotonic()
        try:
            load(url, model)
            print("%s: loaded in %.1f s" % (model["name"], time.monotonic() - began))
        except (OSError, ValueError) as error:
            failed = 1
            print("%s: not loaded: %s" % (model["name"], error), file=sys.stderr)
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
