"""A queue on this machine: Redis, instances, workers and the front, each a process that a test may kill."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ogen.render.engine import engine

TEMPLATES = Path(__file__).parents[2] / "templates"
REDIS = Path("/usr/bin/redis-server")
MODELS = ("chat",)
LIMITS = {"length": 1000, "tries": 5, "backoff": 0.2, "expiry": 600, "letters": 100, "body": 1 << 20}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until(what: Callable[[], Any], seconds: float = 30, every: float = 0.05) -> Any:
    """The first true value of `what`; an AssertionError where there is none in time."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"not in {seconds} s"
        time.sleep(every)
    return found


class Wire:
    """A way to a port of this machine that can go dead: what is open then stays open, and carries nothing."""

    def __init__(self, port: int) -> None:
        self.target, self.number = port, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Connections that are opened from now on carry again."""
        self.number += 1

    def _serve(self) -> None:
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(*ends, self.number), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, number: int) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if self.number == number:
                    other.sendall(data)
            if self.number == number:
                other.shutdown(socket.SHUT_WR)


class OverSocket(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = 30) -> None:
        super().__init__("queue", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Rig:
    """`lease` is short, so that a test sees a lost worker's jobs come back."""

    def __init__(self, folder: Path, *, seconds: float = 0.02, lease: float = 2.0, **limits: object) -> None:
        self.folder, self.seconds, self.lease = folder, seconds, lease
        self.limits = {**LIMITS, **limits}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}
        self.maxmemory = "64mb"
        self.redis_port = free_port()
        self.worker_port: int | None = None  # where workers find Redis, if that is another one
        self.socket = str(folder / "front.sock")
        self.log = folder / "instances.log"
        self.log.touch()
        users = []
        for role in ("front", "worker"):
            password = secrets.token_hex(16)
            (folder / role).mkdir()
            (folder / role / "redis").write_text(password + "\n")
            users.append({"name": role, "digest": hashlib.sha256(password.encode()).hexdigest()})
        acl = engine(None).render("redis-users.acl.j2", {"users": users})
        (folder / "users.acl").write_text(acl)

    # ---- processes
    def start(self, name: str, *command: object, wait: Callable[[], Any] | None = None) -> None:
        role = name.partition("-")[0]
        env = {**os.environ, "CREDENTIALS_DIRECTORY": str(self.folder / role)}
        with (self.folder / f"{name}.out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                [str(word) for word in command], env=env, stdout=out, stderr=out, cwd=self.folder
            )
        if wait:
            until(wait)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        found = self.running.pop(name)
        found.send_signal(number)
        found.wait(60)

    def stop(self) -> None:
        for name in list(self.running):
            with suppress(ProcessLookupError):
                self.kill(name)

    def redis(self, open_to_all: bool = False) -> None:
        data = self.folder / "data"
        users = [] if open_to_all else ["--aclfile", self.folder / "users.acl"]
        data.mkdir(exist_ok=True)
        self.start(
            "redis", REDIS, "--port", self.redis_port, "--bind", "127.0.0.1", "--dir", data, "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--maxmemory", self.maxmemory,
            "--maxmemory-policy", "noeviction", *users,
            wait=lambda: answers(self.redis_port),
        )  # fmt: skip

    def reached(self, role: str) -> dict[str, object]:
        port = self.worker_port if role == "worker" else None
        return {"host": "127.0.0.1", "port": port or self.redis_port, "tls": False, "role": role}

    def instance(self, name: str) -> None:
        port = self.ports.setdefault(name, free_port())
        script = Path(__file__).with_name("queue_ollama.py")
        command = [sys.executable, script, port, self.log, self.seconds]
        self.start("instance-" + name, *command, wait=lambda: answers(port))

    def worker(self, name: str, slots: int = 1, models: tuple[str, ...] = MODELS, grace: float = 30) -> None:
        settings = {
            "queue": "jobs",
            "worker": name,
            "port": self.ports.get(name) or self.ports.setdefault(name, free_port()),
            "pools": [{"model": model, "slots": slots} for model in models],
            "redis": self.reached("worker"),
            "lease": self.lease,
            "timeout": 60,
            "grace": grace,
        }
        path = self.folder / f"worker-{name}.json"
        path.write_text(json.dumps(settings))
        self.start("worker-" + name, sys.executable, TEMPLATES / "queue_worker.py", path)

    def front(self) -> None:
        settings = {
            "queue": "jobs",
            "socket": self.socket,
            "pools": list(MODELS),
            "names": {"chat": "chat", "gpt": "chat"},
            "limits": self.limits,
            "options": None,
            "not_options": ["num_gpu", "num_ctx"],
            "redis": self.reached("front"),
            "lease": self.lease,
            "listeners": 32,
        }
        path = self.folder / "front.json"
        path.write_text(json.dumps(settings))
        self.start("front", sys.executable, TEMPLATES / "queue_front.py", path, wait=self.up)

    def all(self, *names: str, slots: int = 1) -> None:
        self.redis()
        self.front()
        for name in names:
            self.instance(name)
            self.worker(name, slots)

    # ---- requests
    def up(self) -> bool:
        with suppress(OSError):
            return self.ask("GET", "/admin/status")[0] == 200
        return False

    def ask(
        self, method: str, path: str, body: object = None, client: str = "alice", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        connection = OverSocket(self.socket)
        try:
            data = None if body is None else json.dumps(body)
            more = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request(method, path, data, {"X-Ogen-Client": client, **more})
            response = connection.getresponse()
            return response.status, json.loads(response.read()), dict(response.headers)
        finally:
            connection.close()

    def submit(self, prompt: str, client: str = "alice", **headers: str) -> str:
        body = {"model": "chat", "prompt": prompt}
        status, answer, _ = self.ask("POST", "/queue/api/generate", body, client, **headers)
        assert status in (200, 202), answer
        return str(answer["id"])

    def surely(self, prompt: str, client: str = "alice") -> str:
        """As a careful client does it: with a key, again until it was taken."""
        key = secrets.token_hex(8)

        def once() -> str | None:
            with suppress(OSError, http.client.HTTPException, AssertionError):
                return self.submit(prompt, client, Idempotency_Key=key)
            return None

        return str(until(once, 120, 0.2))

    def job(self, key: str, client: str = "alice") -> dict[str, Any]:
        status, answer, _ = self.ask("GET", "/queue/jobs/" + key, None, client)
        assert status == 200, (key, answer)
        return dict(answer)

    def ended(self, key: str, client: str = "alice", seconds: float = 30) -> dict[str, Any]:
        def once() -> dict[str, Any] | None:
            found = self.job(key, client)
            return found if found["state"] not in ("waiting", "delayed", "running") else None

        return dict(until(once, seconds))

    def events(self, key: str, client: str = "alice") -> Iterator[tuple[str, dict[str, Any]]]:
        """Kind and data of each server-sent event."""
        connection = OverSocket(self.socket, 60)
        try:
            connection.request("GET", f"/queue/jobs/{key}/events", headers={"X-Ogen-Client": client})
            kind = ""
            for line in connection.getresponse():
                name, _, text = line.decode().strip().partition(": ")
                if name == "event":
                    kind = text
                elif name == "data":
                    yield kind, json.loads(text)
        finally:
            connection.close()

    @property
    def pool(self) -> dict[str, Any]:
        """What the front says of the pool; it waits where Redis is not up."""

        def once() -> Any:
            status, answer, _ = self.ask("GET", "/admin/status")
            return answer["pools"]["chat"] if status == 200 else None

        return dict(until(once))

    def seen(self, what: str = "ended") -> list[dict[str, Any]]:
        """What the instances have written down."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["what"] == what]


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
