"""Sources of the agent to one file: the same bytes for the same sources.

It is a zip of the sources, as Python runs one, and before it (a zip may begin anywhere) lies what this
Python compiles from them: a host with the same version of Python starts the agent from that in half the
time, any other from the sources. Nothing of ogen is imported: exports for Ansible hold a copy.
"""

from __future__ import annotations

import importlib.util
import io
import marshal
import sys
import zlib
from collections.abc import Mapping

#: quick(b): imports from what lies compiled at the beginning of `b`; False where another Python made it.
#: Python's own importer of zips takes four times as long for each module.
QUICK = """\
def quick(b):
 try:import _frozen_importlib as i,_frozen_importlib_external as x,marshal,sys,zlib
 except ImportError:return False
 if b[:4]!=x.MAGIC_NUMBER:return False
 code=marshal.loads(b[8:8+int.from_bytes(b[4:8],'big')])
 class Compiled:
  def find_spec(s,n,path=None,target=None):
   return i.ModuleSpec(n,s,is_package=n=='agent') if n in code else None
  def create_module(s,spec):pass
  def exec_module(s,m):exec(marshal.loads(zlib.decompress(code[m.__name__])),m.__dict__)
 sys.meta_path.insert(0,Compiled())
 return True
"""
MAIN = (
    QUICK
    + """\
import sys
with open(sys.path[0],'rb') as f:quick(f.read())
from agent.main import main
sys.exit(main([sys.path[0],*sys.argv[1:]]))
"""
)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MARSHAL = 2  # later formats depend on how often an object is used elsewhere: other bytes each time


def make(files: Mapping[str, bytes]) -> bytes:
    """No times, no paths of this machine, no order of the file system get into it."""
    import zipfile

    target = io.BytesIO(_compiled(files))
    target.seek(0, io.SEEK_END)
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return target.getvalue()


def _compiled(files: Mapping[str, bytes]) -> bytes:
    """Python's magic number, the length of what follows in 4 bytes, and all modules' code by their names."""
    if sys.version_info < (3, 11):  # marshals a frozenset in another order each time
        return b""
    modules = {n: s for n, s in sorted(files.items()) if n.startswith("agent/")}
    code = marshal.dumps({_module(name): _code(name, source) for name, source in modules.items()}, _MARSHAL)
    return importlib.util.MAGIC_NUMBER + len(code).to_bytes(4, "big") + code


def _module(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _code(name: str, source: bytes) -> bytes:
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return zlib.compress(marshal.dumps(code, _MARSHAL), 9)
