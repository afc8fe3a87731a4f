"""Runs a contender's job, and measures it: wall, CPU of both sides, round trips, memory."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from _contenders import SEARCH, Job
from _delay import Delay
from _farm import Farm, children, end


@dataclass(slots=True)
class Run:
    """One measured job; times in seconds."""

    wall: float
    client: float
    far: float
    trips: int | None  # of the connection with the most
    peak: int | None  # KiB, where the program says it


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
                    adopt()
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


def adopt() -> None:
    """What our children leave behind becomes ours, so that its time is counted, and its end seen."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
