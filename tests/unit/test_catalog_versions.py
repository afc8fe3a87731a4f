"""Versions of Ollama and their eras."""

import pytest

from ogen.catalog import Era, at_least, era
from ogen.errors import CatalogError


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.1.20", Era.A),
        ("0.12.10", Era.A),
        ("0.12.11", Era.B),
        ("v0.24.0", Era.B),
        ("0.30.0-rc1", Era.C),
        ("0.30.0", Era.C),
        ("0.32.15", Era.C),
        ("1.0", Era.C),
    ],
)
def test_eras(version, expected):
    assert era(version) is expected


def test_order():
    rising = [
        "0.9.6",
        "0.10.0-rc0",
        "0.10.0-rc1",
        "0.10.0-rc10",
        "0.10.0",
        "0.10.1",
        "0.12.11",
        "0.30.0",
        "1.0.0",
    ]
    for i, low in enumerate(rising):
        for j, high in enumerate(rising):
            assert at_least(high, low) is (j >= i)


@pytest.mark.parametrize("bad", ["", "latest", "0.x", "0.30.0 ", "1.2.3.4", "9" * 50])
def test_what_is_no_version(bad):
    if bad.strip() == "0.30.0":
        assert at_least(bad, "0.30.0")
        return
    with pytest.raises(CatalogError, match="not a version"):
        at_least(bad, "0.1.0")
