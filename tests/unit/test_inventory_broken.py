"""Every broken inventory is told what is wrong, where, and quickly; editors see what a schema can see.

The first line of each file says which line must be named and what must be said:
`# expect: LINE: TEXT`. The second says what the JSON Schema makes of it: `# schema: fails`, `passes`
(only the whole inventory shows the mistake) or `unreadable` (it is no YAML).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from ogen import source
from ogen.errors import OgenError, Problems, SourceError
from ogen.inventory import load, schema

FOLDER = Path(__file__).parents[1] / "broken"
FILES = sorted(FOLDER.glob("*.yaml"))
SCHEMA = jsonschema.Draft202012Validator(schema())


def each(error: OgenError) -> Iterator[OgenError]:
    yield from error.errors if isinstance(error, Problems) else (error,)


def header(file: Path) -> tuple[int, str, str]:
    first, second = file.read_text(encoding="utf-8").split("\n")[:2]
    line, _, text = first.removeprefix("# expect: ").partition(": ")
    return int(line), text, second.removeprefix("# schema: ")


def plain(node: source.Node) -> object:
    """Values as an editor sees them: without places and tags."""
    if node.is_map:
        return {key: plain(child) for key, child in node.items()}
    return [plain(child) for child in node.value] if node.is_list else node.value


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 85


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_mistake_is_named_at_its_line(file: Path) -> None:
    line, text, _ = header(file)
    start = time.process_time()
    with pytest.raises(OgenError) as caught:
        load(file)
    assert time.process_time() - start < 2
    found = [(e.where.line if e.where else 0, f"{e.message} ({e.hint})") for e in each(caught.value)]
    assert any(at == line and text in said for at, said in found), found
    for error in each(caught.value):
        assert error.where is not None
        assert error.where.file == str(file)
        assert error.where.excerpt()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_one_mistake_is_told_once(file: Path) -> None:
    """A mistake must not cause others: each file has one."""
    with pytest.raises(OgenError) as caught:
        load(file)
    assert len(list(each(caught.value))) == 1, str(caught.value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_editors_schema_agrees(file: Path) -> None:
    _, _, expected = header(file)
    try:
        document = plain(source.read(file))
    except OgenError:
        assert expected == "unreadable"
        return
    assert expected == ("passes" if SCHEMA.is_valid(document) else "fails")


# ------------------------------------------------------------------------- too large to be a file
def told(tmp_path: Path, text: str) -> OgenError:
    file = tmp_path / "inventory.yaml"
    file.write_text(text)
    start = time.process_time()
    with pytest.raises(OgenError) as caught:
        load(file)
    assert time.process_time() - start < 2
    return caught.value


def test_ten_megabytes_of_nesting(tmp_path: Path) -> None:
    error = next(each(told(tmp_path, "models: " + "[" * 10_000_000)))
    assert "nested more than" in error.message
    assert error.where
    assert error.where.line == 1


def test_ten_megabytes_of_nested_maps(tmp_path: Path) -> None:
    assert "nested more than" in str(told(tmp_path, "{a: " * 2_500_000))


def test_ten_megabytes_of_block_nesting(tmp_path: Path) -> None:
    lines = "\n".join(" " * depth + "a:" for depth in range(4400))
    assert "nested more than" in str(told(tmp_path, lines))


def test_a_billion_laughs(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    assert "values once aliases are followed" in str(told(tmp_path, "\n".join(lines)))


def test_laughter_below_the_limit_is_quick(tmp_path: Path) -> None:
    """Aliases may repeat a value a million times; nothing that is checked walks it twice."""
    lines = ["version: 1", "env: &a0 {A: b, C: d}"] + [
        f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 16)
    ]
    assert "unknown key 'a1'" in str(told(tmp_path, "\n".join(lines)))


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    error = told(tmp_path, "#" * (33 * 1024 * 1024))
    assert "is more than" in str(error)


def test_a_hundred_thousand_mistakes(tmp_path: Path) -> None:
    text = "version: 1\n" + "\n".join(f"key{n}: {n}" for n in range(20_000))
    assert len(list(each(told(tmp_path, text)))) <= 201


def test_a_very_long_line_is_cut(tmp_path: Path) -> None:
    error = next(each(told(tmp_path, "version: 1\nhosts: {gpu1: {address: '" + "x" * 1_000_000 + "'}}")))
    assert len(str(error)) < 300
    assert error.where
    assert len(error.where.excerpt()) < 300


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_bytes(b"version: 1\nmodels:\n  chat: {from: \xff\xfe}\n")
    with pytest.raises(Problems) as caught:
        load(file)
    (error,) = caught.value.errors
    assert "not UTF-8" in error.message
    assert error.where
    assert error.where.line == 3


def test_a_control_character(tmp_path: Path) -> None:
    error = next(each(told(tmp_path, "version: 1\nenv: {A: 'x\x07'}\n")))
    assert error.where
    assert (error.where.line, "control" in str(error)) == (2, True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OgenError, match="no such file"):
        load(tmp_path / "missing.yaml")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    error = told(
        tmp_path,
        "version: 1\nmodels:\n  chat: {fron: mistral, paralel: 2}\n"
        "hosts:\n  gpu1: {address: 192.0.2.300, gpus: [{model: RTX 3O90}]}\n"
        "balancers: {api: {hosts: [gpu2]}}\n",
    )
    assert [e.where.line for e in each(error) if e.where] == [3, 3, 3, 5, 5, 6]
    assert isinstance(error, Problems)
    assert not any(isinstance(e, SourceError) for e in error.errors)
