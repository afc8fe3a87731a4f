"""A conversation with the agent of one host: connect, greet, ask, watch, and let go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..agent import frames
from ..errors import ConnectError, HostError, LockedError, RemoteError, RolledBack
from ..inventory.model import Host
from ..release.model import Release
from . import become
from .bundle import bundle
from .carrier import carry
from .pipes import Pipe
from .results import Comparison, Event, OnEvent, Options, comparison, ignore
from .turns import Turns

_ENDED = "mend what the host's own lines name, here or in the inventory, then apply again"
PART = 4 * 1024 * 1024  # bytes of a file in one frame
Reply = tuple[dict[str, Any], bytes]
#: (name, port) of instances, why, and what to call while it takes long → the answer's frame
Ask = Callable[[Sequence[tuple[str, int]], str, Callable[[], None]], Mapping[str, Any]]


class Contact:
    """Requests and replies; made by `contact`."""

    def __init__(self, host: Host, pipe: Pipe, options: Options, on_event: OnEvent) -> None:
        self.host = host
        self.pipe = pipe
        self.options = options
        self.on_event = on_event
        self.uploads: Mapping[str, str] = {}  # digest → path: what the agent may ask for
        self.lost = False  # a transaction was followed over another connection: this one is no more
        self.grants: Ask | None = None  # answers an agent that wants to take instances down
        self.turns: Turns | None = None  # says when it may load models

    def tell(self, phase: str, message: str = "", percent: float | None = None) -> None:
        self.on_event(Event(self.host.name, phase, message, percent))

    # ---------------------------------------------------------------------------- requests
    def hello(self, *, full: bool = True) -> Mapping[str, Any]:
        """The host's facts."""
        facts: Mapping[str, Any] = self.ask({"op": "hello", "full": full})[0]["facts"]
        return facts

    def compare(self, release: Release, *, text: bool = True) -> Comparison:
        reply, texts = self.ask({"op": "compare", "manifest": release.manifest(), "text": text})
        return comparison(self.host.name, reply["report"], texts)

    def apply(
        self,
        release: Release,
        seen: Comparison,
        uploads: Mapping[str, str] | None = None,
        grants: Ask | None = None,
        supply: Mapping[str, Any] | None = None,
        turns: Turns | None = None,
    ) -> Mapping[str, Any]:
        """Stages and commits; raises for all but success. The result is the agent's.

        `grants` is asked before instances go down; without it nobody is. `supply`: where models come from,
        for the agent; `turns` says when it may load them.
        """
        self.uploads, self.grants, self.turns = uploads or {}, grants, turns
        contents = {f.sha256: f.content for f in release.files if f.sha256 in seen.missing}
        request = {
            "op": "apply",
            "manifest": release.manifest(),
            "contents": [[digest, len(data)] for digest, data in contents.items()],
            "supply": dict(supply or {}),
            **self._request(seen.current),
        }
        return self.transact(request, b"".join(contents.values()))

    def rollback(self, to: str | None, grants: Ask | None = None) -> Mapping[str, Any]:
        self.grants = grants
        request = {"op": "rollback", "to": to, **self._request(None)}
        del request["base"]
        return self.transact(request)

    def history(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.ask({"op": "history"})[0]["entries"]
        return entries

    def releases(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask({"op": "releases"})[0]["releases"]
        return found

    def stored(self, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
        """`digest` and `size` (bytes) of those sources that the host's store of models holds."""
        message = {"op": "stored", "models_dir": self.host.ollama.models_dir, "sources": list(sources)}
        found: dict[str, dict[str, Any]] = self.ask(message)[0]["models"]
        return found

    def collect(self) -> list[str]:
        """Removes releases that nobody needs; returns their names."""
        gone: list[str] = self.ask({"op": "gc", "who": self.options.who})[0]["gone"]
        return gone

    def mirror_room(self, sources: Mapping[str, int]) -> dict[str, Any]:
        """As a comparison's `room`: what of `sources` this host would have to load as the mirror."""
        message = {"op": "mirror_room", "models_dir": self.host.ollama.models_dir, "sources": dict(sources)}
        found: dict[str, Any] = self.ask(message)[0]["room"]
        return found

    def unused(self) -> dict[str, Any]:
        """`models` that no release of the host needs, and their `bytes`."""
        return self.ask({"op": "unused"})[0]

    def prune(self) -> dict[str, Any]:
        """Removes them; what went."""
        return self.ask({"op": "prune", "who": self.options.who})[0]

    def ansible_facts(self) -> tuple[int, Mapping[str, Any]]:
        """The uid that the agent runs as, and what a playbook may know of the host."""
        reply = self.ask({"op": "ansible_facts"})[0]
        return reply["uid"], reply["facts"]

    def driver(self) -> Mapping[str, Any]:
        """Cards, driver and device nodes, for `preflight`."""
        found: Mapping[str, Any] = self.ask({"op": "driver"})[0]["driver"]
        return found

    def stat(self, path: str) -> Mapping[str, Any]:
        """What is at a path of the host, as Ansible's `stat` tells it."""
        found: Mapping[str, Any] = self.ask({"op": "stat", "path": path})[0]["stat"]
        return found

    def steps(self, document: Mapping[str, Any], uploads: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Runs a playbook's compiled steps; the agent's results: `results`, `changed`, `failed`."""
        self.uploads = uploads or {}
        whole: dict[str, Any] = self.ask({"op": "steps", "document": dict(document)})[0]["whole"]
        return whole

    def attach(self, tx: str) -> Mapping[str, Any]:
        """Watches a transaction that an earlier connection began."""
        return self._checked(self.ask({"op": "attach", "tx": tx})[0])

    def restart(self, instances: Sequence[str], grants: Ask | None = None) -> list[str]:
        """Restarts instances as they are granted, each proven; returns their units."""
        self.grants = grants
        message = {"op": "restart", "instances": list(instances), **self._request(None)}
        units: list[str] = self.ask(message)[0]["restarted"]
        return units

    def remove(self) -> str:
        """Removes ogen's folders and the unit that recovers, where nothing of ogen's is in force any more;
        what became of the stock service that was held off."""
        return "; ".join(self.ask({"op": "remove", "who": self.options.who})[0]["stock"])

    def connections(self, ports: Sequence[int]) -> dict[int, list[str]]:
        """Addresses that hold a connection to each of the host's ports."""
        found = self.ask({"op": "connections", "ports": list(ports)})[0]["connections"]
        return {int(port): addresses for port, addresses in found.items()}

    # ------------------------------------------------------------------------------ leases
    def lease(self, servers: Mapping[str, str], seconds: float) -> None:
        """Keeps this host's balancers away from servers (by the ids of their leases); returns when they have
        taken it."""
        who = self.options.who
        self.ask({"op": "lease", "leases": dict(servers), "seconds": seconds, "who": who})

    def unlease(self, names: Iterable[str], wait: float) -> list[str]:
        """Ends leases; the servers of them that are still down after `wait` seconds."""
        down: list[str] = self.ask({"op": "unlease", "ids": list(names), "wait": wait})[0]["down"]
        return down

    def leases(self) -> dict[str, Any]:
        """`leases` in force, `returning` servers, and those that are `failing` their probes."""
        return self.ask({"op": "leases"})[0]

    def close(self, keep: Iterable[str]) -> list[str]:
        """Instances let in the balancers of their release, and of others only those in `keep`: these it
        returns."""
        message = {"op": "close", "keep": sorted(keep), "who": self.options.who}
        left: list[str] = self.ask(message)[0]["open"]
        return left

    def _request(self, base: str | None) -> dict[str, Any]:
        options = self.options
        return {
            "who": options.who,
            "git": options.git,
            "patience": options.patience(),
            "base": base,
            "gated": self.grants is not None,
            "local": bool(getattr(self.grants, "local", False)),
        }

    def transact(self, request: Mapping[str, Any], data: bytes = b"") -> Mapping[str, Any]:
        try:
            reply, _ = self.ask(request, data)
        except ConnectError as error:
            error.hint = "nothing was committed, and the host is as it was: apply again"
            raise
        finally:
            self._loaded()
        if reply["reply"] == "prepared":
            tx, commit = str(reply["tx"]), {"op": "commit", "tx": reply["tx"], "epoch": reply["epoch"]}
            try:
                reply, _ = self.ask(commit)
            except ConnectError as error:
                reply = self._again(tx, error)
        return self._checked(reply)

    def _again(self, tx: str, lost: ConnectError) -> dict[str, Any]:
        """The transaction is the host's by now: how it ended is asked over a new connection."""
        self.lost = True
        self.tell("connect", f"{lost.message}; once more")
        end = time.monotonic() + self.options.reconnect
        while True:
            try:
                with contact(self.host, self.options, self.on_event) as other:
                    return other.ask({"op": "attach", "tx": tx})[0]
            except (ConnectError, LockedError):  # locked: the agent of before has not noticed yet
                if time.monotonic() + 1.0 > end:
                    lost.hint = (
                        "the host brings the apply to its end by itself: apply again to see how it ended"
                    )
                    raise lost from None
                time.sleep(1.0)

    def _checked(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        status, message = result["status"], str(result.get("message", ""))
        log, hint = result.get("log", ()), result.get("hint") or _ENDED
        if status == "rolled_back":
            raise RolledBack(message, host=self.host.name, log=log, hint=hint)
        if status != "applied":
            raise RemoteError(message or status, host=self.host.name, log=log, hint=hint)
        return result

    # ----------------------------------------------------------------------------- the wire
    def ask(self, message: Mapping[str, Any], data: bytes = b"") -> Reply:
        """The reply to one request; events on the way are passed on, an error reply is raised."""
        self.pipe.send(frames.pack(dict(message), data))
        while True:
            reply, more = self._frame()
            if "event" in reply:
                self.tell(str(reply["event"]), str(reply["text"]), reply.get("percent"))
            elif reply.get("reply") == "error":
                raise self._error(reply)
            elif reply.get("reply") == "want":
                self._upload(str(reply["digest"]), reply.get("at", 0))
            elif reply.get("reply") == "turn":
                self._turn()
            elif reply.get("reply") == "ask":
                self._answer(reply)
            else:
                return reply, more

    def _answer(self, question: Mapping[str, Any]) -> None:
        """To an agent that wants to take instances down; it hears from us while we make up our mind."""
        assert self.grants
        instances = [(str(name), int(port)) for name, port in question["instances"]]
        answer = self.grants(instances, str(question["why"]), self._beat)
        self.pipe.send(frames.pack(dict(answer)))

    def _beat(self) -> None:
        self.pipe.send(frames.pack({"op": "wait"}))

    def _turn(self) -> None:
        """To an agent that is about to load models."""
        if self.turns is not None:
            self.turns.take(self, lambda text: self.tell("models", text), self._beat)
        self.pipe.send(frames.pack({"op": "turn"}))

    def _loaded(self) -> None:
        if self.turns is not None:
            self.turns.end(self)

    def _upload(self, digest: str, at: int | None = 0) -> None:
        """Sends a file in parts, from `at` on (None: only its size); the agent verifies it by its digest."""
        if digest not in self.uploads:
            raise RemoteError(f"the agent asks for {digest}, which is no file of ours", host=self.host.name)
        path = Path(self.uploads[digest])
        size = path.stat().st_size
        sent = size if at is None else at
        with path.open("rb") as file:
            file.seek(sent)
            while True:
                data = file.read(PART)
                sent += len(data)
                last = sent >= size or not data
                self.pipe.send(frames.pack({"op": "part", "size": size, "last": last}, data))
                if last:
                    return

    def _frame(self) -> Reply:
        try:
            frame = frames.read(lambda count: self.pipe.take(count, self.options.silence))
        except frames.FrameError as error:
            raise self._lost(str(error)) from None
        if frame is None:
            raise self._lost("the agent ended")
        return frame

    def _lost(self, why: str) -> HostError:
        broken = self.pipe.failure()
        if broken is not None:
            return broken
        log = self.pipe.said().splitlines()[-20:]
        if log:
            return RemoteError(f"{why}: {log[-1]}", host=self.host.name, log=log)
        return ConnectError(
            f"the connection was lost: {why}", host=self.host.name, hint="run the command again"
        )

    def _error(self, reply: Mapping[str, Any]) -> HostError:
        message, hint, log = str(reply["message"]), reply.get("hint"), reply.get("log", ())
        host = self.host.name
        if reply["kind"] == "locked":
            return LockedError(message, host=host, hint=hint, log=log)
        if reply["kind"] == "refused":
            what = f"refused before anything changed: {message}"
            return RolledBack(what, host=host, hint=hint or _ENDED, log=log)
        return RemoteError(message, host=host, hint=hint, log=log)


@contextmanager
def contact(host: Host, options: Options, on_event: OnEvent = ignore) -> Iterator[Contact]:
    """Starts the agent on a host, by one exec of one connection; closed whatever happens."""
    begun = become.start(host, bundle(), options.keyring)
    on_event(Event(host.name, "connect"))
    with running(host, begun, options, on_event) as pipe:
        if not become.greet(pipe, begun, host):
            pipe.send(bundle().sent)
        yield Contact(host, pipe, options, on_event)


@contextmanager
def running(host: Host, begun: become.Start, options: Options, on_event: OnEvent = ignore) -> Iterator[Pipe]:
    """A program on a host that was not greeted yet; closed whatever happens."""
    pipe = carry(host, begun, options.keyring, lambda text: on_event(Event(host.name, "connect", text)))
    try:
        yield pipe
    finally:
        pipe.close()
