"""The transaction's journal: one JSON line per record with its crc, on the disk before the next step.

A torn last line counts as absent; any other bad line means that nobody can say what happened (Broken).
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Dict, List, Optional

from .disk import Disk
from .errors import Broken

PATH = "/etc/ogen/journal"
#: records after which nothing is under way; STUCK too: the next apply starts from what is in force
FINAL = ("END", "STUCK")
UNREADABLE = "unreadable"

Record = Dict[str, Any]


def line(record: Record) -> bytes:
    text = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def parse(data: bytes) -> List[Record]:
    """The records; raises Broken for damage anywhere but in the last line."""
    lines = data.split(b"\n")
    records = []
    for number, text in enumerate(lines):
        record = _record(text)
        if record is not None:
            records.append(record)
        elif number < len(lines) - 1 and any(lines[number + 1 :]):
            raise Broken(
                "line %d of %s is damaged" % (number + 1, PATH),
                "apply again: it starts from the release in force",
            )
    return records


def _record(text: bytes) -> Optional[Record]:
    crc, _, body = text.partition(b" ")
    try:
        if int(crc, 16) != zlib.crc32(body):
            return None
        record = json.loads(body.decode())
    except ValueError:
        return None
    return record if isinstance(record, dict) and "rec" in record else None


class Journal:
    """The records of the last transaction; `begin` starts anew."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def records(self) -> List[Record]:
        """Raises Broken; OSError when the file is there and can't be read."""
        return parse(self._data())

    def state(self) -> str:
        """For who looks: the last record's kind, IDLE when nothing is under way, UNREADABLE."""
        try:
            records = self.records()
        except (Broken, OSError):
            return UNREADABLE
        return "idle" if not records or records[-1]["rec"] == "END" else str(records[-1]["rec"])

    def settle(self) -> None:
        """What a killed run wrote and did not sync is on the disk before anything is built on it."""
        self.disk.append(PATH, b"")

    def give_up(self, why: str) -> None:
        """Puts an unreadable journal aside and starts a new one that says so; epochs go on rising."""
        data = self._data()
        known = [record for record in map(_record, data.split(b"\n")) if record]
        record = line({"rec": "STUCK", "tx": "", "epoch": epoch(known), "why": why})
        # lost in a power cut, the journal is as unreadable as it was, and this is done again
        self.disk.replace(PATH + ".broken", data, sync=False)
        self.disk.replace(PATH, record, sync=False)

    def _data(self) -> bytes:
        return self.disk.read(PATH) if self.disk.lstat(PATH) else b""

    def begin(self, record: Record) -> None:
        self.disk.replace(PATH, line({"rec": "BEGIN", **record}))

    def add(self, rec: str, **more: Any) -> None:
        """What this returns from is on the disk: a hole before the next record would make it unreadable."""
        self._mend()
        self.disk.append(PATH, line({"rec": rec, **more}))

    def _mend(self) -> None:
        """Drops a torn last line, so that what is added next stands on a line of its own.

        A line that lost its beginning in a power cut may well end in a newline.
        """
        data = self._data()
        whole = b"".join(map(line, parse(data)))
        if data != whole:
            self.disk.replace(PATH, whole)


def idle(records: List[Record]) -> bool:
    return not records or records[-1]["rec"] in FINAL


def epoch(records: List[Record]) -> int:
    return max((int(r.get("epoch", 0)) for r in records), default=0)
