"""What a text must look like: names, paths, addresses. Each check says what it wants in words.

Names end up in unit files, nginx files, paths and registry names, so they are held to what is
plain in all of them. Free text may be anything that is not a control character.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from . import hours, units
from .ranges import RANGE


@dataclass(frozen=True, slots=True)
class Check:
    """A rule for a text; `pattern` also goes into the JSON Schema."""

    wants: str  # "must be …"
    pattern: str | None = None
    test: Callable[[str], bool] | None = None
    hint: str | None = None
    longest: int | None = None

    def passes(self, value: object) -> bool:
        if not isinstance(value, str):
            return True
        if self.longest is not None and len(value) > self.longest:
            return False
        if self.pattern is not None and re.fullmatch(self.pattern, value) is None:
            return False
        return self.test is None or self.test(value)


NAME = r"[a-z0-9][a-z0-9._-]*"
_NO_DOTS = r"(?!(?:[^\n]*/)?\.\.(?:/|$))"
_PATH = rf"{_NO_DOTS}/[A-Za-z0-9._+@/-]*"
_TEXT = r"[^\x00-\x08\x0b-\x1f\x7f-\x9f]*"
_LINE = r"[^\x00-\x1f\x7f-\x9f]*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_REF = rf"(?:https?://)?(?:{_HOST}(?::[0-9]{{1,5}})?/)?(?:{_PART}/)?{_PART}(?::{_TAG})?"
_SPACES = "a space, quote or control character breaks units and nginx files"


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_address(text: str) -> bool:
    """An IP address, or a DNS name whose last label is no number (then it is a mistyped IP)."""
    if is_ip(text):
        return True
    labels = text.split(".")
    return (
        re.fullmatch(_HOST, text) is not None
        and not labels[-1].isdigit()
        and all(0 < len(x) < 64 and x[0] != "-" != x[-1] for x in labels)
    )


def _ranged(test: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: test(RANGE.sub(lambda found: found[1].lstrip("0") or "0", text))


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return "%" not in text


def is_file(ref: str) -> bool:
    """Whether a model's source is a file on the control machine."""
    return ref.startswith(("./", "../", "/", "~")) or ref.lower().endswith(".gguf")


_V6 = r"[0-9A-Fa-f]*(?::[0-9A-Fa-f.]*){2,}"
_HOP = (
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.@-]*@)?"
    rf"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[0-9]{{1,5}})?|\[{_V6}\](?::[0-9]{{1,5}})?|{_V6})"
)
_NAME_WORDS = "made of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"

