"""What an Ollama log tells, of all three eras: loads, layers on the card, memory that ran out, failures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from .evidence import MIB, Line

# the words that Ollama itself looks for (llm/status.go); a retry that it makes by itself is no failure
_NO_MEMORY = re.compile(
    r"out of memory|cudaMalloc failed|hipMalloc failed|failed to allocate|unable to allocate", re.IGNORECASE
)
_RETRIES = "retrying without pipeline parallelism"
_BLOB = re.compile(r"(sha256-[0-9a-f]{64})")
_STARTS = re.compile(r'msg="starting (?:llama-server|runner)')
_LOADED = re.compile(r"started in \d")
_LOADS = re.compile(r'msg="(?:loading model via|starting llama-server|starting runner)')
_OFFLOADED = re.compile(r"offloaded\s+(\d+)/(\d+)\s+layers to GPU")
_OFFLOAD_A = re.compile(r"msg=offload .*layers\.model=(\d+) layers\.offload=(\d+)")
_OVERFLOW = re.compile(r"\d+\s+layers\s+\(\s*(\d+)\s+overflowing\)")
# weights that stay in host memory: the input's table, and what fit moved there (experts of a mixture)
_ON_HOST_C = re.compile(r"load_tensors:\s+(CPU\w*)\s+model buffer size =\s+([\d.]+) MiB")
_ON_HOST_B = re.compile(r'msg="model weights" device=CPU size="([\d.]+) (MiB|GiB)"')
_FREE_C = re.compile(r"using device \w+ .*- (\d+) MiB free")
_FREE_AB = re.compile(r'msg="gpu memory" .*free="([\d.]+) (MiB|GiB)"')
_LATE = re.compile(r"timed out waiting for (?:llama[ -](?:server|runner)|server|runner)")
_STORE = re.compile(r'msg="server config".*?\bOLLAMA_MODELS:(.*?) OLLAMA_[A-Z]+:')
_CONTEXT = re.compile(r" -c (\d+)\b| --ctx-size (\d+)\b")
_EVICTS = re.compile(r"evicting")
_ANSWER = re.compile(r'\[GIN\].*?\|\s*(\d{3})\s*\|.*?"(.*?)"\s*$')
_DIED = re.compile(
    r"process (?:has terminated|no longer running)|runner exited|llama-server load failed|Load failed"
)
_OPTION = re.compile(r'msg="invalid option provided" option="?([\w.-]+)')
_DEPRECATED = re.compile(
    r"parameter (\S+) is deprecated|(quantized kv cache requested but flash attention disabled)"
)


@dataclass(frozen=True, slots=True)
class Load:
    """A model's way onto the cards; `blob` names its file, layers are None until the log tells them."""

    blob: str
    line: Line
    layers: int | None = None
    layers_total: int = 0
    overflow: int = 0
    host: Mapping[str, int] = field(default_factory=dict)  # bytes of weights by kind of host memory

    @property
    def on_host(self) -> int:
        return sum(self.host.values())


def loads(lines: Iterable[Line]) -> tuple[Load, ...]:
    """The last load of each model file, in the order of the log.

    A load is announced more than once, and fit probes print the same lines again: the last ones count.
    """
    found: dict[str, Load] = {}
    now, ahead = Load("", Line(0, "")), Load("", Line(0, ""))
    for line in lines:
        if _LOADS.search(line.text):
            blob = _BLOB.search(line.text)
            name = blob[1] if blob else ""
            again = name == now.blob and now.layers is None
            # era A tells the layers before it starts the runner
            now = (
                now if again else replace(ahead, blob=name) if ahead.layers is not None else Load(name, line)
            )
            ahead = Load("", line)
        elif first := _OFFLOAD_A.search(line.text):
            ahead = Load("", line, int(first[2]), int(first[1]))
        elif layers := _OFFLOADED.search(line.text):
            now = replace(now, line=line, layers=int(layers[1]), layers_total=int(layers[2]))
        elif over := _OVERFLOW.search(line.text):
            now = replace(now, line=line, overflow=max(now.overflow, int(over[1])))
        elif held := _on_host(line.text):
            now = replace(now, host={**now.host, **held})
        else:
            continue
        if now.blob:
            found.pop(now.blob, None)
            found[now.blob] = now
    return tuple(found.values())


