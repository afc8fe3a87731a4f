"""The end of a balancer's access log: answers by status, tries that failed, who served what lately."""

from __future__ import annotations

import datetime
import json
import os
import re
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

Seen = Dict[str, Any]
ACCESS = 4 * 1024 * 1024  # bytes of an access log's end
SERVED = 64 * 1024 * 1024  # bytes of it that are counted for a load
ROWS = 2_000  # kinds of lines that are told apart
FAILED = 500  # failed answers of instances that are kept
GONE = 200  # requests whose client left
GENERATES = re.compile(
    r"/api/(generate|chat|embed|embeddings)|/v1/([a-z]+/)?(completions|embeddings|messages|responses)"
)
RECENT = 400  # good answers of each pool that tell how it shares them
_SPLIT = re.compile(r"\s*[,:]\s+|\s*,\s*")


def access(balancer: str, since: float) -> Seen:
    """`own`: answers that nginx gave itself; `gone`: requests whose client left, with their seconds."""
    path = next((p for p in _paths(balancer) if os.path.exists(p)), None)
    statuses: Dict[str, int] = {}
    own: Dict[str, int] = {}
    failed: List[List[Any]] = []
    gone: List[List[float]] = []
    good: Dict[str, List[Tuple[float, Seen]]] = {}
    silent = Silence()
    for entry in _entries(path) if path else ():
        when = _when(str(entry.get("time", "")))
        if when is None or when < time.time() - since:
            continue
        status = str(entry.get("status", ""))
        statuses[status] = statuses.get(status, 0) + 1
        if not entry.get("upstream"):
            own[status] = own.get(status, 0) + 1
        for address, answer in tries(entry):
            if answer.startswith("5"):
                failed.append([when, address, answer])
            if GENERATES.fullmatch(str(entry.get("uri", ""))):
                began = when - _number(entry.get("seconds"))
                silent.note(str(entry.get("pool") or ""), address, answer not in ("-", "504"), began, when)
        if status == "499":
            gone.append([when, _number(entry.get("seconds"))])
        elif status == "200" and entry.get("method") == "POST" and entry.get("upstream"):
            good.setdefault(str(entry.get("pool") or ""), []).append((when, entry))
    return {
        "path": path or "",
        "statuses": statuses,
        "own": own,
        "failed": failed[-FAILED:],
        "gone": gone[-GONE:],
        "silent": silent.rows(),
        "shares": [_share(pool, rows[-RECENT:]) for pool, rows in good.items()],
    }


class Silence:
    """Of each pool's servers: requests that got no word since its last answer."""

    def __init__(self) -> None:
        self.heard: Dict[Tuple[str, str], float] = {}
        self.found: Dict[Tuple[str, str], List[float]] = {}

    def note(self, pool: str, server: str, answered: bool, began: float, ended: float) -> None:
        key = pool, server
        if answered:
            self.heard[key] = ended
            self.found.pop(key, None)
            return
        row = self.found.setdefault(key, [0, ended, ended])
        row[0] += 1
        row[1] = min(row[1], max(began, self.heard.get(key, 0.0)))
        row[2] = ended

    def rows(self) -> List[List[Any]]:
        """[pool, server, how many, since when, until when]."""
        return [[*key, *row] for key, row in self.found.items()]


def _share(pool: str, rows: List[Tuple[float, Seen]]) -> Seen:
    """How a pool's last good answers were shared: by instance, by client, and how busy that kept it."""
    served: Dict[str, int] = {}
    clients: Dict[str, int] = {}
    busy, waits = 0.0, []
    for _, entry in rows:
        server = tries(entry)[-1][0]
        served[server] = served.get(server, 0) + 1
        client = str(entry.get("client", ""))
        clients[client] = clients.get(client, 0) + 1
        busy += _number(_SPLIT.split(str(entry.get("upstream_seconds", "")))[-1])
        waits.append(_number(entry.get("waited")))
    # a line is written at the end of its request
    start = min(when - _number(entry.get("seconds")) for when, entry in rows)
    return {
        "pool": pool,
        "start": start,
        "end": rows[-1][0],
        "served": served,
        "clients": len(clients),
        "busy": busy,
        "waited": sum(wait >= 1.0 for wait in waits),
        "longest": max(waits),
    }


def served(balancer: str, mark: Optional[List[int]]) -> Seen:
    """Where a balancer's access log ends now (`mark`), and what came since the mark of an earlier answer.

    `rows`: [client, path, status, upstream that answered, how often]. `whole` is False where the log was
    rotated in between, or so much was logged that its beginning was left out.
    """
    path = next((p for p in _paths(balancer) if os.path.exists(p)), None)
    try:
        with open(path or "", "rb") as file:
            status = os.fstat(file.fileno())
            now = [status.st_ino, status.st_size]
            if mark is None:
                return {"mark": now, "rows": [], "whole": True}
            same = mark[0] == now[0] and mark[1] <= now[1]
            start = max(mark[1] if same else 0, now[1] - SERVED)
            file.seek(start)
            lines = file.read(now[1] - start).splitlines()
    except OSError:
        return {"mark": None, "rows": [], "whole": False}
    counts: Dict[Tuple[str, str, str, str], int] = {}
    for line in lines:
        entry = _entry(line)
        if entry is not None:
            client, uri, answer = (str(entry.get(name, "")) for name in ("client", "uri", "status"))
            row = client, uri, answer, (tries(entry) or [("", "")])[-1][0]
            counts[row] = counts.get(row, 0) + 1
    rows = [[*row, count] for row, count in sorted(counts.items(), key=lambda one: -one[1])[:ROWS]]
    return {"mark": now, "rows": rows, "whole": same and start == mark[1] and len(counts) <= ROWS}


def _paths(balancer: str) -> List[str]:
    return ["/var/log/ogen/balancer-%s.log" % balancer, "/var/log/nginx/ogen-%s.log" % balancer]


def _entries(path: str) -> Iterator[Seen]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - ACCESS))
            data = file.read(ACCESS)
    except OSError:
        return
    for line in data.splitlines():
        entry = _entry(line)
        if entry is not None:
            yield entry


def _entry(line: bytes) -> Optional[Seen]:
    try:
        entry = json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def tries(entry: Seen) -> List[Tuple[str, str]]:
    """nginx writes "a, b" and "502, 200" where a second upstream was tried."""
    addresses = _SPLIT.split(str(entry.get("upstream", "")))
    answers = _SPLIT.split(str(entry.get("upstream_status", "")))
    return [(a, s) for a, s in zip(addresses, answers) if a]  # noqa: B905


def _when(text: str) -> Optional[float]:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
