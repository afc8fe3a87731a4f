"""Every error that ogen raises on purpose: what, where, how to mend it, and the exit code.

OgenError                 1   the base; never raised itself
├── UsageError            1   the command line asks for something that can't be done
├── SourceError           1   a YAML file can't be read or composed
├── InventoryError        1   one mistake in an inventory
├── Problems              1   several errors at once (an inventory's mistakes)
├── CatalogError          1   a GPU, model or version that nothing is known about; a bad GGUF header
├── PlanError             1   no placement satisfies the inventory
├── RenderError           1   a template failed: names the template's line and the inventory's
├── PlaybookError         1   outside the subset of Ansible that ogen compiles
├── DiffError             1   the base revision can't be read
└── HostError             3   something about one host
    ├── ConnectError      4   unreachable, refused, or not who it was (host key)
    │   └── OfflineError  4   nothing answers there as an SSH server
    ├── BecomeError       3   root can't be had
    ├── RemoteError       3   the agent or a tool on the host failed
    ├── LockedError       5   another rollout holds the host
    └── RolledBack        6   the new release did not prove itself; the old one serves again
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Text:
    """A source file's name and lines, kept for the excerpts of error messages."""

    name: str
    lines: Sequence[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a source file; line and column count from 1."""

    text: Text = field(compare=False)
    line: int
    column: int

    @property
    def file(self) -> str:
        return self.text.name

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def excerpt(self, width: int = 100) -> str:
        """The line with a caret below the column, cut to `width` characters; empty if unknown."""
        if not 1 <= self.line <= len(self.text.lines):
            return ""
        line = self.text.lines[self.line - 1].rstrip("\r\n").replace("\t", " ")
        start = max(0, self.column - 1 - width * 3 // 4)
        shown = line[start : start + width]
        gutter = f"{self.line:>5} | "
        return f"{gutter}{shown}\n{' ' * (len(gutter) - 2)}| {' ' * (self.column - 1 - start)}^"


class OgenError(Exception):
    """The base of all; `where` is a place in the user's files, `hint` says how to mend it."""

    exit_code = 1

    def __init__(self, message: str, *, where: Where | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head} ({self.hint})" if self.hint else head


class UsageError(OgenError):
    """The command line asks for something that can't be done."""


class SourceError(OgenError):
    """A YAML file can't be read or composed."""


class InventoryError(OgenError):
    """One mistake in an inventory."""


class Problems(OgenError):
    """Several errors at once, in the order of their places."""

    def __init__(self, errors: Iterable[OgenError]) -> None:
        self.errors = sorted(errors, key=_place)
        super().__init__(f"{len(self.errors)} errors" if len(self.errors) != 1 else "1 error")

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def _place(error: OgenError) -> tuple[str, int, int]:
    return (error.where.file, error.where.line, error.where.column) if error.where else ("", 0, 0)


class CatalogError(OgenError):
    """Nothing is known about a GPU, model or version; or a GGUF header is bad."""


class PlanError(OgenError):
    """No placement satisfies the inventory."""


class RenderError(OgenError):
    """A template failed; `template` is "file:line" of the template."""

    def __init__(
        self,
        message: str,
        *,
        template: str | None = None,
        where: Where | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(f"{template}: {message}" if template else message, where=where, hint=hint)
        self.template = template


class PlaybookError(OgenError):
    """Outside of the subset of Ansible that ogen compiles."""


class DiffError(OgenError):
    """The base revision can't be read."""


class HostError(OgenError):
    """Something about one host; `log` holds the host's own last lines."""

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        host: str,
        log: Sequence[str] = (),
        where: Where | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.host = host
        self.log = tuple(log)


class ConnectError(HostError):
    """The host is unreachable, refuses us, or shows another host key."""

    exit_code = 4


class OfflineError(ConnectError):
    """Nothing answers at the host's address, or what does is no SSH server; --skip-offline leaves it out."""


class BecomeError(HostError):
    """Root can't be had on the host."""


class RemoteError(HostError):
    """The agent, or a tool that it ran, failed on the host."""


class LockedError(HostError):
    """Another rollout holds the host's lock."""

    exit_code = 5


class RolledBack(HostError):
    """The new release did not prove itself; the old one was restored and proven."""

    exit_code = 6
