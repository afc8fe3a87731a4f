"""The host's own tools, with a timeout on every wait: commands, processes, HTTP on loopback."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}


class Done(NamedTuple):
    """A command's end; 127 when it does not exist, 124 when it ran past its time."""

    code: int
    text: str  # stdout and stderr together

    @property
    def lines(self) -> List[str]:
        return [line for line in self.text.splitlines() if line.strip()]


class Machine:
    """The real one; tests put another in its place."""

    def run(self, command: Sequence[str], timeout: float = 60.0, stdin: str = "") -> Done:
        import subprocess  # an eighth of the agent's start, where no process is started

        try:
            done = subprocess.run(
                list(command),
                input=stdin.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENV,
                cwd="/",
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            return Done(127, "%s: not found" % command[0])
        except OSError as error:
            return Done(126, "%s: %s" % (command[0], error.strerror))
        except subprocess.TimeoutExpired as late:
            said = late.output.decode("utf-8", "replace") if late.output else ""
            return Done(124, "%s\n%s: no end after %d s" % (said, command[0], timeout))
        return Done(done.returncode, done.stdout.decode("utf-8", "replace"))

    def environment(self, pid: int) -> Dict[str, str]:
        """A running process's environment; empty if it can't be read."""
        try:
            with open("/proc/%d/environ" % pid, "rb") as file:
                items = file.read().decode("utf-8", "replace").split("\0")
        except OSError:
            return {}
        return dict(i.split("=", 1) for i in items if "=" in i)

    def mounts(self, pid: int) -> str:
        try:
            with open("/proc/%d/mountinfo" % pid, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def boot(self) -> str:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return ""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    # --------------------------------------------------------------------------------- HTTP
    def ask(
        self, port: int, method: str, path: str, body: Optional[Dict[str, Any]] = None, timeout: float = 10.0
    ) -> "Answer":
        """One request to 127.0.0.1; status 0 when there is no answer."""
        import http.client  # a third of the agent's start, where it is not needed

        link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            link.request(method, path, json.dumps(body) if body is not None else None, _headers(port))
            response = link.getresponse()
            return Answer(response.status, response.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, str(error) or type(error).__name__)
        finally:
            link.close()

    def stream(self, port: int, path: str, body: Dict[str, Any], timeout: float = 120.0) -> Iterator[str]:
        """The lines of an answer as they come; `timeout` is for the wait between two of them."""
        import http.client

        link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            link.request("POST", path, json.dumps(body), _headers(port))
            response = link.getresponse()
            while True:
                line = response.readline()
                if not line:
                    return
                yield line.decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException) as error:
            yield json.dumps({"error": "no answer from port %d: %s" % (port, error)})
        finally:
            link.close()

    def ask_socket(self, path: str, url: str, timeout: float = 2.0) -> "Answer":
        """A GET over a unix socket."""
        import http.client
        import socket

        link = http.client.HTTPConnection("localhost", timeout=timeout)
        try:
            link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.sock.settimeout(timeout)
            link.sock.connect(path)
            link.request("GET", url)
            response = link.getresponse()
            return Answer(response.status, response.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, str(error) or type(error).__name__)
        finally:
            link.close()


class Answer(NamedTuple):
    status: int
    text: str

    def json(self) -> Dict[str, Any]:
        try:
            value = json.loads(self.text)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def _headers(port: int) -> Dict[str, str]:
    """Ollama answers only to names of the machine itself."""
    return {"Content-Type": "application/json", "Host": "localhost:%d" % port}


def free_bytes(path: str) -> int:
    """Free space for others than root on the file system of `path`, or of what exists above it."""
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
