"""Loads, plans, exports and renders projects while every file that is opened and every program is recorded.

Run as `python watch.py PROJECT…`, `--control FILE` or `--diff SCRATCH PROJECT…`; prints one JSON line
per project. `--diff` runs `ogen diff --base HEAD`: it may start git and write into SCRATCH, no more.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LIBRARIES = [os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, TOP / "src", TOP / "templates")]
RUNS = ("subprocess.", "os.exec", "os.spawn", "os.posix_spawn", "os.system", "os.fork", "pty.", "socket.")
LOOKS = ("os.listdir", "os.scandir", "os.walk", "glob.")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "shutil.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

events: list[str] = []
watched: list[str] = []  # the project under watch; empty while none is
scratch: list[str] = []  # where files may be written
programs: list[str] = []  # that may be started


def inside(path: object, folders: list[str]) -> bool:
    real = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
    return any(real == folder or real.startswith(folder + os.sep) for folder in folders)


def opened(folder: int) -> Path:
    return Path(f"/proc/self/fd/{folder}").readlink()


def place(event: str, arguments: tuple[object, ...]) -> object:
    """The path that an event is about, also where it was given as or beneath an open folder."""
    path, last = arguments[0], arguments[-1]
    if isinstance(path, int):
        return opened(path)
    if event.startswith(CHANGES) and type(last) is int and last >= 0:
        return opened(last) / str(path)
    return path or "."


def hook(event: str, arguments: tuple[object, ...]) -> None:
    if not watched:
        return
    if event == "open":
        path, _, flags = arguments
        writing = isinstance(flags, int) and flags & WRITING
        if isinstance(path, int) and not writing:
            return  # a file that was opened before, and judged then
        if inside(path, scratch) or (writing and path == os.devnull):
            return
        if writing or not inside(path, [*watched, *LIBRARIES]):
            events.append(f"open {path!r}")
    elif event.startswith(LOOKS):
        if not inside(place(event, arguments), [*watched, *LIBRARIES, *scratch]):
            events.append(f"{event} {arguments[0]!r}")
    elif event.startswith(CHANGES) and inside(place(event, arguments), scratch):
        return
    elif event.startswith((*RUNS, *CHANGES)) and not (
        event == "subprocess.Popen" and arguments[0] in programs
    ):
        events.append(f"{event} {arguments!r}")


def told(error: BaseException) -> str:
    return f"refused: {error}"


def watch(project: Path) -> dict[str, object]:
    from ogen.errors import OgenError
    from ogen.export.ansible_inventory import listing
    from ogen.export.prometheus import export
    from ogen.inventory import load
    from ogen.plan import plan
    from ogen.render import render

    file = project / "inventory.yaml"
    found: dict[str, object] = {"project": project.parent.name}
    watched.append(os.path.realpath(project))
    try:
        inventory = load(file if os.path.lexists(file) else project)
        found["load"] = "loads"
        planned = plan(inventory)
        exported = [export(planned), listing(inventory)]
        releases = render(planned)
        found["render"] = "renders"
        found["text"] = "".join(map(repr, [*releases, *exported]))
    except OgenError as error:
        found["render" if "load" in found else "load"] = told(error)
    finally:
        watched.clear()
    found["events"] = events[:]
    events.clear()
    return found


def diff(project: Path) -> dict[str, object]:
    """`ogen diff --base HEAD`, in this process."""
    from ogen.cli import main as ogen

    found: dict[str, object] = {"project": project.parent.name}
    file = project / "inventory.yaml"
    watched.append(os.path.realpath(project))
    try:
        ogen(["diff", str(file if os.path.lexists(file) else project), "--base", "HEAD"])
    except SystemExit as end:
        found["exit"] = end.code
    finally:
        watched.clear()
    found["events"] = events[:]
    events.clear()
    return found


def control(secret: str) -> dict[str, object]:
    """What the watch must catch: a file outside, a folder outside, a program, a socket, a file written."""
    import socket

    watched.append("/nowhere")
    try:
        Path(secret).read_text()
        os.close(os.open(secret, os.O_RDONLY))
        list(Path(secret).parent.iterdir())
        subprocess.run(["true"], check=True)
        os.system("true")
        socket.socket().close()
        Path(secret).with_name("written").write_text("")
    finally:
        watched.clear()
    return {"project": "control", "events": events[:]}


def main() -> None:
    sys.path.pop(0)  # this folder: imports would look into it
    sys.addaudithook(hook)
    if sys.argv[1] == "--control":
        print(json.dumps(control(sys.argv[2])))
        return
    if sys.argv[1] == "--diff":
        scratch.append(os.path.realpath(sys.argv[2]))
        tempfile.tempdir = scratch[0]
        programs.append("git")
        for project in sys.argv[3:]:
            with contextlib.redirect_stdout(io.StringIO()) as shown:
                result = diff(Path(project))
            print(json.dumps({**result, "text": shown.getvalue()}))
        return
    for project in sys.argv[1:]:
        print(json.dumps(watch(Path(project))))


main()
