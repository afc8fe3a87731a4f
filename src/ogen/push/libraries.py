"""The wheels that a queue's workers run on: one archive of them, made here, so that hosts ask no index."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import tarfile
import threading
import zipfile
from pathlib import Path

from ..catalog import libraries
from ..errors import UsageError
from ..inventory import hosts_matching
from ..inventory.model import Host, Inventory, Queue


def needed(inventory: Inventory, host: Host) -> Queue | None:
    """The first queue of which a part that needs them may run on the host."""
    for queue in inventory.queues:
        balancers = [b for b in inventory.balancers if b.name in queue.balancers]
        if host.gpus or host.pins or any(host in hosts_matching(inventory, b.hosts) for b in balancers):
            return queue
    return None


def wanted(inventory: Inventory, host: Host) -> list[dict[str, str]]:
    """The archive for the host, if it needs one: its file, and an id of what is in it."""
    queue = needed(inventory, host)
    return [{"file": str(_archive(inventory, queue).absolute()), "id": libraries.ID}] if queue else []


def _archive(inventory: Inventory, queue: Queue) -> Path:
    return Path(inventory.folder, queue.libraries, f".ogen-queue-{libraries.ID}.tar")


def prepare(inventory: Inventory, host: Host) -> None:
    """Makes the archive. UsageError where a wheel is not there, or is another one than was pinned."""
    queue = needed(inventory, host)
    if queue is None:
        return
    path = _archive(inventory, queue)
    data = packed(Path(inventory.folder, queue.libraries), queue)
    if not path.exists() or path.read_bytes() != data:
        part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        part.write_bytes(data)
        part.replace(path)


def packed(folder: Path, queue: Queue) -> bytes:
    """What is in the wheels, as a tar that is the same for the same wheels."""
    files: dict[str, bytes] = {}
    for name in sorted(libraries.WHEELS):
        files |= _read(folder / name, queue)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _read(wheel: Path, queue: Queue) -> dict[str, bytes]:
    """Files of a wheel by path, after a look whether it is the pinned one."""
    try:
        data = wheel.read_bytes()
    except OSError as error:
        folder = shlex.quote(str(wheel.parent))
        hint = f"python3 -m pip download --no-deps --only-binary :all: -d {folder} {libraries.wanted()}"
        reason = (error.strerror or "can't be read").lower()
        raise UsageError(f"{wheel}: {reason}", where=queue.where, hint=hint) from None
    found = hashlib.sha256(data).hexdigest()
    if found != libraries.WHEELS[wheel.name]:
        message = f"{wheel}: its sha256 is {found}, and ogen wants {libraries.WHEELS[wheel.name]}"
        raise UsageError(message, where=queue.where, hint="download it again")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
