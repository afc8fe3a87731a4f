"""The librarian: streams that fail after HTTP 200, names on disk, the transient unit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ogen.agent import librarian, modelstore, pulling, transient
from ogen.agent.errors import AgentError
from ogen.agent.machine import Done

PULL = [
    {"status": "pulling manifest"},
    {"status": "pulling aaaa", "digest": "sha256:aaaa", "total": 100, "completed": 50},
    {"status": "pulling bbbb", "digest": "sha256:bbbb", "total": 100},
    {"status": "pulling aaaa", "digest": "sha256:aaaa", "total": 100, "completed": 100},
    {"status": "verifying sha256 digest"},
    {"status": "success"},
]


def read(lines: list[Any]) -> list[tuple[str, float | None]]:
    told: list[tuple[str, float | None]] = []
    stream = pulling.Stream(lambda text, percent: told.append((text, percent)), "pull x")
    stream.read(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return told


def test_progress_is_over_all_layers() -> None:
    assert [percent for _, percent in read(PULL)] == [None, 50.0, 25.0, 50.0, None, None]


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ([*PULL[:2], {"error": "pull model manifest: file does not exist"}], "does not exist"),
        (PULL[:-1], "without success"),
        ([], "without success"),
        (["<html>"], "not JSON"),
        (["[1]"], "not an object"),
    ],
)
def test_no_success_is_a_failure(lines: list[Any], word: str) -> None:
    with pytest.raises(AgentError, match=word):
        read(lines)


def test_an_unknown_model_has_advice() -> None:
    with pytest.raises(AgentError) as caught:
        read([{"error": "pull model manifest: file does not exist"}])
    assert "inventory" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llama3.1:8b", "registry.ollama.ai/library/llama3.1/8b"),
        ("llama3", "registry.ollama.ai/library/llama3/latest"),
        ("ogen/chat:3f9c", "registry.ollama.ai/ogen/chat/3f9c"),
        ("hf.co/someone/model-GGUF:Q4_K_M", "hf.co/someone/model-GGUF/Q4_K_M"),
        ("mirror:5000/library/llama3:8b", "mirror:5000/library/llama3/8b"),
        ("http://mirror:5000/library/llama3:8b", "mirror:5000/library/llama3/8b"),
    ],
)
def test_names_on_disk(name: str, path: str) -> None:
    assert modelstore.manifest_path(name) == path


def store(folder: Path, name: str, size: int = 3) -> None:
    manifest = folder / "manifests" / modelstore.manifest_path(name)
    manifest.parent.mkdir(parents=True)
    layer = {"digest": "sha256:aa", "size": size}
    manifest.write_text(json.dumps({"layers": [layer], "config": {"digest": "sha256:bb", "size": 0}}))
    (folder / "blobs").mkdir()
    (folder / "blobs/sha256-aa").write_bytes(b"xyz")
    (folder / "blobs/sha256-bb").write_bytes(b"")


def test_a_model_counts_only_with_its_blobs(tmp_path: Path) -> None:
    store(tmp_path / "whole", "ogen/chat:1")
    assert modelstore.in_store(str(tmp_path / "whole"), "ogen/chat:1")
    assert not modelstore.in_store(str(tmp_path / "whole"), "ogen/chat:2")
    store(tmp_path / "short", "ogen/chat:1", size=4)
    assert not modelstore.in_store(str(tmp_path / "short"), "ogen/chat:1")
    (tmp_path / "whole/blobs/sha256-bb").unlink()
    assert not modelstore.in_store(str(tmp_path / "whole"), "ogen/chat:1")


def test_missing_models(tmp_path: Path) -> None:
    store(tmp_path, "ogen/chat:1")
    models = [{"name": "ogen/chat:1"}, {"name": "ogen/chat:2"}]
    found = librarian.missing({"models": models, "librarian": {"models_dir": str(tmp_path)}})
    assert found == models[1:]


UNIT = """\
[Unit]
Description=librarian
[Service]
# a comment
Type=exec
User=ollama
ExecStart=/usr/local/bin/ollama serve
Environment="A=b c" \\
  D=e
Restart=always
[Install]
WantedBy=x
"""


def test_the_transient_unit_has_the_service_lines() -> None:
    command = transient.command("ogen-librarian-stage", UNIT)
    assert command[-3:] == ["--", "/usr/local/bin/ollama", "serve"]
    given = [command[i + 1] for i, word in enumerate(command) if word == "-p"]
    assert given[:2] == ["Type=exec", "User=ollama"]
    assert given[2].split() == ['Environment="A=b', 'c"', "D=e"]
    guard = "ogen-librarian-stage-guard.service"  # it ends with the agent that started it
    assert given[3:] == [f"BindsTo={guard}", f"After={guard}"]


def test_a_unit_without_a_program_is_an_error() -> None:
    with pytest.raises(AgentError, match="ExecStart"):
        transient.command("x", "[Service]\nUser=x\n")


def test_a_view_in_a_folder_is_a_description() -> None:
    manifest = {"models": [{"name": "ogen/chat:1", "source": "llama3"}], "librarian": {}}
    one = librarian.view(manifest, {"model": "ogen/chat:1"}, relocated=True)
    assert json.loads(one)["build"]["source"] == "llama3"


def test_what_the_store_holds_is_told_with_ollamas_digest_and_its_size(tmp_path: Path) -> None:
    store(tmp_path, "ogen/chat:1")
    file = tmp_path / "manifests" / modelstore.manifest_path("ogen/chat:1")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    found = modelstore.stored(str(tmp_path), ["ogen/chat:1", "mistral", "./x.gguf"])
    assert found == {"ogen/chat:1": {"digest": digest, "size": 3}}


def test_a_missing_ollama_has_advice() -> None:
    class Bare:
        def run(self, command: list[str], timeout: float = 0.0) -> Any:
            return Done(1, "Failed to find executable /usr/local/bin/ollama: No such file or directory\n")

    with pytest.raises(AgentError) as caught:
        transient.start(Bare(), "x", "the librarian", "[Service]\nExecStart=/usr/local/bin/ollama serve\n")  # type: ignore[arg-type]
    assert "install Ollama" in str(caught.value.hint)


def test_a_host_that_was_not_provisioned_is_told_so() -> None:
    text = "[Service]\nUser=nobody-of-that-name\nExecStart=/usr/local/bin/ollama serve\n"
    with pytest.raises(AgentError, match="there is no user 'nobody-of-that-name'") as raised:
        transient.start(object(), "x", "the librarian", text)  # type: ignore[arg-type]
    assert raised.value.hint == "run `ogen provision` first"
