"""What is right but worth knowing, by the Ollama version of the hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ogen.inventory import environment, load, notes

TEXT = """\
version: 1
ollama: {{version: {version}, {ollama}}}
models:
  m: {{from: llama3, {model}}}
hosts:
  h: {{address: 192.0.2.1, gpus: [{{model: RTX 3090, count: 2}}], env: {{{env}}}}}
"""


def told(
    folder: Path, version: str = "0.32.15", ollama: str = "", model: str = "", env: str = ""
) -> list[str]:
    file = folder / "inventory.yaml"
    file.write_text(TEXT.format(version=version, ollama=ollama, model=model, env=env))
    return [f"{note.message} ({note.hint})" for note in notes(load(file))]


def test_nothing_to_note(tmp_path: Path) -> None:
    assert told(tmp_path, env="OLLAMA_DEBUG: 1, MY_OWN: x, HTTPS_PROXY: x") == []


@pytest.mark.parametrize(
    ("version", "setting", "words"),
    [
        ("0.32.15", {"env": "OLLAMA_GPU_OVERHEAD: 100"}, "no effect since Ollama 0.30.0"),
        ("0.24.0", {"env": "OLLAMA_GPU_OVERHEAD: 100"}, None),
        ("0.32.15", {"env": "OLLAMA_NEW_ENGINE: 1"}, "no effect since Ollama 0.30.0"),
        ("0.32.15", {"env": "OLLAMA_DEBUGG: 1"}, "did you mean 'OLLAMA_DEBUG'?"),
        ("0.32.15", {"env": "OLLAMA_DEBUG_LOG_REQUESTS: 1"}, "every prompt"),
        ("0.32.15", {"ollama": "kv_cache: q8_0"}, "needs flash attention"),
        ("0.32.15", {"ollama": "kv_cache: q8_0, flash_attention: true"}, None),
        ("0.24.0", {"model": "low_vram: true"}, "low_vram has no effect on Ollama 0.24.0"),
        ("0.32.15", {"model": "low_vram: true"}, None),
        ("0.24.0", {"model": "split: row"}, "split has no effect"),
        ("0.24.0", {"model": "split: layer"}, None),
        ("0.24.0", {"model": "shares: [3, 1]"}, "shares has no effect"),
        ("0.32.15", {"model": "use_mmap: true"}, "only false acts"),
        ("0.32.15", {"model": "num_gpu: 30"}, "taken as it is"),
        ("0.24.0", {"model": "num_gpu: 30"}, None),
        ("0.32.15", {"model": "main_gpu: 1, gpus_per_replica: 2"}, "one card of its instance"),
    ],
)
def test_notes(version: str, setting: dict[str, str], words: str | None, tmp_path: Path) -> None:
    found = told(tmp_path, version, **setting)
    if words is None:
        assert found == []
    else:
        assert len(found) == 1
        assert words in found[0]


def test_a_note_is_made_once_for_many_hosts(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text('version: 1\nenv: {OLLAMA_MAX_VRAM: 1}\nhosts: {"h[1:9]": {address: "192.0.2.[1:9]"}}\n')
    assert len(notes(load(file))) == 1


def test_notes_of_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text(
        "version: 1\nhosts: {h: {address: 192.0.2.1, gpus: [{model: RTX 3090, uuid: GPU-mine}]}}\n"
    )
    (tmp_path / "inventory.lock.yaml").write_text(
        "version: 1\nhosts: {h: {ollama: 0.9.0, uuids: {0: GPU-lock}}, gone: {ollama: 0.9.0}}\n"
        "placements: {chat: [h/gpu0, lost/gpu0]}\n"
    )
    found = [note.message for note in notes(load(file))]
    assert found == [
        "the lock knows a host 'gone' that the inventory does not have",
        "the lock knows a host 'lost' that the inventory does not have",
        "hosts.h: Ollama 0.9.0 was seen there, the inventory says 0.32.15",
        "hosts.h: card 0 has another uuid in the lock",
    ]


def test_what_ogen_sets_is_not_also_gone_or_a_boolean() -> None:
    assert not set(environment.OWNED) & (environment.BOOLEANS | set(environment.GONE))
