"""YAML to values with places: what is read as what, and what is refused where."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen import source
from ogen.errors import OgenError, Problems, SourceError
from ogen.source import Node, parse


def refused(text: str | bytes) -> OgenError:
    with pytest.raises(OgenError) as caught:
        parse(text, "f.yaml")
    return caught.value


def place(error: OgenError) -> tuple[int, int]:
    assert error.where is not None
    return error.where.line, error.where.column


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("0644", 644),
        ("0o644", 0o644),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("12:30:45", "12:30:45"),
        ("0.9", 0.9),
        ("0.32.15", "0.32.15"),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("-5", -5),
        ('"5"', "5"),
        ("'true'", "true"),
        ("!!str 5", "5"),
        ('!!int "5"', 5),
        ("9" * 50, "9" * 50),
        ("2026-11-23", "2026-11-23"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    node = parse(f"a: {text}", "f").value["a"]
    assert node.value == value
    assert type(node.value) is type(value)


def test_a_number_keeps_how_it_was_written() -> None:
    assert parse("version: 0.30", "f").value["version"].text == "0.30"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: [llama3.1:8b, x]", ["llama3.1:8b", "x"]),
        ("a: {q4: llama3:8b-q4, q8: http://h:5000/x:y}", {"q4": "llama3:8b-q4", "q8": "http://h:5000/x:y"}),
        ('a: {"b":1}', {"b": 1}),
        ("a: [fe80::1:2, 10:20]", ["fe80::1:2", "10:20"]),
        ('a: ["x:y", z:w]', ["x:y", "z:w"]),
        ("a: [\ue000, x:y]", ["\ue000", "x:y"]),  # the very character that stands in for a colon
    ],
)
def test_colons_in_flow_style(text: str, value: object) -> None:
    """YAML 1.2 allows them inside of plain text; libyaml, which reads 1.1, does not."""
    assert parse(text, "f").plain() == {"a": value}


def test_colons_do_not_move_places() -> None:
    node = parse("a: [x:y,\n  b:c, d]", "f").value["a"]
    assert [(n.where.line, n.where.column) for n in node.value] == [(1, 5), (2, 3), (2, 8)]


def test_a_large_file_is_not_left_to_the_slow_parser() -> None:
    text = "a: [\ue000, x:y]\n" + "# comment\n" * 110_000
    assert "found unexpected ':'" in refused(text).message


def test_places() -> None:
    node = parse("# top\nmodels:\n  chat: {from: x}\n  list:\n    - one\n    - two\n", "f.yaml")
    assert str(node.where_of(("models",))) == "f.yaml:2:1"
    assert str(node.where_of(("models", "chat", "from"))) == "f.yaml:3:10"
    assert str(node.at(("models", "chat", "from")).where) == "f.yaml:3:16"
    assert str(node.where_of(("models", "list", 1))) == "f.yaml:6:7"
    assert str(node.where_of(("models", "none", "deeper"))) == "f.yaml:3:3"


def test_all_doubled_keys_are_told() -> None:
    error = refused("a: 1\nb: 2\na: 3\nb: 4\n")
    assert isinstance(error, Problems)
    assert [place(e) for e in error.errors] == [(3, 1), (4, 1)]
    assert error.errors[0].hint == "the first one is in line 1; keep one"


def test_merge_keys_do_not_override_and_are_no_duplicates() -> None:
    node = parse("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\nz: {<<: [*x, {c: 4}]}", "f")
    assert node.value["y"].plain() == {"a": 3, "b": 2}
    assert node.value["z"].plain() == {"a": 1, "b": 2, "c": 4}


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("a: !!python/object/apply:os.system [id]", (1, 4), "can't stand here"),
        ("a: !!python/name:os.system ''", (1, 4), "can't stand here"),
        ("a: !!binary aGk=", (1, 4), "can't stand here"),
        ("a: !!set {x}", (1, 4), "can't stand here"),
        ("a: !!map [x]", (1, 4), "can't stand here"),
        ("a:\n\t- b", (2, 1), "a tab"),
        ("a: 'x\n\n\n", (1, 4), "close the quote"),
        ("a: [x\nb: 1\n", (1, 4), "close the bracket"),
        ("a: b: c", (1, 5), "in quotes"),
        ("a: @b", (1, 4), "in quotes"),
        ("a: *b", (1, 4), "no anchor"),
        ("a: &a [*a]", (1, 8), "holds itself"),
        ("a: 1\n---\nb: 2", (2, 1), "second document"),
        ("? [a]\n: b", (1, 3), "plain text"),
        ("<<: [1]", (1, 1), "maps only"),
        ("a: 'é\u00a0ok'\nb: \x07", (2, 4), "control characters"),
        ("!!str a: 1\n!x b: 1", (2, 1), "a key must be plain text"),
    ],
)
def test_what_is_refused(text: str, at: tuple[int, int], words: str) -> None:
    error = refused(text)
    assert place(error) == at
    assert words in str(error)


def test_bytes_that_are_not_utf_8() -> None:
    error = refused(b"a: 1\nb: caf\xe9\n")
    assert place(error) == (2, 7)
    assert "UTF-8" in str(error)


def test_a_byte_order_mark_is_no_text() -> None:
    assert parse(b"\xef\xbb\xbfa: 1", "f").plain() == {"a": 1}


def test_own_tags_stay_with_their_value() -> None:
    node = parse("a: !env NAME\nb: !command [x, y]\nc: !env", "f")
    assert [(n.tag, n.value if n.is_scalar else "list") for _, n in node.items()] == [
        ("!env", "NAME"),
        ("!command", "list"),
        ("!env", ""),
    ]


def test_depth_is_bounded() -> None:
    assert parse("[" * 47 + "]" * 47, "f").is_list
    assert "nested more than 48 deep" in refused("[" * 49 + "]" * 49).message


def test_aliases_are_counted_as_what_they_stand_for() -> None:
    text = "a: &a [" + "x, " * 1000 + "]\n" + "b: &b [" + "*a, " * 1000 + "]\nc: [" + "*b, " * 3 + "]"
    assert "values once aliases are followed" in refused(text).message


def test_reading_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        source.read(tmp_path / "none.yaml")
    with pytest.raises(SourceError, match="is a directory"):
        source.read(tmp_path)
    big = tmp_path / "big.yaml"
    with big.open("wb") as file:
        os.truncate(file.fileno(), source.MAX_BYTES + 1)
    with pytest.raises(SourceError, match="more than"):
        source.read(big)


def test_an_empty_text_is_null() -> None:
    assert parse("", "f") == Node(None, parse("", "f").where)
    assert parse("# nothing\n", "f").value is None


CHARACTERS = st.characters(codec="utf-8", exclude_categories=("C", "Z"))
KEYS = st.text(CHARACTERS, min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(CHARACTERS, max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_json_is_yaml(value: object) -> None:
    """Any JSON document reads as itself, dense or indented."""
    for indent in (None, 1):
        assert parse(json.dumps(value, ensure_ascii=False, indent=indent), "f").plain() == value


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but an OgenError comes out, and its place is inside of the text."""
    try:
        parse(text, "f")
    except OgenError as error:
        for one in error.errors if isinstance(error, Problems) else [error]:
            assert one.where is not None
            assert 1 <= one.where.line <= text.count("\n") + len(text.splitlines()) + 2
