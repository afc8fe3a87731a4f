"""inventory.lock.yaml: read, written, and what a plan learns of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.errors import Problems
from ogen.inventory import Lock, load, lock
from ogen.source import parse

DIGEST = "sha256:" + "0f" * 32
FULL = Lock(
    uuids={"gpu01": {0: "GPU-aaaa", 1: "MIG-bbbb"}, "gpu02": {}},
    versions={"gpu01": "0.32.15", "edge": "0.9"},
    digests={"llama3.1:8b": DIGEST},
    sizes={"llama3.1:8b": 4920753328, "./a b.gguf": 1},
    placements={"chat": ("gpu01/gpu0", "gpu01/gpu1-2", "desk/cpu"), "none": ()},
)
TEXT = """\
# Written by `ogen lock`: what names resolved to. Review and commit it like the inventory.
version: 1
hosts:
  edge:
    ollama: "0.9"
  gpu01:
    ollama: "0.32.15"
    uuids:
      0: GPU-aaaa
      1: MIG-bbbb
  gpu02:
    uuids: {}
sources:
  "./a b.gguf":
    size: 1
  llama3.1:8b:
    digest: sha256:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
    size: 4920753328
placements:
  chat:
    - gpu01/gpu0
    - gpu01/gpu1-2
    - desk/cpu
  none: []
"""


def test_the_text() -> None:
    assert lock.text(FULL) == TEXT


def test_an_empty_lock() -> None:
    assert lock.parse(parse(lock.text(Lock()), "f")) == Lock()


NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True)
REFS = st.from_regex(r"[a-z0-9]{1,8}:[a-z0-9][a-z0-9.]{0,8}", fullmatch=True)
UUIDS = st.from_regex(r"GPU-[0-9a-f]{8}", fullmatch=True)
PLACES = st.builds("{}/gpu{}".format, NAMES, st.integers(0, 15))
LOCKS = st.builds(
    Lock,
    uuids=st.dictionaries(NAMES, st.dictionaries(st.integers(0, 15), UUIDS, max_size=3), max_size=3),
    versions=st.dictionaries(NAMES, st.sampled_from(["0.32.15", "0.9", "0.33.0-rc2"]), max_size=3),
    digests=st.dictionaries(REFS, st.just(DIGEST), max_size=3),
    sizes=st.dictionaries(REFS, st.integers(0, 10**12), max_size=3),
    placements=st.dictionaries(NAMES, st.lists(PLACES, max_size=3).map(tuple), max_size=3),
)


@given(LOCKS)
def test_what_is_written_is_read(written: Lock) -> None:
    assert lock.parse(parse(lock.text(written), "f")) == written


def test_writing_is_in_one_order() -> None:
    turned = Lock(
        uuids=dict(reversed(FULL.uuids.items())),
        versions=dict(reversed(FULL.versions.items())),
        digests=FULL.digests,
        sizes=dict(reversed(FULL.sizes.items())),
        placements=dict(reversed(FULL.placements.items())),
    )
    assert lock.text(turned) == lock.text(FULL)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("hosts: {}", 1, "'version' is missing"),
        ("version: 2", 1, "must be one of 1"),
        ("version: 1\nhost: {}", 2, "did you mean 'hosts'?"),
        ("version: 1\nhosts: {a: {uuids: {0: nonsense}}}", 2, "a card's UUID"),
        ("version: 1\nhosts: {a: {uuids: {x: GPU-aaaa}}}", 2, "a card's number"),
        ("version: 1\nsources: {a: {digest: md5:x}}", 2, "a digest"),
        ("version: 1\nsources: {a: {size: 4GB}}", 2, "a whole number"),
        ("version: 1\nplacements: {chat: [../../x]}", 2, "host/instance"),
        ("version: 1\nplacements: {chat: !env X}", 2, "can't stand here"),
    ],
)
def test_what_is_refused(text: str, line: int, words: str) -> None:
    with pytest.raises(Problems) as caught:
        lock.parse(parse(text, "f"))
    (error,) = caught.value.errors
    assert words in str(error)
    assert error.where
    assert error.where.line == line


def test_where_it_lies(tmp_path: Path) -> None:
    assert lock.path_beside(tmp_path) == tmp_path / "inventory.lock.yaml"
    assert lock.path_beside(tmp_path / "inventory.yaml") == tmp_path / "inventory.lock.yaml"
    assert lock.path_beside(tmp_path / "fleet.yaml") == tmp_path / "fleet.lock.yaml"


def test_loading_takes_uuids_from_it(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text(
        "version: 1\nhosts:\n  h:\n    address: 192.0.2.1\n"
        "    gpus: [{model: RTX 3090}, {model: RTX 3090, uuid: GPU-mine}, {model: RTX 3090}]\n"
    )
    assert load(file).lock is None
    (tmp_path / "inventory.lock.yaml").write_text(
        "version: 1\nhosts: {h: {uuids: {0: GPU-lock, 1: GPU-lost}}}\n"
    )
    found = load(file)
    assert [gpu.uuid for gpu in found.hosts[0].gpus] == ["GPU-lock", "GPU-mine", None]
    assert found.lock is not None


def test_mistakes_of_lock_and_inventory_are_told_together(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text("version: 1\nhosts: {h: {adress: x}}\n")
    (tmp_path / "inventory.lock.yaml").write_text("version: 3\n")
    with pytest.raises(Problems) as caught:
        load(file)
    assert len(caught.value.errors) == 3
