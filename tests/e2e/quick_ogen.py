"""`ogen` as the tests of faults run it: the same command, less patient with units that it has started."""

from __future__ import annotations

import dataclasses
from typing import Any

from ogen.cli import fleet, main

_made = fleet._options


def _options(*args: Any) -> Any:
    return dataclasses.replace(_made(*args), settle=1.0, answer=15.0, load=30.0, reload=6.0)


fleet._options = _options
main()
