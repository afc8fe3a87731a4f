"""Pulls and creates through the librarian's API: its stream of lines, and what is tried again."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Iterable, Optional, Set, Tuple

from .errors import AgentError
from .machine import Machine

#: seconds before a pull that the network broke off is asked for again; Ollama goes on where it was
PAUSES = (1.0, 2.0, 4.0, 8.0)
#: words of errors that may be over in a moment
_PASSING = (
    "timeout", "timed out", "connection re", "broken pipe", "eof", "max retries", "stalled", "handshake",
    "no answer from port", "without success", "temporary failure", "server misbehaving", "status code 5",
    "502", "503", "504", "network is unreachable", "no route to host",
)  # fmt: skip

Tell = Callable[[str, Optional[float]], None]


class Stream:
    """Reads the answer of /api/pull or /api/create line by line.

    Errors come in the middle of a stream that began with HTTP 200, so only "success" is success.
    """

    def __init__(self, tell: Tell, what: str) -> None:
        self.tell = tell
        self.what = what
        self.done = False
        self._sizes: Dict[str, Tuple[int, int]] = {}  # digest → completed, total

    @property
    def digests(self) -> Set[str]:
        """Blobs that it was about."""
        return set(self._sizes)

    def take(self, line: str) -> None:
        """Raises AgentError for an error line."""
        if not line:
            return
        try:
            news = json.loads(line)
        except ValueError:
            raise AgentError("%s: not JSON: %.200s" % (self.what, line)) from None
        if not isinstance(news, dict):
            raise AgentError("%s: not an object: %.200s" % (self.what, line))
        if news.get("error"):
            raise AgentError("%s: %s" % (self.what, news["error"]), _advice(str(news["error"])))
        status = str(news.get("status", ""))
        self.done = self.done or status == "success"
        self.tell("%s: %s" % (self.what, status), self._percent(news))

    def _percent(self, news: Dict[str, Any]) -> Optional[float]:
        digest, total = news.get("digest"), news.get("total")
        if not isinstance(digest, str) or not isinstance(total, int) or total <= 0:
            return None
        self._sizes[digest] = (int(news.get("completed") or 0), total)
        got = sum(one for one, _ in self._sizes.values())
        return round(100.0 * got / sum(one for _, one in self._sizes.values()), 1)

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.take(line)
        if not self.done:
            raise AgentError("%s: the answer ended without success" % self.what)


def _advice(text: str) -> Optional[str]:
    low = text.lower()
    if "not exist" in low or "not found" in low:
        return "check the model's name in the inventory"
    if "no such host" in low or "dial tcp" in low or "network" in low or "timeout" in low:
        return (
            "the host must reach the model registry, or have the model in its models_dir; "
            "`mirror:` gets models from another host or from a folder (docs/models.md)"
        )
    return None


def passing(error: AgentError) -> bool:
    """Whether it is worth trying again."""
    low = error.message.lower()
    return any(word in low for word in _PASSING)


def pull(
    machine: Machine, port: int, source: str, tell: Tell, revive: Callable[[], None], seen: Set[str]
) -> None:
    """One model from its registry. `seen` collects digests of its blobs, also of a pull that fails."""
    for pause in (*PAUSES, None):
        stream = Stream(tell, "pull %s" % source)
        try:
            stream.read(machine.stream(port, "/api/pull", {"model": source, "stream": True}))
            return
        except AgentError as error:
            if not passing(error):
                raise
            if pause is None:
                told = "%s (tried %d times; apply again, it goes on where it is)"
                raise AgentError(told % (error.message, len(PAUSES) + 1), error.hint) from None
            tell("%s; again in %d s, from where it broke off" % (error.message, pause), None)
        finally:
            seen.update(stream.digests)
        machine.wait(pause)
        revive()
