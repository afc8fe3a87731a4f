"""The mirror's nginx: to whom it answers, and that nothing else than its tree is served."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from rendering import check_units, free_port, instance, make_plan, systemd_root, text_of

from ogen.errors import RenderError
from ogen.inventory.model import Mirror
from ogen.render import render

CONF, SERVICE = "/etc/ogen/current/mirror/nginx.conf", "/etc/ogen/current/mirror/ogen-mirror.service"


def release(host: str = "edge", **changes: str):  # type: ignore[no-untyped-def]
    made = make_plan([instance()])
    hosts = [replace(one, host=replace(one.host, **changes.get(one.host.name, {}))) for one in made.hosts]  # type: ignore[arg-type]
    made = replace(made, inventory=replace(made.inventory, mirror=Mirror(host, 18432)), hosts=tuple(hosts))
    return next(r for r in render(made) if r.host == host)


def test_a_mirror_without_cards_has_a_librarian_and_no_unit_of_it() -> None:
    found = release()
    assert found.librarian["models_dir"] == "/var/lib/ollama/models"
    assert str(found.librarian["unit"]) in {file.path for file in found.files}
    assert not [unit for unit in found.units if "mirror" in unit.name], (
        "it runs only while a rollout needs it"
    )
    assert not any("ollama.service.d" in file.path for file in found.files)


def test_only_the_hosts_that_get_models_are_let_in() -> None:
    found = release()
    for text in (text_of(found, CONF), text_of(found, SERVICE)):
        assert "192.0.2.11" in text
        assert "192.0.2.10" not in text, "it does not ask itself by its own address"
    assert "deny all;" in text_of(found, CONF)
    assert "IPAddressDeny=any" in text_of(found, SERVICE)
    assert "[::]" not in text_of(found, CONF)
    six = release(gpu1={"data_address": "2001:db8::1"})
    assert "listen [::]:18432;" in text_of(six, CONF)
    assert "allow 2001:db8::1;" in text_of(six, CONF)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    check_units(release(), systemd_root(tmp_path))


def test_a_host_known_by_name_can_t_be_let_in() -> None:
    with pytest.raises(RenderError, match="the mirror admits hosts by IP address") as caught:
        release(gpu1={"address": "gpu1.example"})
    assert caught.value.hint == "give it a data_address"


# ------------------------------------------------------------------------------------- a real nginx
@dataclass
class Served:
    port: int

    def ask(self, method: str, path: str, address: str = "127.0.0.1", **headers: str) -> tuple[int, bytes]:
        link = HTTPConnection("127.0.0.1", self.port, timeout=5, source_address=(address, 0))
        try:
            link.request(method, path, headers=headers)
            answer = link.getresponse()
            return answer.status, answer.read()
        finally:
            link.close()


@pytest.fixture
def served(tmp_path: Path, need: Callable[[str], str]) -> Iterator[Served]:
    """The rendered configuration with its folders moved, and a tree as the agent lays it out."""
    port = free_port()
    text = text_of(release(), CONF).replace("18432", str(port))
    text = text.replace("/run/ogen-mirror", str(tmp_path / "run")).replace("/run/ogen/mirror", str(tmp_path))
    text = text.replace("worker_processes 2;", "worker_processes 1; user root;")
    (tmp_path / "run").mkdir()
    for kind in ("manifests", "blobs"):
        (tmp_path / "tree/v2/library/chat" / kind).mkdir(parents=True)
    (tmp_path / "tree/v2/library/chat/manifests/8b").write_text("{}")
    (tmp_path / "blob").write_bytes(bytes(range(100)))
    (tmp_path / "tree/v2/library/chat/blobs/sha256:0a").symlink_to(tmp_path / "blob")
    (tmp_path / "nginx.conf").write_text(text)
    process = subprocess.Popen([need("nginx"), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")])
    found = Served(port)
    end = time.monotonic() + 10
    try:
        while True:
            try:
                found.ask("GET", "/")
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
        yield found
    finally:
        process.terminate()
        process.wait(10)


def test_a_blob_says_where_it_is_as_ollama_asks(served: Served) -> None:
    link = HTTPConnection("127.0.0.1", served.port, timeout=5)
    link.request("GET", "/v2/library/chat/blobs/sha256:0a", headers={"Host": "mirror:11432"})
    answer = link.getresponse()
    assert answer.headers["Location"] == "http://mirror:11432/v2/library/chat/blobs/sha256:0a"
    link.close()


def test_it_speaks_the_read_part_of_the_protocol(served: Served) -> None:
    blob, manifest = "/v2/library/chat/blobs/sha256:0a", "/v2/library/chat/manifests/8b"
    assert served.ask("GET", manifest) == (200, b"{}")
    assert served.ask("HEAD", blob) == (200, b"")
    assert served.ask("GET", blob) == (200, bytes(range(100)))
    assert served.ask("GET", blob, Range="bytes=10-19") == (206, bytes(range(10, 20)))
    assert served.ask("GET", blob, Range="bytes=90-") == (206, bytes(range(90, 100)))
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert served.ask(method, blob)[0] in (403, 405), method
        assert served.ask(method, manifest)[0] in (403, 405), method


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2/",
        "/v2/library/chat/",
        "/v2/library/chat/blobs/",
        "/v2/library/other/manifests/8b",
        "/v2/library/chat/blobs/sha256:0b",
        "/nginx.conf",
        "/v2/library/chat/manifests/..%2f..%2f..%2f..%2f..%2fblob",
        "/tree/v2/library/chat/manifests/8b",
        "/v2/../../blob",
    ],
)
def test_nothing_else_is_served(served: Served, path: str) -> None:
    assert served.ask("GET", path)[0] in (400, 403, 404)


def test_a_stranger_is_refused_whatever_it_asks(served: Served) -> None:
    """127.0.0.2 is no address of the fleet's; that the fleet's own pass, the tests before show."""
    for path in ("/v2/library/chat/manifests/8b", "/v2/library/chat/blobs/sha256:0a", "/v2/"):
        assert served.ask("GET", path, address="127.0.0.2")[0] == 403
