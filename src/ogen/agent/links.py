"""The symlinks outside of /etc/ogen through which systemd and nginx find a release: made and removed.

Each folder is synced once, also where nothing had to be done in it: a run that was killed may have made
a link and not have come to its fsync.
"""

from __future__ import annotations

import stat
from typing import Iterable, List, Sequence, Tuple

from .disk import NEW, Disk, above
from .errors import AgentError
from .store import CURRENT, UNITS, Links, Store, tree

EDITED = "/etc/ogen/edited"  # what somebody made of ogen's files before an apply wrote them anew, by path
LATE = ("/etc/nginx/conf.d/",)  # a link that dangles here fails every `nginx -t`: made after the flip


def links_of(disk: Disk, to: str) -> Tuple[Links, Links]:
    """Links to add, and links to remove, for the way from the release in force to `to`."""
    held = Store(disk)
    old, new = held.links(held.current), held.links(to)
    add = {path: target for path, target in new.items() if disk.link(path) != target}
    for path in add:
        _ours_or_free(disk, path, old)
    there = {path: target for path, target in old.items() if disk.link(path) == target}
    return add, {path: target for path, target in there.items() if path not in new}


def _ours_or_free(disk: Disk, path: str, old: Links) -> None:
    """Somebody else's file is never replaced. One that took the place of a link in force is an edit
    (`sed -i` and `systemctl edit --full` do that): it is kept aside, and the link comes back."""
    if disk.lstat(path) is None or is_ours(disk, path):
        return
    if path in old and _is_file(disk, path):
        return
    raise AgentError(
        "%s exists and is not ogen's" % path,
        "move it away, or take its content into the inventory; then apply again",
    )


def _is_file(disk: Disk, path: str) -> bool:
    found = disk.lstat(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_ours(disk: Disk, path: str) -> bool:
    target = disk.link(path)
    name = path.rsplit("/", 1)[1]
    return target is not None and (target.startswith(CURRENT + "/") or target == "../" + name)


def keep_aside(disk: Disk, links: Links, damage: Sequence[str]) -> None:
    """Copies of edited files: of those in links' places, and of those in the tree that goes out of force."""
    edited, held = {path: path for path in links}, Store(disk)
    for entry in held.manifest(held.current)["files"]:
        if entry["path"] in damage:
            edited.setdefault(entry["path"], "%s/%s" % (tree(str(held.current)), entry["stored"]))
    for path, place in edited.items():
        if _is_file(disk, place):
            disk.folder(above(EDITED + path))
            disk.replace(EDITED + path, disk.read(place))


def late(links: Links) -> Links:
    return {path: target for path, target in links.items() if path.startswith(LATE)}


def add_links(disk: Disk, links: Links, after_flip: bool) -> None:
    """Those that may dangle for a moment before the flip; the others, and what replaces a file, after it."""
    touched = set()
    for path, target in sorted(links.items()):
        if (path.startswith(LATE) or _is_file(disk, path)) == after_flip:
            if disk.link(path) != target:
                inner = above(path).startswith(UNITS + "/")
                disk.folder(above(path), sync=not inner)
                touched.update([UNITS] if inner else [])
                disk.symlink(target, path, sync=False)
            touched.add(above(path))
    _sync(disk, touched)


def drop_links(disk: Disk, links: Links) -> None:
    """Removes links, if they are still what they were made as; folders that this empties go too."""
    for path, target in sorted(links.items()):
        for name in (path + NEW, path):  # the first: killed between its making and its renaming
            if disk.link(name) == target:
                disk.remove(name, sync=False)
    folders = {above(path) for path in links}
    gone = {f for f in folders if f.startswith(UNITS + "/") and (disk.remove_empty(f) or not disk.lstat(f))}
    _sync(disk, (folders - gone) | ({UNITS} if gone else set()))


def _sync(disk: Disk, folders: Iterable[str]) -> None:
    for folder in sorted(folders):
        if disk.lstat(folder):
            disk.sync_folder(folder)


def settle(disk: Disk, wanted: Links) -> None:
    """Exactly these links: for when no journal can say what was added and what was removed."""
    found = {path: disk.link(path) or "" for path in _links(disk, UNITS, *(f.rstrip("/") for f in LATE))}
    stray = {p: t for p, t in found.items() if t.startswith(CURRENT + "/") and p not in wanted}
    enabled = {"../" + path[len(UNITS) + 1 :] for path in stray if path.startswith(UNITS + "/")}
    stray.update({p: t for p, t in found.items() if t in enabled and p not in wanted})
    drop_links(disk, stray)
    for after_flip in (False, True):
        add_links(disk, {p: t for p, t in wanted.items() if not _is_file(disk, p)}, after_flip)


def _links(disk: Disk, *folders: str) -> List[str]:
    """The symlinks in these folders and in those right below them."""
    found = []
    for folder in folders:
        for name in disk.names(folder):
            path = "%s/%s" % (folder, name)
            if disk.link(path) is not None:
                found.append(path)
            elif folder == UNITS and name.endswith((".wants", ".requires", ".service.d")):
                found += _links(disk, path)
    return found
