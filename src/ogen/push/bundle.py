"""The agent as one file (packing.py makes it), and the few lines that receive and start it.

All of it is under the one hash that the host verifies. Compiling takes a tenth of a second, so the file is
kept in the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from .packing import MAIN, QUICK, make

#: Says "have" or "need" in one line, takes the agent from its input if needed, verifies and runs it.
#: A sixth of the agent's time goes into looking for garbage while it imports, and into taking Python down.
BOOTSTRAP = (
    QUICK
    + """\
import gc,hashlib,os,sys
gc.set_threshold(100000)
if sys.version_info<(3,8):sys.exit('ogen: python 3.8 or later is needed, this is '+sys.version)
nonce,sha,root=sys.argv[1:4]
def take(n):
 b=b''
 while len(b)<n:
  d=os.read(0,n-len(b))
  if not d:sys.exit('ogen: the agent came incomplete')
  b+=d
 return b
try:
 with open(root.rstrip('/')+'/etc/ogen/agent/'+sha+'.pyz','rb') as f:b=f.read()
except OSError:b=b''
ok=lambda:hashlib.sha256(b).hexdigest()==sha
have=ok()
os.write(1,('ogen %s %s\\n'%(nonce,'have' if have else 'need')).encode())
if not have:
 b=take(int.from_bytes(take(8),'big'))
 if not ok():sys.exit('ogen: the agent came damaged')
end=os._exit
if quick(b):pass
elif hasattr(os,'memfd_create'):
 f=os.fdopen(os.memfd_create('ogen-agent'),'wb');f.write(b);f.flush();sys.path.insert(0,'/proc/self/fd/%d'%f.fileno())
else:
 import tempfile
 f=tempfile.NamedTemporaryFile(suffix='.pyz');f.write(b);f.flush();sys.path.insert(0,f.name);end=sys.exit
from agent.main import session
session(b,sha,root)
end(0)
"""
)


@dataclass(frozen=True, slots=True)
class Bundle:
    data: bytes
    sha256: str

    @property
    def sent(self) -> bytes:
        """What the bootstrap reads: the length in 8 bytes, then the agent."""
        return len(self.data).to_bytes(8, "big") + self.data


_LOCK = threading.Lock()  # threads that ask at once get one answer


def bundle() -> Bundle:
    """The agent; from the cache if it was made from the same sources by the same Python."""
    with _LOCK:
        return _bundle()


@cache
def _bundle() -> Bundle:
    files = sources()
    kept = _kept(files)
    data = _read(kept)
    if data is None:
        data = make(files)
        _keep(kept, data)
    return Bundle(data, hashlib.sha256(data).hexdigest())


def sources() -> dict[str, bytes]:
    """The package ogen.agent, by the names in the zip."""
    package = resources.files("ogen") / "agent"
    found = {f"agent/{f.name}": f.read_bytes() for f in package.iterdir() if f.name.endswith(".py")}
    return {**found, "__main__.py": MAIN.encode()}


# ------------------------------------------------------------------------------------- the cache
def _kept(files: Mapping[str, bytes]) -> Path:
    """The zip's place in the user's cache; its name says what it was made from."""
    key = hashlib.sha256(sys.version.encode() + (resources.files("ogen") / "push/packing.py").read_bytes())
    for name, source in sorted(files.items()):
        key.update(b"%s %d\n" % (name.encode(), len(source)) + source)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(home, "ogen", f"agent-{key.hexdigest()[:32]}")


def _read(kept: Path) -> bytes | None:
    """A kept zip, if it is whole and nobody else can have written it: it runs as root on every host."""
    try:
        with kept.open("rb") as file:
            owner = os.fstat(file.fileno())
            if owner.st_uid != os.geteuid() or owner.st_mode & 0o022:
                return None
            digest, data = file.read(32), file.read()
    except OSError:
        return None
    return data if hashlib.sha256(data).digest() == digest else None


def _keep(kept: Path, data: bytes) -> None:
    """Older ones go. A cache that can't be written costs time, and nothing else."""
    import tempfile

    with contextlib.suppress(OSError):
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in kept.parent.glob("agent-*"):
            old.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(dir=kept.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
        Path(name).replace(kept)
