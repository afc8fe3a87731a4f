"""Faults that belong to no moment of the agent's: what a release brings with it, and who is at the door."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import OGEN, Commands
from faults import STEPS
from rig import SECOND, Rig, Session, Spoken

from ogen import shipped

#: What it does to an apply; returns apply's exit code and all that it said.
Alone = Callable[[Rig], tuple[int, str]]
ALONE: dict[str, Alone] = {}


def alone(name: str) -> Callable[[Alone], Alone]:
    def named(made: Alone) -> Alone:
        ALONE[name] = made
        return made

    return named


def until_revert(rig: Rig, running: Session, mend: str) -> tuple[int, str]:
    """What breaks the new release is mended as soon as the host turns back: the old one is to be had."""
    spoken = Spoken(running)
    end = time.monotonic() + 120
    while not any(": revert:" in part for part in spoken.parts) and running.poll() is None:
        assert time.monotonic() < end, spoken.parts
        time.sleep(0.05)
    rig.sh(mend)
    return spoken.end(120)


def instance_fault(fault: str) -> Alone:
    def made(rig: Rig) -> tuple[int, str]:
        rig.change()
        rig.lab.write(rig.box, SECOND, fault)
        return until_revert(rig, rig.project.start("apply", "--yes"), f"rm -f {SECOND}")

    return made


ALONE["unit does not start"] = instance_fault("refuse")
ALONE["wrong card"] = instance_fault("wrongcard")
ALONE["VRAM short"] = instance_fault("novram")
ALONE["no card"] = instance_fault("nogpu")
ALONE["out of memory"] = instance_fault("oom")


@alone("unit dies after 5 s")
def dies(rig: Rig) -> tuple[int, str]:
    """With the patience that `ogen` has for everybody."""
    rig.change()
    rig.lab.write(rig.box, SECOND, "late:5")
    command = [*OGEN, "apply", str(rig.project.inventory), "--yes"]
    running = subprocess.Popen(
        command, env=rig.project.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return until_revert(rig, running, f"rm -f {SECOND}")


@alone("card gone for good")
def gone_for_good(rig: Rig) -> tuple[int, str]:
    """Not the release's fault: the old one can't have its card either, so nothing is called rolled back."""
    rig.change()
    rig.lab.write(rig.box, SECOND, "nogpu")
    try:
        return ogen(rig.project)
    finally:
        rig.sh(f"rm -f {SECOND}")


@alone("nginx file with a mistake")
def bad_file(rig: Rig) -> tuple[int, str]:
    text = (shipped.folder("templates") / "nginx.conf.j2").read_text()
    changed = rig.project.folder / "templates" / "nginx.conf.j2"
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(text.replace("http {", "http {\n    no_such_directive on;", 1))
    rig.change()
    try:
        return ogen(rig.project)
    finally:
        changed.unlink()


@alone("device node missing")
def no_node(rig: Rig) -> tuple[int, str]:
    rig.change()
    rig.sh("rm /dev/nvidia1")
    return until_revert(rig, rig.project.start("apply", "--yes"), "mknod -m 666 /dev/nvidia1 c 195 1")


@alone("port taken after nginx -t")
def port_taken(rig: Rig) -> tuple[int, str]:
    """nginx's reload returns 0 and goes on with the old configuration: its own answer tells."""
    rig.holds.arm(STEPS["reload"])
    rig.change(listen=8099)
    running = rig.project.start("apply", "--yes")
    spoken = Spoken(running)
    rig.holds.held(lambda: running.poll() is not None)
    rig.sh("systemd-run -q --unit=squatter python3 -m http.server 8099; sleep 1")
    rig.holds.go()
    try:
        return spoken.end(120)
    finally:
        rig.sh("systemctl stop squatter")


# ------------------------------------------------------------------------------------ at the door
def ogen(project: Commands) -> tuple[int, str]:
    done = project.ogen("apply", "--yes", code=None, timeout=120)
    return done.returncode, done.stdout + done.stderr


@alone("wrong sudo password")
def wrong_password(rig: Rig) -> tuple[int, str]:
    rig.change(user="ops", password=", become_password: !env PASSWORD")
    return ogen(dataclasses.replace(rig.project, variables={"PASSWORD": "wrong"}))


@alone("no sudo password")
def no_password(rig: Rig) -> tuple[int, str]:
    rig.change(user="ops")
    return ogen(rig.project)


@alone("guest without sudo")
def guest(rig: Rig) -> tuple[int, str]:
    rig.change(user="guest")
    return ogen(rig.project)


def known(rig: Rig, text: str) -> tuple[int, str]:
    file = rig.folder / "known_hosts"
    file.write_text(text)
    rig.change()
    return ogen(dataclasses.replace(rig.project, variables={"OGEN_KNOWN_HOSTS": str(file)}))


@alone("changed host key")
def changed_key(rig: Rig) -> tuple[int, str]:
    key = Path(rig.folder, "another")
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return known(rig, f"{rig.address} {' '.join(key.with_suffix('.pub').read_text().split()[:2])}\n")


@alone("unknown host key")
def unknown_key(rig: Rig) -> tuple[int, str]:
    return known(rig, "")


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            for one in kept:
                one.close()


@alone("TCP and then silence")
def says_nothing(rig: Rig) -> tuple[int, str]:
    with silent() as port:
        file = rig.folder / "known_hosts"
        file.write_text(f"[127.0.0.1]:{port} {' '.join(rig.lab.known_hosts.read_text().split()[1:3])}\n")
        rig.change(address="127.0.0.1", port=f", port: {port}, connect_timeout: 2s")
        return ogen(dataclasses.replace(rig.project, variables={"OGEN_KNOWN_HOSTS": str(file)}))
