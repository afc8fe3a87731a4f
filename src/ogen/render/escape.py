"""How text enters a file: one filter for each language, so that free text always comes out inert."""

from __future__ import annotations

import ipaddress
import json
import math
import re
import shlex
from collections.abc import Callable
from typing import Any

from ..errors import RenderError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN = re.compile(r"[A-Za-z0-9_=./:,@+\[\]-]*")
_PATH = re.compile(r"(?:/[A-Za-z0-9._+@,=-]+)+/?|/")
_NO_UTF8 = re.compile(
    "[\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(p * 65536 + n) for p in range(17) for n in (0xFFFE, 0xFFFF))
    + "]"
)
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def comment(value: object) -> str:
    """Text for a comment of one line, in any language: whatever could end the line is a space."""
    return _CONTROL.sub(" ", str(value)).strip()


def path(value: object) -> str:
    """An absolute path that needs no quoting in any of the files that ogen writes."""
    text = str(value)
    if not _PATH.fullmatch(text) or ".." in text.split("/"):
        raise RenderError(
            f"{text!r} can't be written into a unit",
            hint="use an absolute path of letters, digits and ._+@,=-",
        )
    return text


# ------------------------------------------------------------------------------------- systemd
def unit_text(value: object) -> str:
    """A plain value of a unit file: no specifiers, no continued line. Control characters become spaces."""
    return comment(value).replace("\\", "\\\\").replace("%", "%%")


def environment(value: object) -> str:
    """`NAME=text` as the right side of `Environment=`; systemd.exec(5), systemd.syntax(7).

    Raises RenderError for characters that systemd refuses in a variable: control characters but tab
    and newline, and code points that are no UTF-8.
    """
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) or not encodable(text):
        raise RenderError(f"an environment variable can't hold a control character: {text[:60]!r}")
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + quoted.replace("\n", "\\n").replace("\t", "\\t") + '"'


def encodable(text: str) -> bool:
    """Whether the text has no lone surrogates and no noncharacters, which systemd takes for bad UTF-8."""
    return text.isascii() or _NO_UTF8.search(text) is None


# --------------------------------------------------------------------------------------- nginx
def nginx(value: object) -> str:
    """A quoted nginx parameter. nginx has no way to write a `$`, and no control character is wanted."""
    text = str(value)
    if "$" in text or _CONTROL.search(text) or not encodable(text):
        raise RenderError(
            f"nginx can't hold this text: {text[:60]!r}", hint="leave out $ and control characters"
        )
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def nginx_exactly(value: object) -> str:
    """The key of a `map` that matches this text and no other (plain keys would ignore case)."""
    text = str(value)
    if _CONTROL.search(text) or not encodable(text):
        raise RenderError("a key must not hold control characters")
    pattern = re.sub(
        r"[^A-Za-z0-9_]", lambda m: f"\\x{{{ord(m[0]):x}}}" if ord(m[0]) > 127 else "\\" + m[0], text
    )
    utf8 = "(*UTF8)" if any(ord(c) > 127 for c in text) else ""
    return '"~' + f"{utf8}^{pattern}\\z".replace("\\", "\\\\").replace('"', '\\"') + '"'


def seconds(value: object) -> str:
    """A duration in seconds, as nginx writes times."""
    number = float(str(value))
    return f"{number:.0f}s" if number == int(number) else f"{number * 1000:.0f}ms"


def whole_seconds(value: object) -> str:
    """A duration where nginx knows no milliseconds; rounded up."""
    return f"{math.ceil(float(str(value)))}s"


def server_address(value: object) -> str:
    """An address as in `server ADDRESS:PORT`; IPv6 in brackets."""
    text = str(value)
    try:
        return f"[{text}]" if ipaddress.ip_address(text).version == 6 else text
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text):
            return text
    raise RenderError(f"{text!r} is neither an IP address nor a name")


def js(value: Any) -> str:
    """A JavaScript (and JSON) literal in ASCII; the same value gives the same text."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True, indent=4).replace("</", "<\\/")


def lua(value: str | int) -> str:
    """A Lua string or number. nginx reads the braces of what surrounds it: none may be in a string's text."""
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(c if c.isascii() and c.isalnum() else _lua_bytes(c) for c in value) + '"'


def _lua_bytes(character: str) -> str:
    plain = character.isascii() and character.isprintable() and character not in '\\"{}[]$'
    return character if plain else "".join(f"\\{byte:03d}" for byte in character.encode())


def lua_json(value: Any) -> str:
    """JSON as a Lua string over several lines; the same value gives the same text."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, indent=4)
    return "[==[\n" + text.replace("]=", "]\\u003d") + "]==]"


# ------------------------------------------------------------------------- shell and Modelfile
def shell(value: object) -> str:
    """One word of a POSIX shell."""
    text = str(value)
    if "\0" in text:
        raise RenderError("a shell word can't hold NUL")
    return shlex.quote(text)


def modelfile(value: object) -> str:
    """A value of a Modelfile, quoted where the parser would otherwise change it.

    Source: Ollama's parser/parser.go. There are no escapes: a text within three quotes ends at the
    first line that ends in three quotes, so those (and only those) are written as apostrophes.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    if text.isprintable() and text == text.strip() and text[:1] not in ("", '"'):
        return text
    lines = readable(text).split("\n")
    ends = [_unquoted(line) if _closes(line) else line for line in lines[:-1]]
    return '"""' + "\n".join([*ends, lines[-1]]) + '"""'


def readable(text: str) -> str:
    """The text without control characters, every line end a newline."""
    return _UNREADABLE.sub("", re.sub(r"\r\n?", "\n", text))


def unwritable(text: str) -> bool:
    """Whether a Modelfile can't hold the text as it is."""
    return any(_closes(line) for line in readable(text).split("\n")[:-1])


def _kept(line: str) -> str:
    """What the parser keeps of a line: it drops what Go calls not printable."""
    return "".join(c for c in line if c.isprintable() or c == "\t")


def _closes(line: str) -> bool:
    return '"' in line and _kept(line).rstrip().endswith('"""')


def _unquoted(line: str) -> str:
    return _kept(line).rstrip()[:-3] + "'''"


FILTERS: dict[str, Callable[..., Any]] = {
    "comment": comment,
    "path": path,
    "unit_text": unit_text,
    "environment": environment,
    "nginx": nginx,
    "nginx_exactly": nginx_exactly,
    "seconds": seconds,
    "whole_seconds": whole_seconds,
    "server_address": server_address,
    "js": js,
    "lua": lua,
    "lua_json": lua_json,
    "shell": shell,
    "modelfile": modelfile,
}
