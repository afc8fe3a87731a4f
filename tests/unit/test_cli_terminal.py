"""A secret word from a real terminal: asked once, never echoed, hidden from all output, and Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from terminals import Terminal

WORD = "correct horse"
PROGRAM = """
import sys, threading
from ogen.cli import console, terminal
from ogen.cli.vault import Vault
from ogen.push.access import Keyring
vault = Vault(".")
console.hide(vault.redact)
ring = Keyring(ask=terminal.asker(vault))
class Screen:
    def start(self): console.say("screen on")
    def stop(self): console.say("screen off")
terminal.occupy(Screen())
words = []
work = lambda: words.append(ring.typed(("sudo", "ops"), "sudo password of ops: "))
threads = [threading.Thread(target=work) for _ in range(5)]
try:
    for t in threads: t.start()
    for t in threads: t.join()
except KeyboardInterrupt:
    console.say("interrupted")
    import time
    end = time.monotonic() + 20
    while not words and time.monotonic() < end: time.sleep(0.05)
console.say(f"{len(set(words))} {len(words)} {type(words[0]).__name__} {len(words[0] or '')}")
console.say("shown: " + str(words[0]))
"""


def test_a_word_is_asked_once_and_not_shown() -> None:
    one = Terminal(sys.executable, "-c", PROGRAM)
    one.until("sudo password of ops: ")
    one.type(f"{WORD}\n".encode())
    one.until("shown: ")
    one.until("\n")
    one.end()
    assert one.shown.count("sudo password of ops") == 1
    assert f"1 5 str {len(WORD)}" in one.shown
    assert WORD not in one.shown
    screen = [line for line in one.shown.splitlines() if line.startswith("screen")]
    assert screen == ["screen off", "screen on"]


def test_ctrl_c_is_no_answer() -> None:
    one = Terminal(sys.executable, "-c", PROGRAM)
    one.until("sudo password of ops: ")
    one.type(b"half\x03")
    one.until("interrupted")
    one.until("shown: None")
    one.end()
    assert "half" not in one.shown


def test_without_a_terminal_nobody_is_asked() -> None:
    program = (
        "from ogen.cli import terminal; from ogen.cli.vault import Vault; print(terminal.asker(Vault('.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None\n"
