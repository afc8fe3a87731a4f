"""The agent as one zip, the same bytes for the same sources, and the few lines that receive and start it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib import resources

_MAIN = "import sys\nfrom agent.main import main\nsys.exit(main([sys.path[0], *sys.argv[1:]]))\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)

#: Says "have" or "need" in one line, takes the agent from its input if needed, verifies and runs it.
BOOTSTRAP = """\
import hashlib,os,sys
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
 f=os.fdopen(os.memfd_create('ogen-agent'),'wb');p='/proc/self/fd/%d'%f.fileno()
else:
 import tempfile
 f=tempfile.NamedTemporaryFile(suffix='.pyz');p=f.name
f.write(b);f.flush()
sys.path.insert(0,p)
from agent.main import session
session(b,sha,root)
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    data: bytes
    sha256: str

    @property
    def sent(self) -> bytes:
        """What the bootstrap reads: the length in 8 bytes, then the zip."""
        return len(self.data).to_bytes(8, "big") + self.data


@cache
def bundle() -> Bundle:
    """Zips the package ogen.agent; no times, no order of the file system get into it."""
    package = resources.files("ogen") / "agent"
    sources = {f"agent/{f.name}": f.read_bytes() for f in package.iterdir() if f.name.endswith(".py")}
    sources["__main__.py"] = _MAIN.encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, sources[name])
    data = target.getvalue()
    return Bundle(data, hashlib.sha256(data).hexdigest())
