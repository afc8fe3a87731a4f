"""Answers in HTTP as they come in, however they are cut into pieces."""

from __future__ import annotations

import json

import pytest

from ogen.observe.bench_answers import Answer, Asked, Broken, request

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LINES = (
    b'{"response":"","done":false}\n',
    b'{"response":"Hi","done":false}\n{"thin',
    b'king":"hm","done":false}\n',
    b'{"done":true,"eval_count":2,"eval_duration":50000000,"prompt_eval_count":9}\n',
)


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x;x=1\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n" + trailer + b"\r\n"


def fed(data: bytes, size: int | None = None) -> Answer:
    answer = Answer()
    size = size or len(data)
    for number in range(0, len(data), size):
        answer.feed(data[number : number + size], float(number + size))
    return answer


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, None])
def test_chunks_in_any_pieces(size: int | None) -> None:
    found = fed(HEAD + chunked(*LINES, trailer=b"X-T: 1\r\n"), size)
    assert (found.done, found.error, found.keep) == (True, "", True)
    assert (found.tokens, found.pieces, found.prompt_tokens, found.generated) == (2, 2, 9, 0.05)
    assert found.first is not None


def test_the_first_token_is_the_first_text_and_the_last_byte_is_the_end() -> None:
    answer, parts = Answer(), [chunked(line)[:-5] for line in LINES]
    for now, data in enumerate([HEAD, *parts, b"0\r\n\r\n"]):
        answer.feed(data, float(now))
    assert (answer.first, answer.last, answer.done) == (2.0, 5.0, True)


@pytest.mark.parametrize("size", [1, 5, None])
def test_a_length_and_a_refusal(size: int | None) -> None:
    body = b'{"error":{"message":"no \\u001b[31mkey","code":null}}'
    found = fed(
        b"HTTP/1.1 401 Unauthorized\r\nconnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
        size,
    )
    assert (found.done, found.keep) == (True, False)
    assert found.error == "HTTP 401: no key"
    assert fed(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").error == "HTTP 503"
    assert fed(b"HTTP/1.1 502 Bad\r\nContent-Length: 5\r\n\r\n<p>\r\n").error == "HTTP 502: <p>"


def test_an_answer_that_ends_with_the_connection() -> None:
    found = fed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + LINES[3][:-1])
    assert not found.done
    found.eof(9.0)
    assert (found.done, found.error, found.keep, found.tokens) == (True, "", False, 2)


def test_events_of_the_openai_api() -> None:
    events = (
        b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n: ping\n\n'
        b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    )
    assert fed(HEAD + chunked(events + b"data: [DONE]\n\n")).counted() == 2, "without usage: what came"
    usage = b'data: {"choices":[],"usage":{"completion_tokens":5,"prompt_tokens":3}}\n\ndata: [DONE]\n\n'
    found = fed(HEAD + chunked(events + usage))
    assert (found.counted(), found.prompt_tokens, found.error) == (5, 3, "")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (HEAD + chunked(LINES[0]), "the answer broke off"),
        (HEAD + chunked(*LINES[:3], b'{"response":"\\"done\\":false","done":true}\n'), ""),
        (HEAD + chunked(b'{"response":"x"}\n{"error":"llama runner died"}\n'), "llama runner died"),
        (HEAD + chunked(b'{"eval_count":-1,"done":true,"eval_duration":"x"}\n'), ""),
    ],
)
def test_what_an_answer_says_of_itself(data: bytes, error: str) -> None:
    assert fed(data).error == error


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        HEAD + b"zz\r\n",
        HEAD + chunked(b"{no json\n"),
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
        HEAD + b"1" * 2000,
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(Broken):
        fed(data)


def test_a_closed_connection_in_the_middle() -> None:
    with pytest.raises(Broken):
        fed(HEAD + b"ff\r\n{").eof(1.0)


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_requests(api: str) -> None:
    asked = Asked("chat", "why?", 12, api)
    one, other = json.loads(asked.body(1)), json.loads(asked.body(2))
    assert one != other
    sent = request(asked.path, "x:80", asked.body(1), {"Authorization": "Bearer k"})
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.startswith(f"POST {asked.path} HTTP/1.1\r\nHost: x:80\r\n".encode())
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Authorization: Bearer k" in head
