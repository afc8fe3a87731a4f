"""The NVIDIA cards of this machine, read with NVML."""

from __future__ import annotations

from ..errors import UsageError
from .fit import Room


def cards(reserve: int) -> Room:
    """The card with the most free memory, as it is now; raises UsageError where there is none."""
    import pynvml

    from ..fit import Card

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise UsageError(
            f"no NVIDIA driver answers: {error}", hint="--vram SIZE or --gpu NAME instead"
        ) from None
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = pynvml.nvmlDeviceGetName(handle)
            text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
            card = Card(int(memory.total), max(0, int(memory.free) - reserve))
            found.append((card.free, -index, card, f"GPU {index}: {text}"))
    except pynvml.NVMLError as error:
        raise UsageError(f"the NVIDIA driver failed: {error}") from None
    finally:
        pynvml.nvmlShutdown()
    if not found:
        raise UsageError("this machine has no NVIDIA card", hint="--vram SIZE or --gpu NAME instead")
    _, _, card, name = max(found, key=lambda entry: entry[:2])
    return Room((card,), (name,))
