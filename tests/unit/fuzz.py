"""Requests that no client sends by accident; the same seed gives the same requests."""

# ruff: noqa: E501  # lists of odd strings read best in rows
from __future__ import annotations

import json
import random
from dataclasses import dataclass

from tiers import KEYS

ADMIN = ("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/sha256:" + "0" * 64)
CLOSED = (*ADMIN, "/debug/pprof/", "/api/me", "/api/signout", "/api/experimental/web_search")
INSIDE = (
    "/_ogen/pool_chat/api/tags",
    "/_ogen/error/400",
    "/_ogen/",
    "/release",
    "/down",
    "/@pool",
    "/@error403",
)
ROUTED = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show", "/v1/chat/completions",
          "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")  # fmt: skip
GATHERED = ("/api/tags", "/api/ps", "/api/version", "/v1/models")
OPEN = (*ROUTED, *GATHERED, "/", "/v1/models/chat")
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "PRI",
           "get", "POST ", "G\0T", "GETT" * 50, "_", "")  # fmt: skip
VERSIONS = (
    ("HTTP/1.1",) * 12
    + ("HTTP/1.0",) * 3
    + ("HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "http/1.1", "HTTP/1.1 x", "HTTP/")
)
HOSTS = ("localhost", "a", "a:80", "127.0.0.1:11434", "[::1]", "evil.example", "_", "a/b", "a\0b", "a..b", "", "a b", "é",
         "x" * 300, "*", "unix:/run/x")  # fmt: skip
EXTRA = ("X-Accel-Redirect: /api/pull", "X-Accel-Redirect: /_ogen/pool_chat/api/tags", "X-Accel-Buffering: yes",
         "X-Accel-Limit-Rate: 1", "X-Ogen-Client: 10.0.0.1", "X-Ogen-Key: root", "X-Ogen-Missing: x",
         "X-Original-URL: /api/pull", "X-Rewrite-URL: /api/pull", "X-HTTP-Method-Override: DELETE",
         "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "X-Request-Id: mine", "Forwarded: for=unix",
         "Upgrade: websocket\r\nConnection: Upgrade", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings",
         "Connection: Authorization", "Connection: close, X-Api-Key", "TE: trailers", "Expect: 100-continue", "Expect: x",
         "Range: bytes=100-200", "Range: bytes=9999999999-", 'If-Match: "x"', 'If-None-Match: *',
         "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT", "If-Modified-Since: Sat, 01 Jan 2050 00:00:00 GMT",
         "Content-Encoding: gzip", "Content-Type: application/x-www-form-urlencoded", "Content-Type: text/html; charset=utf-7",
         "Cookie: a=b", "Accept: text/html", "Accept-Encoding: gzip", "X: a\r\n b", "X : y", "nocolon", ": empty", "X: \x00",
         "X: \x7f\xff", "X_under_score: 1", "Authorization: Basic YTpi", "X-Big: " + "a" * 9000)  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """One request as bytes. `framed`: its end is clear, so that its connection can go on."""

    data: bytes
    method: str
    path: str  # without any trick; "" where there is one
    keyed: bool
    framed: bool


def tricky(path: str, dice: random.Random) -> str:
    """The path in a form that a careless comparison would let through, or that breaks a careless parser."""
    letter = dice.randrange(1, len(path)) if len(path) > 1 else 0
    forms = (
        lambda: path.replace("/", "//"),
        lambda: path.replace("/", "/./"),
        lambda: "/x/.." + path,
        lambda: "/api/chat/../.." + path,
        lambda: path + "/",
        lambda: path + "?x=1&path=/api/pull",
        lambda: path + "#/api/tags",
        lambda: (
            path
            + dice.choice(
                ("%00", "%0a", "%0d%0aX:%20y", "%20", ";", "\\", "..", "%2f", "%", "%zz", "\t", "\0")
            )
        ),
        lambda: path[:letter] + f"%{ord(path[letter]):02x}" + path[letter + 1 :],
        lambda: path[:letter] + f"%25{ord(path[letter]):02x}" + path[letter + 1 :],
        lambda: path[:letter] + path[letter].upper() + path[letter + 1 :],
        lambda: path.upper(),
        lambda: path.replace("/", "%2f"),
        lambda: path.replace("/", "\\"),
        lambda: path.replace("/", "/%2e%2e/", 1),
        lambda: "/v1/models/" + path,
        lambda: "/v1/models/..%2f.." + path,
        lambda: f"http://evil.example{path}",
        lambda: f"HTTP://127.0.0.1:11434{path}",
        lambda: f"http://{path}",
        lambda: path[1:],
        lambda: "*",
        lambda: "/../.." + path,
        lambda: path + "/" + "a" * dice.choice((100, 8300, 33_000)),
        lambda: "/\xc0\xaf" + path,
        lambda: path + " " + path,
        lambda: "".join(chr(dice.randrange(256)) for _ in range(dice.randrange(1, 40))),
    )
    return dice.choice(forms)()


def bodies(dice: random.Random) -> bytes:
    """A body: JSON, nearly JSON, or noise."""
    model = dice.choice(
        ("chat", "chat:latest", "coder", "none", "", "../x", "__proto__", "a\0b", "x" * 5000, "\ud800")
    )
    depth = dice.choice((10, 100, 2000, 100_000))
    good = json.dumps({"model": model, "messages": [], "options": {"seed": dice.randrange(9)}}).encode()
    forms = (
        good, good, good, good, b"", b" ", b"{", b"[]", b"null", b"0", b'"chat"', b"\0" * 9, b"[" * depth,
        b'{"model":"chat","a":' + b"[" * depth + b"]" * depth + b"}",
        b'{"model":"chat",' + b'"a":{' * depth, b'{"model":"none","model":"chat"}', b'{"model":"chat","model":7}',
        b'{"model":"\xff\xfe"}', b'\xef\xbb\xbf' + good, good.decode().encode("utf-16"), good + b"}", good + good,
        b'{"model":"chat","n":1e999,"m":-0,"k":' + b"9" * 400 + b"}", b'{"model":"\\u0000"}', b'{"model":"\\ud800"}',
        b'{"model":NaN}', b"model=chat", b'{"__proto__":{"model":"chat"}}', b'{"model":["chat"]}', b'{"model":{"a":1}}',
        b'{"model":"chat","options":' + dice.choice((b"[]", b"7", b"null", b'"x"', b'{"num_ctx":1e9}')) + b"}",
        dice.randbytes(dice.randrange(1, 300)), b'{"model":"chat","prompt":"' + b"x" * 70_000 + b'"}',
    )  # fmt: skip
    return dice.choice(forms)


def framed(body: bytes, dice: random.Random) -> tuple[list[str], bytes, bool]:
    """Headers that say where the body ends, its bytes, and whether that is so."""
    size, chunks = len(body), b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    smuggled = b"0\r\n\r\nGET /api/delete HTTP/1.1\r\nHost: a\r\nX-Smuggled: 1\r\n\r\n"
    if dice.random() < 0.6:
        return [f"Content-Length: {size}"], body, True
    if dice.random() < 0.4:
        return ["Transfer-Encoding: chunked"], chunks, True
    forms = (
        ([f"Content-Length: {size + 50}"], body),
        ([f"Content-Length: {max(0, size - 5)}"], body),
        ([f"Content-Length: {size}", f"Content-Length: {size}"], body),
        ([f"Content-Length: {size}", "Content-Length: 3"], body),
        ([f"Content-Length: {dice.choice(('-1', '+5', '5, 5', '0x10', '1e3', '', '9' * 30, '٣'))}"], body),
        (["Transfer-Encoding: chunked", f"Content-Length: {size}"], chunks),
        (["Content-Length: 4", "Transfer-Encoding: chunked"], smuggled),
        ([dice.choice(("Transfer-Encoding: xchunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding : chunked",
                       "Transfer-Encoding:\tchunked", "Transfer-Encoding: identity", "Transfer-Encoding: Chunked",
                       "X: y\r\n Transfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
                       "Transfer\0-Encoding: chunked")), "Content-Length: 5"], smuggled),
        (["Transfer-Encoding: chunked"], dice.choice((b"f" * 17 + b"\r\n", b"7fffffff\r\nabc", b"-1\r\n", b"zz\r\n",
                                                      b"5;x=" + b"y" * 9000 + b"\r\nhello\r\n0\r\n\r\n",
                                                      b"5\nhello\n0\n\n", b"5\r\nhelloXX0\r\n\r\n", b"0\r\nX: y\r\n\r\n"))),
        ([], body),
    )  # fmt: skip
    headers, data = dice.choice(forms)
    return headers, data, False


def shot(number: int, dice: random.Random) -> Shot:
    """Most are wrong in one way or two, so that they come further than noise would."""
    path = dice.choice(dice.choice((CLOSED, INSIDE, OPEN, OPEN)))
    target = tricky(path, dice) if dice.random() < 0.4 else path
    method = dice.choice(METHODS) if dice.random() < 0.3 else ("GET" if path in GATHERED else "POST")
    version = dice.choice(VERSIONS) if dice.random() < 0.2 else "HTTP/1.1"
    host = dice.choice(HOSTS) if dice.random() < 0.2 else "balancer"
    key = dice.choice(("", "wrong", KEYS["alice"].upper(), KEYS["alice"] + "\0"))
    keyed = dice.random() < 0.8
    named = dice.choice(
        ("Authorization: Bearer {}", "x-api-key: {}", "X-API-KEY:{}", "authorization: bearer  {} ")
    )
    headers = [f"Host: {host}", f"X-Fuzz: {number}", named.format(KEYS["alice"] if keyed else key)]
    headers += dice.sample(EXTRA, dice.choice((0, 0, 0, 1, 2, 5)))
    if dice.random() < 0.01:
        headers += [f"X-{place}: {'a' * 900}" for place in range(60)]
    framing, body, clear = framed(bodies(dice), dice) if method != "GET" else ([], b"", True)
    dice.shuffle(headers)
    end = dice.choice(("\n", "\r\n\r\n", "\r")) if dice.random() < 0.02 else "\r\n"
    head = end.join([f"{method} {target} {version}", *headers, *framing]) + end * 2
    plain = target == path and method in METHODS[:8] and version in VERSIONS[:15]
    return Shot(
        head.encode("latin-1", "replace") + body,
        method,
        path if plain else "",
        keyed,
        clear and end == "\r\n",
    )
