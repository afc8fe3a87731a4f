"""The agent as one zip, the same bytes for the same sources, and the few lines that receive and start it.

Beside each source lies what this Python compiles from it: a host with the same version of Python starts
the agent in half the time, any other compiles the sources. Both are under the one hash that the host
verifies. Compiling takes a tenth of a second, so the zip is kept in the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import marshal
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

_MAIN = "import sys\nfrom agent.main import main\nsys.exit(main([sys.path[0], *sys.argv[1:]]))\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNCHECKED = (1).to_bytes(4, "little")  # a compiled file that is not compared with its source
_MARSHAL = 2  # later formats depend on how often an object is used elsewhere: other bytes each time

#: Says "have" or "need" in one line, takes the agent from its input if needed, verifies and runs it.
#: A sixth of the agent's time goes into looking for garbage while it imports, and into taking Python down.
BOOTSTRAP = """\
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
if hasattr(os,'memfd_create'):
 f=os.fdopen(os.memfd_create('ogen-agent'),'wb');p='/proc/self/fd/%d'%f.fileno();end=os._exit
else:
 import tempfile
 f=tempfile.NamedTemporaryFile(suffix='.pyz');p=f.name;end=sys.exit
f.write(b);f.flush()
sys.path.insert(0,p)
from agent.main import session
session(b,sha,root)
end(0)
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    data: bytes
    sha256: str

    @property
    def sent(self) -> bytes:
        """What the bootstrap reads: the length in 8 bytes, then the zip."""
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
    return {**found, "__main__.py": _MAIN.encode()}


def make(files: Mapping[str, bytes]) -> bytes:
    """No times, no paths of this machine, no order of the file system get into it."""
    import zipfile

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted({**files, **_compiled(files)}.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return target.getvalue()


def _compiled(files: Mapping[str, bytes]) -> dict[str, bytes]:
    if sys.version_info < (3, 11):  # marshals a frozenset in another order each time
        return {}
    return {name + "c": _pyc(name, source) for name, source in files.items()}


def _pyc(name: str, source: bytes) -> bytes:
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source)
    return head + marshal.dumps(code, _MARSHAL)


# ------------------------------------------------------------------------------------- the cache
def _kept(files: Mapping[str, bytes]) -> Path:
    """The zip's place in the user's cache; its name says what it was made from."""
    key = hashlib.sha256(sys.version.encode() + (resources.files("ogen") / "push/bundle.py").read_bytes())
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
