"""The protocol's frames: a head with lengths and sha256, a JSON object, and bytes that belong to it.

    magic "OGN1" | length of the JSON (4) | length of the bytes (8) | sha256 of both (32) | JSON | bytes

Both ends use this module. A frame is taken only whole and with the right hash.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any, Callable, Dict, Optional, Tuple

MAGIC = b"OGN1"
HEAD = struct.Struct(">4sIQ32s")
MAX_JSON = 64 * 1024 * 1024
MAX_BYTES = 1024 * 1024 * 1024

Message = Dict[str, Any]
Frame = Tuple[Message, bytes]


class FrameError(Exception):
    """The stream does not hold a whole and intact frame here."""


def pack(message: Message, data: bytes = b"") -> bytes:
    text = json.dumps(message, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    digest = hashlib.sha256(text + data).digest()
    return HEAD.pack(MAGIC, len(text), len(data), digest) + text + data


def read(take: Callable[[int], bytes]) -> Optional[Frame]:
    """The next frame; `take(n)` gives n bytes, or fewer at the end. None at a clean end."""
    head = take(HEAD.size)
    if not head:
        return None
    if len(head) < HEAD.size:
        raise FrameError("the stream ended inside of a frame's head")
    magic, text_size, data_size, digest = HEAD.unpack(head)
    if magic != MAGIC:
        raise FrameError("not a frame: %r" % head[:16])
    if text_size > MAX_JSON or data_size > MAX_BYTES:
        raise FrameError("a frame of %d + %d bytes is too long" % (text_size, data_size))
    body = take(text_size + data_size)
    if len(body) < text_size + data_size:
        raise FrameError("the stream ended inside of a frame")
    if hashlib.sha256(body).digest() != digest:
        raise FrameError("a frame's sha256 is wrong")
    return _parse(body[:text_size]), body[text_size:]


def _parse(text: bytes) -> Message:
    try:
        message = json.loads(text.decode())
    except ValueError as error:
        raise FrameError("a frame's JSON is wrong: %s" % error) from None
    if not isinstance(message, dict):
        raise FrameError("a frame's JSON is not an object")
    return message
