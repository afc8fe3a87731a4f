# ruff: noqa: E501
"""What a queue's workers run on: wheels by name and sha256, the same on every host."""

from __future__ import annotations

import hashlib

#: pure Python all of them, for Python 3.10 and newer (async-timeout: for those before 3.11.3)
WHEELS = {
    "async_timeout-5.0.1-py3-none-any.whl": "39e3809566ff85354557ec2398b55e096c8364bacac9405a7a1fa429e77fe76c",
    "croniter-7.0.0-py3-none-any.whl": "92090bce3cef195a037a46b78430c4cdd6250e90671d9d7dcd9e486147daaca4",
    "python_dateutil-2.9.0.post0-py2.py3-none-any.whl": "a8b2bc7bffae282281c8140a97d3aa9c14da0b136dfe83f850eea9a5f7470427",
    "redis-7.4.1-py3-none-any.whl": "1fa4647af1c5e93a2c685aa248ee44cce092691146d41390518dabe9a99839b0",
    "saq-0.26.4-py3-none-any.whl": "7a1f81ae2a95b6c34b170bc9b8cf84423052d9612f62cf0ec426c1fd27e35b2c",
    "six-1.17.0-py2.py3-none-any.whl": "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274",
    "typing_extensions-4.16.0-py3-none-any.whl": "481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8",
}
ID = hashlib.sha256(repr(sorted(WHEELS.items())).encode()).hexdigest()[:12]
FOLDER = "/opt/ogen/queue/" + ID  # on a host


def wanted() -> str:
    """What pip calls them: the words of `pip download`."""
    parts = (name.split("-")[:2] for name in sorted(WHEELS))
    return " ".join(f"{name.replace('_', '-')}=={version}" for name, version in parts)
