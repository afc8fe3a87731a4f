"""Faults that strike at a moment of the agent's: killed, cut off, without power, disk or the right time."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from faults import Cell
from rig import SECOND, Rig, Session


@dataclass(frozen=True)
class Strike:
    """The moment: `running` is the controller, `pid` the agent that is held."""

    rig: Rig
    cell: Cell
    running: Session
    pid: int


Struck = Callable[[Strike], None]
Fault = Callable[[Rig], contextlib.AbstractContextManager[Struck]]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Callable[[Strike], None]], Callable[[Strike], None]]:
    """A fault that needs no preparation and no healing."""

    def named(strike: Callable[[Strike], None]) -> Callable[[Strike], None]:
        FAULTS[name] = lambda rig: contextlib.nullcontext(strike)
        return strike

    return named


@contextlib.contextmanager
def breaking(rig: Rig, cell: Cell) -> Iterator[None]:
    """For the step `revert`: the new release can't be proven."""
    if cell.step == "revert":
        rig.lab.write(rig.box, SECOND, "oom")
    try:
        yield
    finally:
        rig.sh(f"rm -f {SECOND}", check=False)


def mend(rig: Rig, cell: Cell) -> None:
    """What broke the new release must not break the old one."""
    if cell.step == "revert":
        rig.sh(f"rm -f {SECOND}")


@fault("controller")
def kill_controller(at: Strike) -> None:
    at.running.kill()
    at.running.wait()
    at.rig.holds.go()


@fault("agent")
def kill_agent(at: Strike) -> None:
    for pid in at.rig.sessions():
        at.rig.sh(f"kill -9 {pid}")
    at.rig.holds.go()


@fault("service")
def kill_service(at: Strike) -> None:
    at.rig.sh("systemctl kill -s KILL ogen-tx.service")
    at.rig.holds.go()


@fault("session")
def end_session(at: Strike) -> None:
    at.rig.sh("loginctl terminate-user admin")
    at.rig.holds.go()


@fault("controller, session and service")
def kill_both(at: Strike) -> None:
    at.running.kill()
    at.running.wait()
    for pid in at.rig.sessions():
        at.rig.sh(f"kill -9 {pid}", check=False)
    at.rig.sh("loginctl terminate-user admin; systemctl kill -s KILL ogen-tx.service || true", check=False)
    at.rig.holds.go()


def unplug(at: Strike, seconds: float) -> None:
    at.rig.lab.tool("link", at.rig.box, "down")
    at.rig.holds.go()
    time.sleep(seconds)
    at.rig.lab.tool("link", at.rig.box, "up")


@fault("cable out for 4 s")
def cable(at: Strike) -> None:
    unplug(at, 4.0)


@fault("cable out for 70 s")
def cable_for_long(at: Strike) -> None:
    unplug(at, 70.0)


@fault("power")
def power(at: Strike) -> None:
    at.rig.lab.tool("kill", at.rig.box)
    at.rig.lab.tool("start", at.rig.box)


@fault("second controller")
def second(at: Strike) -> None:
    other = at.rig.controller("second")
    at.rig.change(other)
    locked = at.cell.step != "request"
    done = other.ogen("apply", "--yes", code=5 if locked else 0)
    if locked:
        assert "another rollout holds this host" in done.stderr
    at.rig.holds.go()


@fault("agent stopped for 70 s")
def stop_agent(at: Strike) -> None:
    """Nobody else gets in meanwhile; and when it goes on, it finds nobody and changes nothing."""
    (pid,) = at.rig.sessions()
    at.rig.sh(f"kill -STOP {pid}")
    at.rig.holds.go()
    at.running.kill()
    at.running.wait()
    time.sleep(70)
    at.rig.project.ogen("apply", "--yes", code=5)
    at.rig.sh(f"kill -CONT {pid}")


@fault("controller stopped for 70 s")
def stop_controller(at: Strike) -> None:
    at.running.send_signal(19)
    at.rig.holds.go()
    time.sleep(70)
    at.running.send_signal(18)


