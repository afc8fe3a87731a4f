"""First push, nothing to do, and a dry run with a diff: ogen beside its peers and plain ssh, in turns.

    python benchmarks/push.py [--hosts 10,20] [--delay 0,20] [--rounds 3] [--only ogen,ssh+tar] [--json FILE]

Every host is an OpenSSH server of its own on loopback; --delay puts a round trip of so many milliseconds
in front (see _delay.py). 30 plain files per host; no unit and no nginx file among them, so no contender
restarts or validates anything.

W1  first push onto empty hosts        verified by content and mode of every file
W2  the same again, nothing to do      verified by untouched inodes and times
W3  dry run, one line of one file new  verified by untouched inodes and times, and by the line in the output

Measured is the whole process, Python's start and imports included: wall, CPU of the client (with ssh
masters that it leaves behind), CPU of the far side. Not in ogen's figures: loading an inventory, planning
and rendering (see benchmarks/compile.py), sudo, and systemd-run, since the hosts are folders.

Needs sshd; each peer that is not installed is named and left out (pip install -e '.[bench]', rsync).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from _contenders import ALL, SEARCH, Contender, Floor, Job, Work
from _delay import Delay
from _farm import Box, Farm, children, end

FILES = 30
SLACK = 0.2  # seconds: start of Python and its imports
TIMES = 2.5  # of the floor
TRIPS = {"W1": 11, "W2": 10}
COUNTING = 100  # ms of round trip
EXPECTED = (("ansible-synchronize", 5), ("ansible-", 12), ("pyinfra-", 10))
CHANGED = "the line that a dry run must show"


@dataclass(slots=True)
class Run:
    """One measured job; times in seconds."""

    wall: float
    client: float
    far: float
    trips: int | None  # of the connection with the most
    peak: int | None  # KiB, where the program says it


@dataclass(slots=True)
class Setting:
    """What is measured at once: hosts, delay, and all runs by contender and work."""

    hosts: int
    delay: int  # ms
    runs: dict[str, dict[str, list[Run]]] = field(default_factory=dict)

    def median(self, name: str, work: str, what: str = "wall") -> float | None:
        found = self.runs.get(name, {}).get(work)
        return statistics.median(getattr(run, what) for run in found) if found else None

    def worst(self, name: str, work: str, what: str) -> int | None:
        found = [v for run in self.runs.get(name, {}).get(work, []) if (v := getattr(run, what)) is not None]
        return max(found, default=None)


# ------------------------------------------------------------------------------------- the files
def make_files(folder: Path) -> None:
    """30 files of 0.2 to 6 kB of text with three modes."""
    chance = random.Random(7)
    folder.mkdir(parents=True)
    for number in range(FILES):
        lines = [f"option_{chance.randrange(10**6)} = {chance.random()}" for _ in range(5 + number * 5)]
        path = folder / f"file{number:02}.conf"
        path.write_text("\n".join(lines) + "\n")
        path.chmod((0o644, 0o600, 0o755)[number % 3])


@contextmanager
def one_line_changed(folder: Path) -> Iterator[None]:
    path = folder / "file10.conf"
    before = path.read_text()
    path.write_text(before.replace("\n", f"\n{CHANGED}\n", 1))
    try:
        yield
    finally:
        path.write_text(before)


def verify(contender: Contender, boxes: Sequence[Box], folder: Path) -> None:
    for box in boxes:
        for file in folder.iterdir():
            there = contender.place(box) / file.name
            if not there.is_file() or there.read_bytes() != file.read_bytes():
                raise SystemExit(f"{contender.name}: {box.name} has not the right {file.name}")
            if there.stat().st_mode != file.stat().st_mode:
                raise SystemExit(f"{contender.name}: {box.name} has not the right mode of {file.name}")


def stamps(contender: Contender, boxes: Sequence[Box]) -> list[tuple[str, int, int]]:
    files = [p for b in boxes for p in contender.place(b).iterdir()]
    return sorted((str(p), p.lstat().st_ino, p.lstat().st_mtime_ns) for p in files)


# ---------------------------------------------------------------------------------------- one run
class Track:
    """Runs jobs and measures them."""

    def __init__(self, farm: Farm, delay: Delay | None, folder: Path) -> None:
        self.farm = farm
        self.delay = delay
        self.home = folder / "client"
        self.home.mkdir()
        self.ours = {s.pid for s in farm.servers} | ({delay.process.pid} if delay else set())

    def run(self, job: Job) -> tuple[Run, str]:
        """Measures a job; SystemExit with its output if it fails."""
        if self.delay:
            self.delay.trips()
        servers, waited = self.farm.cpu(), _cpu(resource.RUSAGE_CHILDREN)
        (wall, client, codes), text, runner = self._apart(job)
        if not set(codes) <= job.codes:
            raise SystemExit(f"{job.commands[0]} ended with {codes}:\n{text[:1000]}\n…\n{text[-2000:]}")
        self._adopted()
        far = self.farm.cpu() - servers + _cpu(resource.RUSAGE_CHILDREN) - waited - runner
        trips = max(self.delay.trips(), default=None) if self.delay else None
        return Run(wall, client, far, trips, _peak(text)), text

    def _apart(self, job: Job) -> tuple[tuple[float, float, list[int]], str, float]:
        """Runs it under a process of its own, which adopts what the client leaves behind (ssh's masters).
        What the far side leaves behind becomes ours."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pid = os.fork()
            if pid == 0:
                try:
                    _adopt()
                    (folder / "measured").write_text(json.dumps(self._measured(job, folder)))
                finally:
                    os._exit(0)
            used = os.wait4(pid, 0)[2]
            texts = [(folder / str(n)).read_text(errors="replace") for n in range(len(job.commands))]
            wall, client, codes = json.loads((folder / "measured").read_text())
        return (wall, client, codes), "\n".join(texts), used.ru_utime + used.ru_stime

    def _measured(self, job: Job, folder: Path) -> tuple[float, float, list[int]]:
        env = {"HOME": str(self.home), "PATH": SEARCH, "LC_ALL": "C.UTF-8", **dict(job.env)}
        processes = []
        begun = time.perf_counter()
        for number, command in enumerate(job.commands):
            given, out = (job.stdin or Path(os.devnull)).open("rb"), (folder / str(number)).open("wb")
            with given, out:
                processes.append(
                    subprocess.Popen(command, stdin=given, stdout=out, stderr=out, env=env, cwd=self.home)
                )
        codes = [process.wait() for process in processes]
        wall = time.perf_counter() - begun
        for pid in children(os.getpid()):
            end(pid)
        return wall, _cpu(resource.RUSAGE_CHILDREN), codes

    def _adopted(self) -> None:
        """Waits for agents whose session was gone before they were."""
        for pid in set(children(os.getpid())) - self.ours:
            os.waitpid(pid, 0)


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _peak(text: str) -> int | None:
    words = text.split()
    return int(words[words.index("peak") + 1]) if "peak" in words else None


def _adopt() -> None:
    """What our children leave behind becomes ours, so that its time is counted, and its end seen."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


# --------------------------------------------------------------------------------------- the rounds
def measure(hosts: int, delay: int, rounds: int, chosen: Sequence[type[Contender]]) -> Setting:
    found = Setting(hosts, delay)
    with tempfile.TemporaryDirectory(prefix="ogen-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        make_files(folder / "files")
        with Farm(folder / "farm", hosts, delayed=bool(delay)) as farm:
            ways = [(b.address, b.server) for b in farm.boxes]
            line = Delay(delay / 1000, farm.port, ways) if delay else None
            try:
                track = Track(farm, line, folder)
                work = Work(farm, folder / "files", folder / "work")
                work.folder.mkdir()
                contenders = [one(work) for one in chosen]
                for number in range(rounds):
                    for contender in random.Random(number).sample(contenders, len(contenders)):
                        print(f"round {number + 1}: {contender.name}", file=sys.stderr)
                        _one_round(track, contender, work, found)
            finally:
                if line:
                    line.close()
    return found


def _one_round(track: Track, contender: Contender, work: Work, found: Setting) -> None:
    boxes = work.farm.boxes
    runs = found.runs.setdefault(contender.name, {})
    for box in boxes:
        shutil.rmtree(box.home)
        box.home.mkdir()
    first, _ = track.run(contender.push())
    verify(contender, boxes, work.files)
    before = stamps(contender, boxes)
    second, _ = track.run(contender.again())
    if stamps(contender, boxes) != before:
        raise SystemExit(f"{contender.name}: a second push wrote something")
    runs.setdefault("W1", []).append(first)
    runs.setdefault("W2", []).append(second)
    with one_line_changed(work.files):
        dry = contender.dry()
        if dry is None:
            return
        third, text = track.run(dry)
    if stamps(contender, boxes) != before:
        raise SystemExit(f"{contender.name}: a dry run wrote something")
    if contender.shows and CHANGED not in text:
        raise SystemExit(f"{contender.name}: the dry run does not show the change:\n{text[-2000:]}")
    runs.setdefault("W3", []).append(third)


def count(chosen: Sequence[type[Contender]]) -> Setting:
    """Round trips, apart: behind a long line, where nobody has much to say before an answer can come."""
    found = measure(1, COUNTING, 1, [one for one in chosen if one.name.startswith(("ogen", "ssh+tar"))])
    print(f"\nround trips of a connection, counted on one host behind {COUNTING} ms (TCP's own included)")
    for name, works in found.runs.items():
        print(f"{name:20}" + "".join(f"  {work} {runs[0].trips}" for work, runs in works.items()))
    for work, most in TRIPS.items():
        trips = found.worst("ogen", work, "trips")
        if trips:
            print(f"{_word(trips <= most)}  {work}: {trips} round trips, bar {most}")
    return found


# ------------------------------------------------------------------------------------- the table
def table(found: Setting, shows: Mapping[str, bool]) -> None:
    delay = f"{found.delay} ms round trip" if found.delay else "loopback"
    rounds = max(len(w["W1"]) for w in found.runs.values())
    print(
        f"\n{found.hosts} hosts, {delay}, {rounds} rounds: medians of wall / client CPU / far CPU in seconds"
    )
    print("×: wall of the contender by ogen's")
    print(f"{'':20}" + "".join(f"{work:>32}" for work in ("W1 first push", "W2 nothing to do", "W3 dry run")))
    for name, works in found.runs.items():
        cells = [_cell(found, name, work) for work in ("W1", "W2", "W3")]
        note = "" if shows[name] or "W3" not in works else "  (shows no diff)"
        print(f"{name:20}" + "".join(f"{cell:>32}" for cell in cells) + note)


def _cell(found: Setting, name: str, work: str) -> str:
    wall = found.median(name, work)
    if wall is None:
        return "–"
    client, far = found.median(name, work, "client"), found.median(name, work, "far")
    ours = found.median("ogen", work)
    times = f"{wall / ours:6.1f}×" if ours else ""
    return f"{wall:.2f} / {client:.2f} / {far:.2f}{times}"


def bars(found: Setting) -> list[str]:
    """Whether ogen is as quick as it says."""
    said = []
    for work in ("W1", "W2"):
        ours, floor = found.median("ogen", work), found.median(Floor.name, work)
        if ours and floor:
            bar = TIMES * floor + SLACK
            text = f"{work}: ogen {ours:.2f} s, bar {bar:.2f} s = {TIMES} × {floor:.2f} + {SLACK}"
            said.append((text, ours <= bar))
    peak = found.worst("ogen", "W1", "peak")
    if peak:
        said.append((f"memory of the controller: {peak / 1024:.0f} MiB, bar 250 MB", peak * 1024 < 250e6))
    return [f"{_word(good)}  {text}" for text, good in said]


def _word(good: bool) -> str:
    return "holds " if good else "MISSED"


def expectations(found: Setting) -> list[str]:
    said = []
    for name in found.runs:
        least = next((times for prefix, times in EXPECTED if name.startswith(prefix)), None)
        for work in ("W1", "W2", "W3") if least else ():
            theirs, ours = found.median(name, work), found.median("ogen", work)
            if theirs and ours and least:
                word, times = _word(theirs >= least * ours), theirs / ours
                said.append(f"{word}  {work}: {times:.1f} × as fast as {name}, expected {least}")
    return said


def main() -> None:
    known = {one.name: one for one in ALL}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", default="10", help="numbers of hosts, by commas")
    parser.add_argument("--delay", default="0", help="round trips in ms, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help=f"of {', '.join(known)}; a beginning will do")
    parser.add_argument("--json", metavar="FILE", type=Path)
    args = parser.parse_args()
    words = args.only.split(",")
    chosen = []
    for name, one in known.items():
        if any(name == word or (word not in known and name.startswith(word)) for word in words):
            lacking = one.lacking()
            if lacking:
                print(f"{name} is left out: {lacking}", file=sys.stderr)
            else:
                chosen.append(one)
    if not chosen:
        parser.error(f"--only {args.only} names none of {', '.join(known)}")
    _adopt()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end with us
    all_ = []
    for delay in args.delay.split(","):
        for hosts in args.hosts.split(","):
            found = measure(int(hosts), int(delay), args.rounds, chosen)
            table(found, {one.name: one.shows for one in chosen})
            print("\n".join([*bars(found), *expectations(found)]))
            all_.append(asdict(found))
    if args.delay != "0":
        all_.append(asdict(count(chosen)))
    if args.json:
        args.json.write_text(json.dumps({"version": 1, "settings": all_}, indent=1) + "\n")


if __name__ == "__main__":
    main()