CHECKS: dict[str, Check] = {
    "name": Check(f"{_NAME_WORDS}, at most 63 long", NAME, longest=63),
    "short_name": Check(f"{_NAME_WORDS}, at most 40 long", NAME, longest=40),
    "host_key_name": Check(
        f"a host name or a range of them like 'gpu[01:04]': {_NAME_WORDS}",
        r"(?:[a-z0-9]|\[[0-9]+:[0-9]+\])(?:[a-z0-9._-]|\[[0-9]+:[0-9]+\])*",
    ),
    "alias": Check(
        "a name or name:tag as clients write it, of letters, digits, '.', '_' and '-'",
        rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,79}}(?::{_TAG})?",
    ),
    "quant": Check("a quantisation such as Q4_K_M", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}"),
    "text": Check("text without control characters (newlines and tabs are fine)", _TEXT),
    "line": Check("one line of text without control characters", _LINE),
    "card_name": Check("a card's name such as RTX 3090", r"[A-Za-z0-9][A-Za-z0-9 ._()/+-]{0,63}"),
    "path": Check("an absolute path of letters, digits and . _ + @ -", _PATH, hint=_SPACES),
    "root": Check(
        "a path of letters, digits and . _ + @ -, without '..'",
        rf"{_NO_DOTS}[A-Za-z0-9._+@/][A-Za-z0-9._+@/-]*",
        hint=_SPACES,
    ),
    "key_path": Check("a path in one line", rf"(?!-){_LINE}"),
    "inside": Check(
        "a path inside the project's folder",
        rf"{_NO_DOTS}(?!/|~)[^\x00-\x1f\x7f-\x9f\\]+",
        hint="ogen reads nothing outside of the folder of the inventory",
    ),
    "address": Check(
        "an IP address or a host name",
        r"[A-Za-z0-9\[:][A-Za-z0-9.:\[\]-]*",
        _ranged(is_address),
        "the ports are settings of their own",
    ),
    "ip": Check(
        "an IP address",
        r"[0-9A-Fa-f.:\[\]]+",
        _ranged(is_ip),
        "balancers need an IP: nginx looks up names only once",
    ),
    "network": Check("an IP address or network such as 10.0.0.0/8", r"[0-9A-Fa-f.:/]+", _is_network),
    "account": Check("a user name", r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}"),
    "unix_name": Check("a user or group name", r"[a-z_][a-z0-9_-]{0,31}"),
    "version": Check(
        "a version such as 0.32.15",
        r"[0-9]+\.[0-9]+(?:\.[0-9]+)?(?:-rc[0-9]+)?",
        None,
        "`ollama --version` tells it; without a leading v",
    ),
    "uuid": Check("a card's UUID as `nvidia-smi -L` shows it", r"(?:GPU|MIG)-[A-Za-z0-9][A-Za-z0-9/-]{3,79}"),
    "host_key": Check(
        "a public host key: 'ssh-ed25519 AAAA…'",
        r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp[0-9]+) [A-Za-z0-9+/]+={0,2}",
    ),
    "jump": Check(
        "host, user@host or user@host:port, separated by commas; an IPv6 address in brackets",
        rf"{_HOP}(?:,{_HOP})*",
    ),
    "program": Check("a program's name or path", r"[A-Za-z0-9/][A-Za-z0-9._/+-]*"),
    "env_name": Check(
        "a variable's name: A-Z, 0-9 and '_', not starting with a digit", r"[A-Z_][A-Z0-9_]*", longest=100
    ),
    "hash_key": Check("api_key or header:NAME", r"api_key|header:[A-Za-z][A-Za-z0-9-]{0,63}"),
    "rate": Check("a number of requests per second or minute such as 10/s or 30/m", r"[1-9][0-9]{0,5}/[sm]"),
    "key_name": Check(
        "the name of a key, of letters, digits and . _ @ -", r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}"
    ),
    "option": Check("the name of an option such as temperature", r"[a-z][a-z0-9_]{0,63}"),
    "pattern": Check(
        "a pattern of hosts: names, globs, groups, '!' before what is left out",
        r"[a-z0-9@!*?\[][a-z0-9@!*?,.:\[\] _-]*",
    ),
    "batch": Check("a number of hosts, or a part of them such as 25%", rf"(?!0%){units.PERCENT}"),
    "share": Check("a number of hosts, or a part of them such as 10%", units.PERCENT),
    "fill": Check("a number, or 'fill' for every card that is left over", r"fill"),
    "plan": Check("a number of tokens, or 'plan'", r"plan"),
    "keep_alive": Check("a time such as 30m, 0, or -1 for ever", rf"-1|0|{units.DURATION}"),
    "hours": Check("hours such as 08:00-18:00 or mon-fri 08:00-18:00", hours.SPAN, hours.is_span, longest=20),
    "time": Check("a time with a unit such as 5m", units.DURATION),
    "card_index": Check("a card's number: 0, 1, …", r"[0-9]|[1-9][0-9]"),
    "registry": Check("a registry's host, or host:port", rf"{_HOST}(?::[0-9]{{1,5}})?"),
    "archive_url": Check(
        "an address such as https://example.org/ollama-{version}.tar.zst",
        r"https?://[A-Za-z0-9._~:/?#@!$&()*+,;=%{}\[\]-]+",
    ),
    "sha256": Check("the 64 hexadecimal digits that `sha256sum` prints", r"[0-9a-f]{64}"),
    "digest_of": Check("a version such as 0.32.15", r"\*|[0-9]+\.[0-9]+(?:\.[0-9]+)?(?:-rc[0-9]+)?"),
    "digest": Check("a digest such as sha256:…", r"sha256:[0-9a-f]{64}"),
    "place": Check("host/instance", rf"{NAME}/(?:cpu|gpu[0-9-]+)"),
    "ref": Check(
        "a library tag, hf.co/…, or a GGUF file ./x.gguf",
        rf"(?:{_REF})|(?:\.{{0,2}}|~)/[^\x00-\x1f\x7f-\x9f]+|[^\x00-\x1f\x7f-\x9f]+\.[gG][gG][uU][fF]",
        hint="for example llama3.1:8b-instruct-q4_K_M",
    ),
}
