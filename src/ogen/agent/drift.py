"""Three versions of a file become one word, and what stands beside ogen's files on the host is found.

base: what the manifest of the release in force says; mine: what the inventory wants; theirs: what is on
the host. Each is None where there is no such file, or a value that tells content, mode, owner and link.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

from . import admission, store, systemd
from .disk import Disk

SAME = "same"
PENDING = "pending"  # not yet applied
EDITED = "edited"  # on the host; the inventory is as it was
CONFLICT = "conflict"  # edited on the host, and not yet applied
REMOVED = "removed"  # from the inventory
REMOVED_EDITED = "removed_edited"  # from the inventory, and edited on the host
CONVERGED = "converged"  # edited on the host to what the inventory wants by now
IN_THE_WAY = "in_the_way"  # something that apply does not replace, where a file of ogen's is to go
FOREIGN = "foreign"  # somebody else's file beside ogen's: a drop-in for a unit of ogen's

#: the line of a drop-in that is to stay, and in how much of it that line is looked for
MEANT, LONGEST = b"# ogen: keep", 65536

#: states in which somebody changed what ogen had put there
EDITS = (EDITED, CONFLICT, REMOVED_EDITED, CONVERGED)

#: where systemd reads drop-ins that are not a package's; `.control` is `systemctl set-property`
_FOLDERS = (
    store.UNITS,
    store.UNITS + ".control",
    "/run/systemd/system",
    "/run/systemd/system.control",
)


def classify(base: Any, mine: Any, theirs: Any, obstacle: bool = False) -> str:
    """The one word for a file that at least one side has.

    `obstacle`: theirs took the place of a link of ogen's, and is no file that could be kept aside.
    """
    if theirs == mine == base:
        return SAME
    if base is None:
        return PENDING if theirs is None else IN_THE_WAY
    if obstacle and mine is not None:
        return IN_THE_WAY
    if theirs == mine:
        return CONVERGED
    if theirs == base:
        return REMOVED if mine is None else PENDING
    if mine is None:
        return REMOVED_EDITED
    return EDITED if mine == base else CONFLICT


def dropins(disk: Disk, own: store.Manifest, wish: store.Manifest) -> Iterator[str]:
    """Drop-ins for ogen's units that no release holds: someone added them by hand."""
    known = {entry["path"] for manifest in (own, wish) for entry in manifest["files"]}
    for above in _FOLDERS:
        for folder in disk.names(above):
            if folder.endswith(".d") and (folder.startswith("ogen-") or folder == "ogen.target.d"):
                ours = {*known, "%s/%s/%s" % (admission.RUN, folder, admission.NAME)}
                paths = ("%s/%s/%s" % (above, folder, name) for name in disk.names(above + "/" + folder))
                yield from (path for path in paths if path.endswith(".conf") and path not in ours)


def meant(disk: Disk, path: str) -> bool:
    """Whether a drop-in says of itself that it is here on purpose: a line of its own, as a comment."""
    return MEANT in (line.strip() for line in disk.read_or(path)[:LONGEST].splitlines())


def reasons(own: store.Manifest, seen: Dict[str, systemd.State], served: Dict[str, str]) -> Dict[str, str]:
    """Why a unit of the release in force is not as that release says, by its name."""
    found = {}
    for unit in own["units"]:
        if unit["enable"] and unit["name"] in seen:
            why = _reason(unit, seen[unit["name"]])
            if why:
                found[unit["name"]] = why
    for proof in own["balancers"]:
        if proof["unit"] not in found and served.get(proof["unit"], proof["hash"]) != proof["hash"]:
            found[proof["unit"]] = "serves another configuration than the release in force: reload pending"
    return found


def _reason(unit: Dict[str, Any], state: systemd.State) -> str:
    if state.loaded == "masked":
        return "masked"
    if unit["kind"] == "oneshot":
        return ""
    if not state.up:
        return "not running: %s" % state.active
    if state.stale:
        return "runs with models that are not the release's: restart pending"
    if unit["kind"] in systemd.RUNNING and state.hash and state.hash != unit["hash"]:
        return "runs from another text than the release in force: restart pending"
    return ""


def link_reason(disk: Disk, path: str) -> str:
    """What happened to a link of ogen's."""
    target = disk.link(path)
    enabling = path.rpartition("/")[0].endswith((".wants", ".requires"))
    if target is None and disk.lstat(path) is None:
        return "disabled" if enabling else "the link is gone"
    if target is None:
        return "a file stands in place of the link"
    return "masked" if target == "/dev/null" else "the link leads to %s" % target


def names_of(manifest: store.Manifest) -> List[str]:
    """The units of a release that systemd can be asked about; templates have no state."""
    return [unit["name"] for unit in manifest["units"] if "@." not in unit["name"]]
