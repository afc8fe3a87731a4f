"""GGUF headers over HTTP, and shapes from /api/show."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ogen.catalog import gguf, remote
from ogen.errors import CatalogError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _truth import header, headers


class Handler(BaseHTTPRequestHandler):
    """A server with one file of 600 MB that it makes up, and ways to misbehave."""

    served = 0
    asked: tuple = ()

    def do_GET(self):
        way = self.path.strip("/").split("?")[0]
        if way == "moved":
            self.send_response(302)
            self.send_header("Location", "/good?signed=1")
            self.end_headers()
            return
        if way == "loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        if way in ("404", "403", "500"):
            self.send_error(int(way))
            return
        data = headers()["qwen3-8b", "Q4_K_M"] if way != "junk" else b"<html>" * 100
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        type(self).asked += ((first, last),)
        body = data[first : last + 1]
        if way == "whole":
            self.send_response(200)
            body = data
        elif first >= len(data):
            self.send_response(416)
            body = b""
        else:
            self.send_response(206)
            start = first + (1 if way == "shifted" else 0)
            self.send_header("Content-Range", f"bytes {start}-{last}/{600 * 2**20}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = header("qwen3-8b", "Q4_K_M")
        answers = {
            "qwen3:8b": {
                "model_info": dict(found.metadata),
                "tensors": [{"name": t.name, "type": t.type, "shape": list(t.dims)} for t in found.tensors],
            },
            "quiet": {"model_info": {}},
            "list": [1],
        }
        body = json.dumps(answers.get(request["model"], {"error": "not found"})).encode()
        self.send_response(200 if request["model"] in answers and request["verbose"] is True else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("way", ["good", "moved", "whole"])
def test_a_header_is_read_in_ranges(server, way):
    assert remote.read_url(f"{server}/{way}").tensors == header("qwen3-8b", "Q4_K_M").tensors


def test_no_more_than_the_header_is_fetched(server):
    Handler.asked = ()
    remote.read_url(f"{server}/good")
    assert sum(last - first + 1 for first, last in Handler.asked) <= 2 * 2**20


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("404", "answered 404"),
        ("403", "answered 403"),
        ("500", "answered 500"),
        ("loop", "redirects"),
        ("shifted", "another range"),
        ("junk", "no GGUF"),
    ],
)
def test_servers_that_misbehave(server, way, says):
    with pytest.raises(CatalogError, match=says):
        remote.read_url(f"{server}/{way}")


@pytest.mark.parametrize(
    "url", ["ftp://h/x.gguf", "http://", "http://h:99999/x", "http://h/a b", "file:///etc/passwd"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(CatalogError, match="no http or https"):
        remote.read_url(url)


def test_nobody_there():
    with pytest.raises(CatalogError):
        remote.read_url("http://127.0.0.1:9/x.gguf")


def test_a_server_without_ranges_is_named(server):
    source = remote.HttpSource(f"{server}/whole")
    with pytest.raises(CatalogError, match="range requests"):
        source.read(4096, 10)


def test_the_same_shape_from_a_running_ollama(server):
    found = remote.show(server, "qwen3:8b")
    truth = header("qwen3-8b", "Q4_K_M").shape("qwen3:8b")
    assert found.block_bytes == truth.block_bytes
    assert (found.kv_heads, found.quant, found.tensor_bytes) == (truth.kv_heads, "Q4_K_M", truth.tensor_bytes)


@pytest.mark.parametrize(("model", "says"), [("quiet", "verbose"), ("list", "no JSON object"), ("x", "404")])
def test_answers_without_a_model(server, model, says):
    with pytest.raises(CatalogError, match=says) as caught:
        remote.show(server, model)
    assert caught.value.message


@pytest.mark.parametrize(
    "tensor",
    [
        None,
        {"name": "a", "type": "Q4_K", "shape": []},
        {"name": "a", "type": "Q4_K", "shape": [256, -1]},
        {"name": 7, "type": "Q4_K", "shape": [256]},
        {"name": "a", "type": "what", "shape": [256]},
        {"name": "a", "type": "Q4_K", "shape": [True]},
    ],
)
def test_tensors_that_make_no_sense(tensor):
    with pytest.raises(CatalogError):
        remote.from_show({"model_info": {"general.architecture": "llama"}, "tensors": [tensor]}, "m")


def test_a_blob_on_a_host_is_read_in_pieces(tmp_path):
    """The commands are run here; over SSH they are the same words."""
    blob = tmp_path / "sha256-0 $(touch x)"
    blob.write_bytes(headers()["qwen3-8b", "Q4_K_M"] + bytes(5_000_000))
    asked = []

    def run(words):
        asked.append(words)
        return subprocess.run(words, check=True, capture_output=True).stdout

    source = remote.HostSource("gpu01", str(blob), run)
    assert gguf.parse(source).tensors == header("qwen3-8b", "Q4_K_M").tensors
    assert source.read(5_000_000 + 24_160 - 3, 10) == bytes(3)
    assert len(asked) == 2