# ------------------------------------------------------------------- those that prepare and heal
def healed(name: str) -> Callable[[Callable[[Rig], Iterator[Struck]]], None]:
    def named(made: Callable[[Rig], Iterator[Struck]]) -> None:
        FAULTS[name] = contextlib.contextmanager(made)

    return named


def waits_for_the_end(at: Strike) -> None:
    """The fault lasts until apply has ended."""
    at.rig.holds.go()
    with contextlib.suppress(subprocess.TimeoutExpired):
        at.running.wait(120)


@contextlib.contextmanager
def small_disk(rig: Rig) -> Iterator[None]:
    """/etc/ogen as a small file system of its own."""
    rig.sh("rm -rf /run/kept && cp -a /etc/ogen /run/kept")
    rig.sh("mount -t tmpfs -o size=48m,nr_inodes=2000 tmpfs /etc/ogen")
    rig.sh("cp -a /run/kept/. /etc/ogen && rm -rf /run/kept")
    try:
        yield
    finally:
        rig.sh("rm -rf /run/kept && cp -a /etc/ogen /run/kept && umount -l /etc/ogen")
        rig.sh("find /etc/ogen -mindepth 1 -delete && cp -a /run/kept/. /etc/ogen && rm -rf /run/kept")


def filled(command: str) -> Callable[[Rig], Iterator[Struck]]:
    """`command` makes /etc/ogen/fill as large as the disk."""

    def made(rig: Rig) -> Iterator[Struck]:
        def strike(at: Strike) -> None:
            rig.sh(f"{command} 2>/dev/null", check=False)
            waits_for_the_end(at)
            rig.sh("rm -rf /etc/ogen/fill")

        with small_disk(rig):
            yield strike

    return made


_MANY = "import os;os.mkdir('/etc/ogen/fill')\nfor n in range(9999):open('/etc/ogen/fill/%d' % n, 'w')"
healed("disk full")(filled("head -c 1G /dev/zero >/etc/ogen/fill"))
healed("no inodes")(filled(f'python3 -S -c "{_MANY}"'))


@healed("read-only")
def read_only(rig: Rig) -> Iterator[Struck]:
    def strike(at: Strike) -> None:
        rig.sh("mount --bind /etc /etc && mount -o remount,bind,ro /etc")
        waits_for_the_end(at)
        rig.sh("umount -l /etc")

    yield strike


def clock(years: int) -> Callable[[Rig], Iterator[Struck]]:
    """All of the box's programs, started from now on, see another time of day; the machine's clock stays."""

    def made(rig: Rig) -> Iterator[Struck]:
        copy_clock(rig)

        def strike(at: Strike) -> None:
            rig.lab.write(rig.box, "/run/faults/clock", str(years * 365 * 86400))
            shown = int(rig.sh("date +%s"))
            assert abs(shown - time.time() - years * 365 * 86400) < 3600
            waits_for_the_end(at)

        try:
            yield strike
        finally:
            rig.sh("rm -f /etc/ld.so.preload /run/faults/clock")

    return made


healed("clock +10 years")(clock(10))
healed("clock -10 years")(clock(-10))

_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) {
    char text[32] = {0};
    int file = open("/run/faults/clock", O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    return atol(text);
}
int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(which, now);
    if (!done && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return done;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *where) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where) *where = exact.tv_sec;
    return exact.tv_sec;
}
"""


def copy_clock(rig: Rig) -> None:
    library = rig.folder / "clock.so"
    if not library.exists():
        source = rig.folder / "clock.c"
        source.write_text(_CLOCK)
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    text = base64.b64encode(library.read_bytes()).decode()
    rig.lab.write(rig.box, "/run/clock.b64", text)
    rig.sh("base64 -d /run/clock.b64 >/usr/local/lib/clock.so")
    rig.sh("echo /usr/local/lib/clock.so >/etc/ld.so.preload")