def _on_host(text: str) -> dict[str, int]:
    if found := _ON_HOST_C.search(text):
        return {found[1]: int(float(found[2]) * MIB)}
    size = _size(_ON_HOST_B.search(text))
    return {} if size is None else {"CPU": size}


def _size(found: re.Match[str] | None) -> int | None:
    return int(float(found[1]) * (MIB if found[2] == "MiB" else 1024 * MIB)) if found else None


def starts(lines: Iterable[Line]) -> dict[str, tuple[Line, ...]]:
    """The lines that start a runner, by model file."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        blob = _BLOB.search(line.text)
        if blob and _STARTS.search(line.text):
            found.setdefault(blob[1], []).append(line)
    return {name: tuple(some) for name, some in found.items()}


def context_of(line: Line) -> int | None:
    """The context that a runner was started with: of all slots together."""
    found = _CONTEXT.search(line.text)
    return int(found[1] or found[2]) if found else None


def evictions(lines: Iterable[Line]) -> tuple[Line, ...]:
    return tuple(line for line in lines if _EVICTS.search(line.text))


def late_loads(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Loads that were given up: nothing moved for OLLAMA_LOAD_TIMEOUT."""
    return tuple(line for line in lines if _LATE.search(line.text))


def store_of(lines: Iterable[Line]) -> str:
    """Where the server looks for models, as it says at its start; empty if that is not in the log."""
    return next((found[1] for line in lines if (found := _STORE.search(line.text))), "")


@dataclass(frozen=True, slots=True)
class Shortage:
    """Memory ran out: the first line of each occasion, and the model file loaded last before it.

    free: bytes on the cards just before, where the load told them; 0 if it did not, or had ended well.
    """

    line: Line
    blob: str
    free: int = 0


def shortages(lines: Iterable[Line], within: float = 5.0) -> tuple[Shortage, ...]:
    """Lines less than `within` seconds apart are one occasion."""
    found: list[Shortage] = []
    blob, last, free = "", -1e18, {"": 0}
    for line in lines:
        named = _BLOB.search(line.text)
        if named and _LOADS.search(line.text):
            blob = named[1]
        if _LOADED.search(line.text):
            free = {"": 0}
        elif told := _FREE_C.search(line.text):
            free[line.text.split("(")[0]] = int(told[1]) * MIB
        elif size := _size(_FREE_AB.search(line.text)):
            free[""] = size
        if _NO_MEMORY.search(line.text) and _RETRIES not in line.text and "[GIN]" not in line.text:
            if line.time - last > within:
                found.append(Shortage(line, blob, sum(v for k, v in free.items() if k) or free[""]))
            last = line.time
    return tuple(found)


def answers(lines: Iterable[Line], *statuses: str) -> tuple[Line, ...]:
    """Lines of requests that were answered with one of these ("5" stands for all from 500)."""
    return tuple(
        line
        for line in lines
        if (m := _ANSWER.search(line.text)) and any(m[1].startswith(s) for s in statuses)
    )


def deaths(lines: Iterable[Line]) -> tuple[Line, ...]:
    """A runner that ended or did not load, for another reason than memory."""
    return tuple(one for one in lines if _DIED.search(one.text) and not _NO_MEMORY.search(one.text))


def ignored(lines: Iterable[Line]) -> Iterator[tuple[str, Line]]:
    """Settings that Ollama does not take, each once."""
    seen: set[str] = set()
    for line in lines:
        found = _OPTION.search(line.text) or _DEPRECATED.search(line.text)
        name = next((group for group in found.groups() if group), "") if found else ""
        if name and name not in seen:
            seen.add(name)
            yield name, line
