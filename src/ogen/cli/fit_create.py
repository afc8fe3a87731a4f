"""Creates the model that fits on the Ollama of this machine, and writes its Modelfile beside it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import OgenError, UsageError
from .fit import Answer
from .headers import is_url

_TIMEOUT = 3600.0  # seconds: a missing base model is pulled first


class CreateError(OgenError):
    """The local Ollama did not create the model."""


def create(name: str, origin: str, answer: Answer) -> str:
    """Writes `NAME.Modelfile` and creates the model; returns the file's name."""
    from ..fit import modelfile_parameters

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*(:[A-Za-z0-9._-]+)?", name):
        raise UsageError(f"{name[:60]!r} can't name a model")
    if is_url(origin):
        raise UsageError(
            "a model can't be created from an address", hint="download the file, then --gguf FILE"
        )
    parameters = modelfile_parameters(answer.settings, answer.num_gpu)
    path = Path(re.sub(r"[/:]", "-", name) + ".Modelfile")
    path.write_text(modelfile(origin, parameters), encoding="utf-8")
    request: dict[str, Any] = {"model": name, "parameters": parameters, "stream": False}
    file = Path(origin)
    if file.suffix == ".gguf":
        request["files"] = {file.name: _upload(file)}
    else:
        request["from"] = origin
    _call("POST", "/api/create", json.dumps(request).encode())
    return str(path)


def modelfile(origin: str, parameters: dict[str, int]) -> str:
    """FROM and one PARAMETER a line; a comment may only stand on a line of its own."""
    source = str(Path(origin).resolve()) if origin.endswith(".gguf") else origin
    return "\n".join([f"FROM {source}", *(f"PARAMETER {k} {v}" for k, v in parameters.items())]) + "\n"


def _upload(path: Path) -> str:
    """The file's digest; its bytes go to the server unless it has them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    name = f"sha256:{digest.hexdigest()}"
    if _call("HEAD", f"/api/blobs/{name}", None, missing=True) == 404:
        with path.open("rb") as file:
            _call("POST", f"/api/blobs/{name}", file, size=path.stat().st_size)
    return name


def _call(method: str, path: str, body: Any, *, size: int | None = None, missing: bool = False) -> int:
    """One request to the server that OLLAMA_HOST names; raises CreateError."""
    host = os.environ.get("OLLAMA_HOST", "").strip(" \"'") or "127.0.0.1:11434"
    parts = urlsplit(host if "://" in host else f"http://{host}")
    address = "127.0.0.1" if parts.hostname in (None, "0.0.0.0", "::") else parts.hostname  # noqa: S104
    secure = parts.scheme == "https"
    port = parts.port or (11434 if "://" not in host else 443 if secure else 80)
    make = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = make(address or "127.0.0.1", port, timeout=_TIMEOUT)
    headers = {"Content-Type": "application/json"} | (
        {"Content-Length": str(size)} if size is not None else {}
    )
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        text = answer.read(1 << 20).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise CreateError(f"no Ollama answers at {address}:{port}: {error}", hint="is it running?") from None
    finally:
        connection.close()
    if answer.status >= 400 and not (missing and answer.status == 404):
        raise CreateError(f"Ollama answered {answer.status}: {_reason(text)}")
    if '"error"' in text[:200]:
        raise CreateError(f"Ollama refused: {_reason(text)}")
    return answer.status


def _reason(text: str) -> str:
    try:
        return str(json.loads(text.splitlines()[-1])["error"])[:300]
    except (ValueError, KeyError, IndexError, TypeError):
        return text.strip()[:300] or "no reason given"
