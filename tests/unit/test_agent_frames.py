"""Frames: whole and intact, or not at all."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.agent import frames

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=8
)
MESSAGES = st.dictionaries(st.text(), JSON, max_size=5)


@given(st.lists(st.tuples(MESSAGES, st.binary(max_size=200)), max_size=4))
def test_frames_come_out_as_they_went_in(sent: list[frames.Frame]) -> None:
    stream = io.BytesIO(b"".join(frames.pack(*one) for one in sent))
    got = []
    while (frame := frames.read(stream.read)) is not None:
        got.append(frame)
    assert got == sent


@given(MESSAGES, st.binary(max_size=50), st.data())
def test_a_cut_frame_is_never_taken(message: frames.Message, data: bytes, choice: st.DataObject) -> None:
    whole = frames.pack(message, data)
    cut = choice.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(frames.FrameError):
        frames.read(io.BytesIO(whole[:cut]).read)


@given(MESSAGES, st.binary(max_size=50), st.data())
def test_a_changed_bit_is_noticed(message: frames.Message, data: bytes, choice: st.DataObject) -> None:
    damaged = bytearray(frames.pack(message, data))
    bit = choice.draw(st.integers(0, len(damaged) * 8 - 1))
    damaged[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(frames.FrameError):
        frames.read(io.BytesIO(bytes(damaged)).read)


def test_a_login_text_is_no_frame() -> None:
    with pytest.raises(frames.FrameError, match="not a frame"):
        frames.read(io.BytesIO(b"Welcome to gpu1, last login today at noon from nowhere\n" * 3).read)


def test_a_json_that_is_no_object_is_refused() -> None:
    import hashlib

    text = b"[1]"
    head = frames.HEAD.pack(frames.MAGIC, len(text), 0, hashlib.sha256(text).digest())
    with pytest.raises(frames.FrameError, match="not an object"):
        frames.read(io.BytesIO(head + text).read)
