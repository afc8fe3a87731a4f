"""A queue's parts on one host: its Redis, the front beside a balancer, a worker for each instance."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from ..catalog import libraries
from ..errors import RenderError
from ..inventory.model import Balancer, Queue, Secret
from ..plan.model import Instance, Work
from .addresses import ip_of
from .balancer import RUNNER_OPTIONS
from .draft import CURRENT, Draft
from .services import front_socket, interpreter

ROLES = ("front", "worker")
CODE = {"front": ("queue_front.py",), "worker": ("queue_worker.py", "queue_openai.py")}
SHARED = ("queue.lua", "queue_store.py")  # of both roles
REACHED = "queues reach hosts"
LISTENERS = 256  # that a front sends events to at once
MOST_GRACE = 90.0  # seconds that a stop of a worker may take: whoever stops units waits for two minutes


def render_queues(draft: Draft) -> None:
    """Every part of every queue that runs on the draft's host."""
    for work in draft.plan.works:
        part = _Part(draft, work)
        if work.queue.redis.host == draft.name:
            part.redis()
        if draft.name in work.fronts:
            part.front()
        for instance in draft.plan.instances:
            part.worker(instance)


class _Part:
    """What the parts of one queue on one host have in common."""

    def __init__(self, draft: Draft, work: Work) -> None:
        self.draft, self.work, self.queue = draft, work, work.queue
        self.folder = f"{CURRENT}/queues/{self.queue.name}"
        self.redis_unit = f"ogen-queue-redis-{self.queue.name}"
        self.local = self.queue.redis.host == draft.name

    # ---- Redis
    def redis(self) -> None:
        unit, redis, host = self.redis_unit, self.queue.redis, self.draft.host
        asking = sorted({*self.work.fronts, *self.work.workers} - (set() if redis.tls else {host.name}))
        users = [
            {"name": role, "digest": hashlib.sha256(self._password(role).encode()).hexdigest()}
            for role in ROLES
        ]
        values: dict[str, Any] = {
            "queue": self.queue.name,
            "host": host.name,
            "unit": unit,
            "port": redis.port,
            "memory": redis.memory,
            "credentials": f"/run/credentials/{unit}.service",
            "tls": {"certificate": redis.tls.certificate, "key": redis.tls.key} if redis.tls else None,
            "addresses": [ip] if redis.tls and (ip := ip_of(host, REACHED)) else [],
            "allowed": self._addresses(asking),
            "config": f"{self.folder}/redis.conf",
            "users": f"{self.folder}/users.acl",
        }
        config = self._render("redis.conf.j2", values)
        acl = self._render("redis-users.acl.j2", {"users": users})
        self.draft.add(values["config"], config, self.queue.where)
        self.draft.secret(values["users"], acl, self.queue.where)
        self._unit(f"{unit}.service", "queue-redis.service.j2", {**values, "digest": _digest(config, acl)})

    # ---- the front and the workers
    def front(self) -> None:
        queue = self.queue
        balancers = [b for b in self.draft.inventory.balancers if b.name in queue.balancers]
        body = max(b.max_body for b in balancers)
        config = {
            "queue": queue.name,
            "socket": front_socket(queue.name),
            "pools": [pool.name for pool in self.work.pools],
            "names": {name: pool.name for pool in self.work.pools for name in pool.names},
            "limits": {
                "length": queue.length,
                "tries": queue.tries,
                "backoff": queue.backoff,
                "expiry": queue.expiry,
                "letters": queue.dead_letters,
                "body": body,
            },
            "options": _options(balancers),
            "not_options": sorted({*RUNNER_OPTIONS, "num_ctx"}),
            "redis": self._reached("front"),
            "lease": queue.lease,
            "listeners": LISTENERS,
        }
        name = f"ogen-queue-front-{queue.name}"
        self._python(name, "queue-front.service.j2", "front", config, {"unit": name})

    def worker(self, instance: Instance) -> None:
        pools = {pool.name for pool in self.work.pools}
        mine = [p for p in instance.placements if p.model.name in pools]
        if not mine:
            return
        grace = min(self.draft.inventory.rollout.drain_timeout, MOST_GRACE)
        config = {
            "queue": self.queue.name,
            "worker": f"{self.draft.name}/{instance.name}",
            "port": instance.port,
            "pools": [{"model": p.model.name, "slots": p.slots} for p in mine],
            "redis": self._reached("worker"),
            "lease": self.queue.lease,
            "timeout": self.queue.timeout,
            "grace": grace,
        }
        more = {"instance": instance.name, "grace": grace + 10}
        name = f"ogen-queue-worker-{self.queue.name}-{instance.name}"
        self._python(name, "queue-worker.service.j2", "worker", config, more)

    def _python(
        self, name: str, template: str, role: str, config: dict[str, Any], more: dict[str, Any]
    ) -> None:
        """A part that is a program of ours: its settings, its password, its unit."""
        draft = self.draft
        code = {name: draft.engine.copy(name) for name in (*SHARED, *CODE[role])}
        for file, text in code.items():
            draft.add(f"{CURRENT}/queue/{file}", text)
        path = f"{self.folder}/{'-'.join((role, *filter(None, [more.get('instance')])))}.json"
        written = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        draft.add(path, written, self.queue.where)
        secret = f"{self.folder}/{role}.secret"
        draft.secret(secret, self._password(role) + "\n", self.queue.where)
        values = {
            "queue": self.queue.name,
            "host": draft.name,
            "python": interpreter(draft.host),
            "config": path,
            "secret": secret,
            "libraries": libraries.FOLDER,
            "ca": self.queue.redis.tls.ca if self.queue.redis.tls else None,
            "redis": f"{self.redis_unit}.service" if self.local else "",
            "digest": _digest(written, self._password(role), *(text.decode() for text in code.values())),
            "allowed": self._asked(),
            **more,
        }
        self._unit(f"{name}.service", template, values)

    def _asked(self) -> list[str] | None:
        """Addresses that a part talks to beside this machine's; None where only the URL tells."""
        redis = self.queue.redis
        if redis.host is None:
            return None
        return self._addresses([redis.host] if redis.tls else [])  # its certificate is for its address

    def _addresses(self, names: list[str]) -> list[str]:
        return [address for name in names if (address := ip_of(self.draft.inventory.host(name), REACHED))]

    def _reached(self, role: str) -> dict[str, Any]:
        """How a part finds Redis, without its password."""
        redis = self.queue.redis
        ca = {"ca": redis.tls.ca} if redis.tls and redis.tls.ca else {}
        if redis.host is None:
            return ca
        address = ip_of(self.draft.inventory.host(redis.host), REACHED) if redis.tls else ""
        return {
            "host": address or "127.0.0.1",
            "port": redis.port,
            "tls": redis.tls is not None,
            "role": role,
            **ca,
        }

    def _password(self, role: str) -> str:
        """Each role's own, made of the queue's secret; the URL where there is one."""
        redis, reveal = self.queue.redis, self.draft.reveal
        secret = redis.url or redis.secret
        assert secret is not None
        if reveal is None:
            return f"placeholder {secret}"
        text = reveal(secret).encode()
        if redis.url is not None:
            return _url(text.decode(), secret)
        if len(text) < 16:
            hint = "`openssl rand -hex 32` makes one"
            raise RenderError("a queue's secret needs at least 16 characters", where=secret.where, hint=hint)
        return hmac.new(text, f"ogen queue {self.queue.name} {role}".encode(), hashlib.sha256).hexdigest()

    def _render(self, template: str, values: dict[str, Any]) -> str:
        return self.draft.engine.render(template, values, self.queue.where)

    def _unit(self, name: str, template: str, values: dict[str, Any]) -> None:
        self.draft.unit(name, "service", self._render(template, values), self.queue.where)


def _url(text: str, secret: Secret) -> str:
    if not text.startswith(("redis://", "rediss://")) or any(c.isspace() for c in text):
        hint = "rediss://USER:PASSWORD@HOST:PORT/0"
        raise RenderError("a queue's URL begins with redis:// or rediss://", where=secret.where, hint=hint)
    return text


def _options(balancers: list[Balancer]) -> list[str] | None:
    """The options that every one of the balancers lets pass; None: all but those that reload a model."""
    listed = [set(b.client_options.allow) for b in balancers if b.client_options.allow is not None]
    return sorted(set.intersection(*listed)) if listed else None


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def queue_of(works: tuple[Work, ...], balancer: str) -> Queue | None:
    """The queue whose jobs a balancer lets in."""
    return next((work.queue for work in works if balancer in work.queue.balancers), None)
