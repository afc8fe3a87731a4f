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

The copy loops of Ansible take minutes and are measured only when named. Needs sshd; each peer that is
not installed is named and left out (pip install -e '.[bench]', rsync).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from _contenders import ALL, Contender, Work
from _delay import Delay
from _farm import Box, Farm
from _push_table import Setting, bars, expectations, table, trips
from _track import Track, adopt

FILES = 30
COUNTING = 100  # ms of round trip
USUAL = "ssh+tar,ogen,ogen-openssh,ansible-synchronize,ansible-unarchive,pyinfra"
CHANGED = "the line that a dry run must show"


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
    print("\n".join(trips(found)))
    return found


def _chosen(only: str, known: Mapping[str, type[Contender]]) -> list[type[Contender]]:
    """By whole names, or by how they begin."""
    chosen = []
    for name, one in known.items():
        if any(name == word or (word not in known and name.startswith(word)) for word in only.split(",")):
            lacking = one.lacking()
            if lacking:
                print(f"{name} is left out: {lacking}", file=sys.stderr)
            else:
                chosen.append(one)
    return chosen


def main() -> None:
    known = {one.name: one for one in ALL}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", default="10", help="numbers of hosts, by commas")
    parser.add_argument("--delay", default="0", help="round trips in ms, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=USUAL, help=f"of {', '.join(known)}; a beginning will do")
    parser.add_argument("--json", metavar="FILE", type=Path)
    args = parser.parse_args()
    chosen = _chosen(args.only, known)
    if not chosen:
        parser.error(f"--only {args.only} names none of {', '.join(known)}, or what it needs is not there")
    adopt()
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
