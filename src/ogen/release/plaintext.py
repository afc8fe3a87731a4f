"""Text of others (hosts, models, users) made fit to be shown: nothing in it steers a terminal."""

from __future__ import annotations

import re

# CSI, OSC and the two-character escapes of terminals
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
# C0 without tab and newline, DEL, C1; bidi marks, embeddings, overrides, isolates; line separators;
# zero-width and interlinear characters; surrogates that a lenient decoder let in
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def clean(text: str) -> str:
    """`text` without terminal sequences; other control and bidi characters shown as escapes."""
    return _HIDDEN.sub(_escaped, _ESCAPES.sub("", text.replace("\r\n", "\n")))


def visible(text: str) -> str:
    """`text` on one line, with every control and bidi character shown as an escape: what a diff needs."""
    return _HIDDEN.sub(_escaped, text).replace("\n", "\\x0a")


def one_line(text: str, width: int = 300) -> str:
    """`text` cleaned, on one line of at most `width` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
