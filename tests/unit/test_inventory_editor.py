"""The committed JSON Schema is what the rules say, is a valid schema, and accepts every example."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_inventory_broken import plain

from ogen import source
from ogen.errors import OgenError
from ogen.inventory import load, schema

SCHEMA = jsonschema.Draft202012Validator(schema())
TOP = Path(__file__).parents[2]
COMMITTED = TOP / "docs" / "inventory.schema.json"
EXAMPLES = sorted((TOP / "inventories").glob("*.yaml"))


def test_the_committed_schema_is_the_one_of_the_rules() -> None:
    made = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("OGEN_UPDATE_GOLDEN") == "1":
        COMMITTED.write_text(made)
    assert json.loads(COMMITTED.read_text()) == schema()


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_examples_are_there() -> None:
    names = {example.stem for example in EXAMPLES}
    assert names >= {"single-8gb", "dual-3090", "llama-70b-two-cards", "fleet", "demo", "queue"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_examples_are_good_for_ogen_and_for_editors(example: Path) -> None:
    load(example)
    jsonschema.Draft202012Validator(schema()).validate(plain(source.read(example)))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_examples_use_addresses_for_documentation(example: Path) -> None:
    for host in load(example).hosts:
        assert host.address.startswith("127." if example.stem == "demo" else "192.0.2.")


def keys(made: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every property of the schema with its path."""
    if isinstance(made, dict):
        for name, child in made.get("properties", {}).items():
            yield f"{path}.{name}", child
        for name, child in made.items():
            yield from keys(child, f"{path}.{name}")
    elif isinstance(made, list):
        for child in made:
            yield from keys(child, path)


def test_every_key_has_a_description() -> None:
    found = list(keys(schema()))
    assert len(found) > 100
    assert [path for path, child in found if not child.get("description")] == []


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("context: 8192", True),
        ("context: {want: 8192, at_least: 4096}", True),
        ("context: 8k", False),
        ("num_ctx: 2048", True),
        ("num_batch: 256", True),
        ("from: llama3", True),
        ("from: [a:q8_0, a:q4_0]", True),
        ("from: {Q8_0: a, Q4_0: b}", True),
        ("from: 3", False),
        ("aliases: gpt-4o", True),
        ("aliases: [gpt-4o]", True),
        ("replicas: fill", True),
        ("replicas: 2", True),
        ("replicas: two", False),
        ("keep_alive: -1", True),
        ("keep_alive: 30m", True),
        ("keep_alive: 300", False),
        ('parameters: {stop: "###"}', True),
        ("low_vram: true", True),
    ],
)
def test_short_forms(text: str, good: bool, tmp_path: Path) -> None:
    """ogen and the schema agree on each way to write a value."""
    lines = [text] if text.startswith("from") else ["from: llama3", text]
    body = "".join(f"    {line}\n" for line in lines)
    file = tmp_path / "inventory.yaml"
    file.write_text(f"version: 1\nmodels:\n  m:\n{body}hosts: {{h: {{address: 192.0.2.1}}}}\n")
    assert jsonschema.Draft202012Validator(schema()).is_valid(plain(source.read(file))) is good
    try:
        load(file)
    except Exception:
        assert not good
    else:
        assert good


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a document stands."""
    if path:
        yield path
    for key, child in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(child, (*path, key))


DOCUMENT = plain(source.read(TOP / "inventories" / "fleet.yaml"))
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70000),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from(
        ["5s", "24GiB", "25%", "fill", "gpu01", "chat", "@boxes", "192.0.2.77", "q8_0", "/srv/x", "", "a b"]
    ),
    st.text(max_size=6),
    st.lists(st.sampled_from(["gpu01", "chat", 1, None]), max_size=3),
    st.dictionaries(
        st.sampled_from(["from", "hosts", "1", "A", "state"]), st.sampled_from(["x", 1, None]), max_size=2
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(sorted(paths(DOCUMENT), key=str)), VALUES)
def test_what_ogen_takes_editors_take(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    """Any value anywhere: ogen takes it or says why not, and never takes what the schema refuses."""
    changed = copy.deepcopy(DOCUMENT)
    at: Any = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    file = tmp_path / "inventory.yaml"
    file.write_text(json.dumps(changed, ensure_ascii=False))
    try:
        load(file)
    except OgenError:
        return  # nothing else may come out
    SCHEMA.validate(plain(source.read(file)))


def test_the_rules_are_rules_to_cerberus() -> None:
    """ogen hands cerberus its rules unchecked, to start quickly; so they are checked here."""
    import cerberus

    from ogen.inventory.checking import _cerberus, _flat
    from ogen.inventory.lock import RULES
    from ogen.inventory.rules import ROOT

    def each(rule: Any) -> Iterator[Any]:
        yield rule
        nested = rule.get("schema")
        if nested:
            inner = [nested] if "type" in nested and not isinstance(nested["type"], dict) else nested.values()
            for child in inner:
                yield from each(child)
        for part in ("keysrules", "valuesrules"):
            if part in rule:
                yield from each(rule[part])

    checked = 0
    for rule in (*each(ROOT), *each(RULES)):
        flat = {k: list(v) if isinstance(v, tuple) else v for k, v in _flat(rule)}
        _cerberus()[0]({"value": flat})  # raises SchemaError
        checked += 1
    assert checked > 150
    with pytest.raises(cerberus.SchemaError):
        _cerberus()[0]({"value": {"type": "strin"}})
