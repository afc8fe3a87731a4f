"""The account beside NVML's figures on a real card: loads GGUF files with a real llama-server, CUDA build.

    python benchmarks/fit_gpu.py --server PATH/llama-server MODEL.gguf…

Prints a markdown table with card and driver. Without a card, a server or a model it says so and ends.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ogen.catalog import ModelShape, gguf
from ogen.fit import Settings, account
from ogen.fit.account import CONTEXT

MIB = 1024 * 1024
_BUFFER = re.compile(r"CUDA\d+ (model|KV|compute) buffer size\s*=\s*([\d.]+) MiB")
CASES = (
    Settings(4096, batch=512),
    Settings(16384, batch=512),
    Settings(8192, parallel=4, batch=512),
    Settings(16384, batch=1024, kv_cache="q8_0"),
    Settings(4096, batch=512, flash_attention=False),
)


@dataclass(frozen=True)
class Seen:
    """What the card and the engine's log say, in MiB."""

    used: float  # by NVML, with the model loaded, less what was used before
    logged: float  # weights + KV + compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--server", default="llama-server")
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("models", nargs="*", type=Path)
    asked = parser.parse_args()
    card = _card(asked.gpu)
    if card is None:
        print("not run: no NVIDIA driver answers on this machine")
        return
    handle, name, driver = card
    if not asked.models:
        print(f"not run: {name} is here, but no GGUF file was named")
        return
    print(f"{name}, driver {driver}\n")
    print("| model | context × slots | batch | cache | flash | predicted | logged | off | NVML | beyond |")
    print("|---|---|---|---|---|---:|---:|---:|---:|---:|")
    for model in asked.models:
        shape = gguf.read(model).shape(model.stem)
        for settings in CASES:
            print(
                _row(shape, settings, _measure(asked.server, model, settings, handle, asked.gpu)), flush=True
            )
    print(f"\nbeyond: what NVML shows above the logged buffers; the account reserves {CONTEXT // MIB} MiB")


def _card(index: int) -> tuple[Any, str, str] | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name, driver = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return None
    return handle, str(name), str(driver)


def _used(handle: Any) -> float:
    import pynvml

    return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / MIB


def _row(shape: ModelShape, settings: Settings, seen: Seen | str) -> str:
    need = account(shape, settings)
    predicted = (need.weights_bytes + need.kv_bytes + need.compute_bytes) / MIB
    flash = "on" if settings.flash_attention else "off"
    head = (
        f"| {shape.name} {shape.quant} | {settings.context} × {settings.parallel} | {settings.batch} "
        f"| {settings.kv_cache} | {flash} | {predicted:.1f} "
    )
    if isinstance(seen, str):
        return f"{head}| {seen} | | | |"
    off = (predicted / seen.logged - 1) * 100 if seen.logged else float("nan")
    return f"{head}| {seen.logged:.1f} | {off:+.2f} % | {seen.used:.1f} | {seen.used - seen.logged:.1f} |"


def _measure(server: str, model: Path, settings: Settings, handle: Any, gpu: int) -> Seen | str:
    """Starts the server as Ollama would, waits until it has loaded, reads NVML and the log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flash = "on" if settings.flash_attention else "off"
    command = [
        server, "--model", str(model), "--host", "127.0.0.1", "--port", str(port), "-ngl", "999",
        "--fit", "off", "--no-kv-unified",
        "-c", str(settings.context * settings.parallel), "-np", str(settings.parallel),
        "-b", str(settings.batch), "-ub", str(settings.batch), "--flash-attn", flash,
        "--cache-type-k", settings.kv_cache, "--cache-type-v", settings.kv_cache, "--log-verbosity", "4",
    ]  # fmt: skip
    before = _used(handle)
    log = Path(f"fit_gpu-{port}.log")
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**_environment(), "CUDA_VISIBLE_DEVICES": str(gpu)},
        )
        try:
            loaded = _wait(process, port)
            used = _used(handle) - before
        finally:
            process.terminate()
            process.wait(60)
    text = log.read_text(errors="replace")
    log.unlink()
    if not loaded:
        return "did not load: " + (text.strip().splitlines() or ["no output"])[-1][:80].replace("|", "/")
    last = {kind: float(size) for kind, size in _BUFFER.findall(text)}
    return Seen(used, sum(last.values()))


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def _wait(process: subprocess.Popen[bytes], port: int, limit: float = 600) -> bool:
    """True once the server says that it is healthy."""
    import http.client

    end = time.monotonic() + limit
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(0.5)
    return False


if __name__ == "__main__":
    main()
