"""Single values of a YAML text change; all else stays, to the last blank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.adopt.document import Document, Key, Unfit, Value, scalar
from ogen.source import parse

TEXT = """\
# héad
models:
  chat:   # the one
    context: 8192      # tokens
    from: 'llama3:8b'
    aliases: [gpt-4o, "llama3:8b", llama3.1:8b]
  big: {context: {want: 4096, at_least: 2048}, parameters: {temperature: 0.2}}   # flow
  bare:
hosts:
  a: {address: 192.0.2.1}
  system: |
    two
    lines
env: {}
"""


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("models", "chat", "context"), 4096, "context: 8192      #", "context: 4096      #"),
        (("models", "chat", "from"), "x'y", "'llama3:8b'\n", "'x''y'\n"),
        (("models", "chat", "aliases", 1), "z", '"llama3:8b", ', '"z", '),
        (("models", "big", "context", "want"), 3000, "want: 4096", "want: 3000"),
        (
            ("models", "big", "parameters", "top_p"),
            0.5,
            "temperature: 0.2}",
            "temperature: 0.2, top_p: 0.5}",
        ),
        (("models", "chat", "batch"), 256, "  big:", "    batch: 256\n  big:"),
        (("models", "bare", "context"), 7, "  bare:\n", "  bare: {context: 7}\n"),
        (("env", "A"), "1", "env: {}\n", 'env: {A: "1"}\n'),
        (("hosts", "b", "ollama", "keep_alive"), "30m", "  a: {", "  b: {ollama: {keep_alive: 30m}}\n  a: {"),
    ],
)
def test_one_value(path: Key, value: Value, old: str, new: str) -> None:
    changed = Document(TEXT).set(path, value)
    assert changed.text == TEXT.replace(old, new)
    node = parse(changed.text, "x").at(path)
    assert str(node.value) == str(value)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (("models", "chat", "context"), "    context: 8192      # tokens\n", ""),
        (("models", "big", "context"), "context: {want: 4096, at_least: 2048}, ", ""),
        (("models", "big", "parameters"), ", parameters: {temperature: 0.2}", ""),
    ],
)
def test_a_key_goes(path: Key, old: str, new: str) -> None:
    assert Document(TEXT).unset(path).text == TEXT.replace(old, new)


@pytest.mark.parametrize("path", [("hosts", "system"), ("models",), ("models", "chat", "context", "want")])
def test_what_can_not_be_set(path: Key) -> None:
    with pytest.raises(Unfit):
        Document(TEXT).set(path, 1)


@pytest.mark.parametrize(
    "path", [("hosts", "a", "address"), ("hosts", "c"), ("models", "chat"), ("hosts", "system")]
)
def test_what_can_not_be_removed(path: Key) -> None:
    with pytest.raises(Unfit):
        Document(TEXT).unset(path)


def test_a_secret_is_not_replaced() -> None:
    with pytest.raises(Unfit):
        Document("a: !env NAME\n").set(("a",), "x")


@given(st.one_of(st.booleans(), st.integers(), st.text(st.characters(blacklist_categories=["Cs", "Cc"]))))
def test_a_scalar_is_read_as_what_was_written(value: Value) -> None:
    for quote in ("", "'", '"'):
        node = parse(f"a: {scalar(value, quote)}\n", "x").at(("a",))
        assert node.value == value
