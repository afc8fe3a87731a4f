"""What a test needs from the machine: named in one line where it is missing, a failure under CI."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import hypothesis
import pytest

# a busy machine is no fault of a test's
hypothesis.settings.register_profile(
    "ogen", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ogen")

DEAF = (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT)
NEEDS = {"boxes": ("systemd-nspawn", "mmdebstrap", "apt-ftparchive", "ip", "cc")}


def missing(marker: str) -> str:
    """Why tests with this marker can't run here; empty if they can."""
    if marker == "boxes" and os.geteuid() != 0:
        return "boxes need root"
    lacking = [tool for tool in NEEDS.get(marker, ()) if not shutil.which(tool)]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    in_ci = os.environ.get("CI") == "true"
    soak = "soak" in (config.getoption("-m") or "")
    if not soak:  # longer than CI has
        longer = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=longer)
    for item in items:
        for marker in NEEDS:
            why = missing(marker) if item.get_closest_marker(marker) else ""
            if why and in_ci:
                pytest.exit(f"under CI nothing may be left out, but {why}", returncode=1)
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The agent turns deaf to signals at its commit; where a test runs it in this process, that ends here.

    An ignored SIGTERM would else be inherited by every program that a later test starts.
    """
    before = {number: signal.getsignal(number) for number in DEAF}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def need():
    """`need("nginx")`: the tool's path; without it the test is skipped, under CI it fails."""

    def find(tool: str) -> str:
        path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path:
            return path
        if os.environ.get("CI") == "true":
            pytest.fail(f"under CI nothing may be left out, but {tool} is not installed")
        pytest.skip(f"{tool} is not installed")

    return find
