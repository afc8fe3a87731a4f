"""What an Ollama log tells, of all three eras: loads, layers on the card, memory that ran out, failures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .evidence import Line

# the words that Ollama itself looks for (llm/status.go); a retry that it makes by itself is no failure
_NO_MEMORY = re.compile(
    r"out of memory|cudaMalloc failed|hipMalloc failed|failed to allocate|unable to allocate", re.IGNORECASE
)
_RETRIES = "retrying without pipeline parallelism"
_BLOB = re.compile(r"(sha256-[0-9a-f]{64})")
_LOADS = re.compile(r'msg="(?:loading model via|starting llama-server|starting runner)')
_OFFLOADED = re.compile(r"offloaded\s+(\d+)/(\d+)\s+layers to GPU")
_OFFLOAD_A = re.compile(r"msg=offload .*layers\.model=(\d+) layers\.offload=(\d+)")
_OVERFLOW = re.compile(r"\d+\s+layers\s+\(\s*(\d+)\s+overflowing\)")
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
        else:
            continue
        if now.blob:
            found.pop(now.blob, None)
            found[now.blob] = now
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Shortage:
    """Memory ran out: the first line of each occasion, and the model file loaded last before it."""

    line: Line
    blob: str


def shortages(lines: Iterable[Line], within: float = 5.0) -> tuple[Shortage, ...]:
    """Lines less than `within` seconds apart are one occasion."""
    found: list[Shortage] = []
    blob, last = "", -1e18
    for line in lines:
        named = _BLOB.search(line.text)
        if named and _LOADS.search(line.text):
            blob = named[1]
        if _NO_MEMORY.search(line.text) and _RETRIES not in line.text and "[GIN]" not in line.text:
            if line.time - last > within:
                found.append(Shortage(line, blob))
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
