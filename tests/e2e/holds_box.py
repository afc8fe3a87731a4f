"""Runs in a box: holds a process of the agent at the armed step (holds.py says how and why)."""

import json
import os
import sys
import time

FOLDER = "/run/faults/"


def process():
    words = sys.orig_argv
    if "-c" in words and "ogen-agent" in words[words.index("-c") + 1]:
        return "session"
    if len(words) > 2 and words[-2] == "commit" and words[-3].endswith(".pyz"):
        return "service"
    return "recover" if words[-1] == "recover" and words[-2].endswith(".pyz") else ""


def install():
    try:
        with open(FOLDER + "armed") as file:
            armed = json.load(file)
    except OSError:
        return
    if armed["process"] != process():
        return
    state = {"left": armed["nth"], "off": False}

    def hold():
        state["off"] = True
        try:
            os.rename(FOLDER + "armed", FOLDER + "was")
        except OSError:
            return
        with open(FOLDER + "held.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(FOLDER + "held.new", FOLDER + "held")
        while not os.path.exists(FOLDER + "go"):
            time.sleep(0.01)

    def hook(event, args):
        if state["off"] or event != armed["event"]:
            return
        text = repr(args)
        if all(word in text for word in armed["words"]):
            state["left"] -= 1
            if state["left"] == 0:
                hold()

    if armed["event"] == "start":
        hold()
    else:
        sys.addaudithook(hook)


install()
