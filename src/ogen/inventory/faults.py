"""The mistakes of one inventory, gathered so that all are told at once; did-you-mean."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InventoryError, OgenError, Problems, Where

MOST = 200  # mistakes told at once; more help nobody


class Faults:
    """Collects mistakes; the same one at the same place (a range's hosts) counts once."""

    def __init__(self) -> None:
        self.errors: list[OgenError] = []
        self._seen: set[tuple[str, str]] = set()

    def add(self, message: str, where: Where | None, hint: str | None = None, *, kind: str = "") -> None:
        """`kind` names the mistake where the message differs by host for one and the same place."""
        seen = (str(where), kind or message)
        if seen not in self._seen and len(self.errors) < MOST:
            self._seen.add(seen)
            self.errors.append(InventoryError(message, where=where, hint=hint))

    def take(self, error: OgenError) -> None:
        """Keeps an error that was raised elsewhere."""
        self.errors.extend(error.errors if isinstance(error, Problems) else [error])

    @property
    def full(self) -> bool:
        return len(self.errors) >= MOST

    def check(self) -> None:
        """Raises Problems if there was any mistake."""
        if self.errors:
            raise Problems(self.errors)


def near(word: str, known: Iterable[str]) -> str | None:
    """The hint "did you mean 'x'?" with the likeliest of `known`, or None."""
    if not word or len(word) > 80:
        return None
    import difflib  # only a mistake needs it

    candidates = {k.lower(): k for k in known}
    found = difflib.get_close_matches(word.lower(), candidates, n=1, cutoff=0.6)
    return f"did you mean {candidates[found[0]]!r}?" if found else None


def near_or_list(word: str, known: Iterable[str], what: str) -> str:
    """Like `near`, else a list of what there is."""
    names = list(known)
    if not names:
        return f"there are no {what}"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return near(word, names) or f"{what}: {shown}"
