"""The rendered balancer on loopback, before stand-ins for the instances that it lists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from standin import StandIn

REQUESTS = 20


def missing(conf: Path) -> str:
    """Why the balancer can't be started here; empty if it can."""
    if not _nginx():
        return "nginx is not installed"
    modules = re.findall(r"^load_module (\S+);", conf.read_text(), re.MULTILINE)
    gone = [name for name in modules if not Path(name).exists()]
    return f"nginx lacks {', '.join(gone)} (Debian: libnginx-mod-http-js)" if gone else ""


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def moved(rendered: Path, folder: Path) -> Path:
    """The balancer's files, as rendered but for the folders that an ordinary user can't write."""
    shutil.copytree(rendered, folder)
    (folder / "log").mkdir()
    conf = folder / "nginx.conf"
    text = conf.read_text().replace("/var/log/ogen/", f"{folder}/log/")
    conf.write_text(re.sub(r"/run/ogen-balancer-\w+/", f"{folder}/", text))
    return conf


def served(rendered: Path, folder: Path, model: str, listen: int) -> dict[str, int]:
    """Starts stand-ins and nginx, sends requests; returns how many each instance answered."""
    conf = moved(rendered, folder)
    places = sorted(set(re.findall(r"^\s+server ([\d.]+):(\d+) ", conf.read_text(), re.MULTILINE)))
    nginx = _nginx()
    assert nginx
    with ExitStack() as stack:
        stand_ins = [StandIn(address, int(port)) for address, port in places]
        for one in stand_ins:
            stack.callback(one.close)
        log = (folder / "log" / "nginx").open("wb")
        stack.callback(log.close)
        command = [nginx, "-p", str(folder), "-c", str(conf), "-g", "daemon off;"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        url = f"http://127.0.0.1:{listen}"
        _wait(url, process, folder / "log" / "nginx")
        answers = [_ask(url, model) for _ in range(REQUESTS)]
        assert all(answer["done"] for answer in answers), answers
        return {one.name: one.served for one in stand_ins}


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"nginx does not answer:\n{log.read_text()}") from None
            time.sleep(0.05)


def _ask(url: str, model: str) -> dict[str, object]:
    body = json.dumps({"model": model, "prompt": "hello", "stream": False}).encode()
    request = urllib.request.Request(f"{url}/api/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: dict[str, object] = json.load(response)
    return answer
