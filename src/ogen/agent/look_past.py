"""The operation `past`: what monitor and balancers wrote, rotated files too, as bins of time.

Files are read newest first and line by line; a time that is spent, and lines that are torn, are told.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import time
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from .binned import CARDS, MODELS, Binned, moment
from .frames import Message
from .session import Session
from .transaction import AUDIT

Seen = Dict[str, Any]
Place = Tuple[str, str]  # kind, name
FOLDERS = ("/var/log/ogen/monitor", "/var/log/ogen", "/var/log/nginx")
PATIENCE = 300.0  # seconds for all files of a host
LINE = 64 * 1024  # bytes of a line
EACH = 20_000  # lines between two looks at the clock
EVENTS = 200
FILES = 1_000
TOLD = 5.0  # seconds between two words to the controller
_ROTATED = r"(?:-\d+(?:-\d+)?|\.\d+)?(?:\.gz)?"
_CSV = re.compile(r"(cards|models)\.csv" + _ROTATED)
_LOG = re.compile(r"(?:balancer|ogen)-([A-Za-z0-9._-]+?)\.log" + _ROTATED)
_TIME = re.compile(rb'"time": ?"([^"]{1,40})"')


def past(session: Session, message: Message, data: bytes) -> None:
    """Bins of `width` seconds between `start` and `end`, of the host's own clock."""
    host = session.host
    if host.live:
        os.nice(10)  # the host's own work comes first
    binned = Binned(float(message["start"]), float(message["end"]), int(message["width"]))
    folders = [host.disk.real(folder) for folder in FOLDERS]
    tell = lambda: session.wire.send({"event": "report", "text": "reading"})  # noqa: E731
    files = found(listed(folders))
    read(binned, files, tell=tell)
    events = audit(host.disk.read_or(AUDIT), binned.start, binned.end)
    session.reply(past={**binned.answer(), "events": events, "files": sum(map(len, files.values()))})


def listed(folders: Iterable[str]) -> List[str]:
    paths = []
    for folder in folders:
        try:
            paths += [os.path.join(folder, name) for name in sorted(os.listdir(folder))[:FILES]]
        except OSError:
            continue  # no monitor, or no balancer here
    return paths


def found(paths: Iterable[str]) -> Dict[Place, List[str]]:
    """The files that are ours by kind, newest first. One that is being compressed is there twice."""
    places: Dict[Place, List[str]] = {}
    all_paths = set(paths)
    for path in all_paths:
        name = os.path.basename(path)
        csv, log = _CSV.fullmatch(name), _LOG.fullmatch(name)
        if path.endswith(".gz") and path[:-3] in all_paths:
            continue
        if csv:
            places.setdefault((csv.group(1), ""), []).append(path)
        elif log:
            places.setdefault(("access", log.group(1)), []).append(path)
    return {place: sorted(paths, key=_age) for place, paths in sorted(places.items())}


def _age(path: str) -> Tuple[float, str]:
    try:
        return -os.stat(path, follow_symlinks=False).st_mtime, path
    except OSError:
        return 0.0, path


def read(
    binned: Binned,
    files: Dict[Place, List[str]],
    tell: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """All lines of all files into `binned`; each balancer's newest before anybody's older ones."""
    end, told = clock() + PATIENCE, clock()
    jobs = [(depth, place, path) for place, paths in files.items() for depth, path in enumerate(paths)]
    for _, place, path in sorted(jobs):
        binned.begin(MODELS if place[0] == "models" else CARDS)
        take = _taker(binned, place)
        for number, line in enumerate(_lines(binned, path)):
            take(line)
            if number % EACH == 0:
                if clock() > told + TOLD:
                    told = clock()
                    tell()
                if clock() > end:
                    binned.note("late")
                    return


def _taker(binned: Binned, place: Place) -> Callable[[bytes], None]:
    kind, name = place
    if kind == "access":
        return lambda line: binned.access(name, line)
    return binned.card if kind == "cards" else binned.model


# ------------------------------------------------------------------------------------------- files
def _lines(binned: Binned, path: str) -> Iterator[bytes]:
    """Whole lines of a plain file, of which nothing may hang or be endless: others write in that folder."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mtime < binned.start:
                return
            if path.endswith(".gz"):
                with gzip.open(file) as packed:
                    yield from _whole(binned, packed)
            else:
                _skip(file, status.st_size, binned.start)
                yield from _whole(binned, file)
    except (OSError, EOFError, ValueError):  # zlib's error too, in the end a ValueError or an OSError
        binned.note("unreadable")
    except Exception as error:
        if type(error).__module__ != "zlib":
            raise
        binned.note("unreadable")


def _whole(binned: Binned, file: Any) -> Iterator[bytes]:
    rest = False
    while True:
        line = file.readline(LINE)
        if not line:
            return
        ended = line.endswith(b"\n")
        if rest or not ended:
            if not rest:
                binned.note("torn")
            rest = not ended
            continue
        yield line


def _skip(file: IO[bytes], size: int, start: float) -> None:
    """Goes to a place not long before the first line of `start`: lines come by time, mostly."""
    low, high = 0, size
    while high - low > 4 * LINE:
        half = (low + high) // 2
        file.seek(half)
        file.readline(LINE)
        at = _moment(file.readline(LINE))
        if at is None or at >= start - 600:
            high = half
        else:
            low = half
    file.seek(low)
    if low:
        file.readline(LINE)


def _moment(line: bytes) -> Optional[float]:
    logged = _TIME.search(line)
    text = logged.group(1) if logged else line.partition(b",")[0]
    return moment(text.decode("ascii", "replace"))


def latest(files: Dict[Place, List[str]]) -> Optional[float]:
    """The last time in any of the files: where a span ends of which only copies are there."""
    times = []
    for paths in files.values():
        probe = Binned(0.0, 0.0, 1)
        for line in _lines(probe, paths[0]) if paths[0].endswith(".gz") else _end(paths[0]):
            times.append(_moment(line))
            del times[:-100]
    return max((at for at in times if at is not None), default=None)


def _end(path: str) -> List[bytes]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LINE))
            return file.read(LINE).splitlines()[-100:]
    except OSError:
        return []


# ------------------------------------------------------------------------------------------ events
def audit(data: bytes, start: float, end: float) -> List[List[Any]]:
    """[time, status, release] of the applies in the span."""
    events = []
    for line in data.splitlines():
        try:
            entry = json.loads(line.decode("utf-8", "replace"))
            at = moment(str(entry["time"]))
        except (ValueError, KeyError, TypeError):
            continue
        if at is not None and start <= at <= end:
            events.append([at, str(entry.get("status", ""))[:40], str(entry.get("to") or "")[:40]])
    return events[-EVENTS:]
