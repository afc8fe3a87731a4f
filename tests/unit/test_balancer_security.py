"""What must not get through the rendered nginx, and how it says so: JSON errors, living workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fuzz import ADMIN, CLOSED, GATHERED, INSIDE, ROUTED, Shot, shot
from rendering import free_port, pool, run, running
from tiers import KEYS, TIERS, member, nginx, release_of, tier_of, workers
from wire import Broken, Message, Recorder, connections, exchange, read_message, request

from ogen.inventory.model import Secret, Tls
from ogen.release.model import Release

__all__ = ["nginx"]  # a fixture

SHOTS, AT_ONCE, SEED = 10_000, 50, 5
MEBI = 1 << 20
ALICE = {"x_api_key": KEYS["alice"]}


# ------------------------------------------------------------------------------------- the rules
def shape(value: Any) -> str:
    """Which API's error this is."""
    match value:
        case {"type": "error", "error": {"type": str(), "message": str()}}:
            return "anthropic"
        case {"error": {"message": str(), "type": str(), "param": _, "code": _}}:
            return "openai"
        case {"error": str()} if len(value) == 1:
            return "ollama"
    return "none"


def expected_shape(path: str) -> str:
    return "anthropic" if path == "/v1/messages" else "openai" if path.startswith("/v1/") else "ollama"


def wrong_with(answer: Message, method: str = "GET", path: str = "") -> str:
    """Why this is no proper answer; empty if it is one. `path`: where it is known what was asked."""
    if answer.status < 400:
        return ""
    kind = answer.header("content-type")
    if not kind.startswith("application/json"):
        return f"{answer.status} as {kind}"
    if method == "HEAD":
        return ""
    try:
        found = shape(answer.json())
    except ValueError:
        return f"{answer.status} is no JSON: {answer.body[:80]!r}"
    if found == "none" or (path and found != expected_shape(path)):
        return f"{answer.status} at {path} in the shape {found}: {answer.body[:80]!r}"
    return "the balancer failed" if answer.status == 500 else ""


def wrong_behind(recorder: Recorder, keyless: Collection[str] = ()) -> list[str]:
    """What reached the instance and should not have."""
    allowed = {*ROUTED, *GATHERED, "/"}
    found = [f"broken: {text}" for text in recorder.broken]
    for seen in recorder.seen:
        path, names = seen.path.split("?")[0], [name for name, _ in seen.headers]
        if path not in allowed and not path.startswith("/v1/models/"):
            found.append(f"{seen.first} reached the instance")
        if path.startswith("/v1/models/") and (".." in path.split("/") or path.count("/") != 3):
            found.append(f"{seen.first} reached the instance")
        if seen.header("host") != "localhost:11434":
            found.append(f"Host {seen.header('host')!r} reached the instance")
        lengths = names.count("content-length")
        if lengths > 1 or {"authorization", "x-api-key", "transfer-encoding", "upgrade", "x-smuggled"} & set(
            names
        ):
            found.append(f"{seen.headers} reached the instance")
        if seen.header("x-fuzz") in keyless:
            found.append(f"{seen.first} without a key reached the instance")
    return found


def wrong_in_log(text: str) -> list[str]:
    """Lines that say that nginx itself is in trouble, not a client."""
    # the tests' own limit on files; a 412 that took the place of njs' answer
    harmless = ("setrlimit", "failed to send response")
    lines = [line for line in text.splitlines() if not any(mark in line for mark in harmless)]
    marks = ("[alert]", "[crit]", "[emerg]", "exited on signal", "worker process exited", "js exception")
    marks += (
        "lua entry thread aborted",
        "lua coroutine",
        "empty URI in redirect",
        "rewrite or internal redirection cycle",
    )
    return [line for line in lines if any(mark in line for mark in marks)]


@dataclass
class Edge:
    """A balancer under test, its one instance, and its nginx's workers at the start."""

    tier: str
    port: int
    folder: Path
    recorder: Recorder
    before: set[int] = field(default_factory=set)

    def check(self, keyless: Collection[str] = ()) -> None:
        assert wrong_behind(self.recorder, keyless)[:5] == []
        assert workers(self.folder) == self.before, "a worker died"
        assert wrong_in_log((self.folder / "stderr").read_text(errors="replace"))[:5] == []

    def ask(self, data: bytes, path: str = "", idle: float = 5) -> Message:
        """The one answer to a request that is known to get one."""
        (answer,), rest = exchange(self.port, data, idle=idle, most=1)
        assert rest == b""
        assert wrong_with(answer, data.split(b" ")[0].decode("latin-1"), path) == ""
        return answer


@contextlib.contextmanager
def edge_of(
    tier: str, folder: Path, nginx: str, change: Callable[[str], str] = str, **values: Any
) -> Iterator[Edge]:
    """`change` alters the rendered nginx.conf."""
    values = {"keys": Secret("env", "KEYS"), **values}
    with Recorder() as recorder:
        port = free_port()
        pools = [pool("chat", [member(recorder.port)]), pool("coder", [member(recorder.port)])]
        release = altered(release_of(tier_of(tier, port, **values), pools), change)
        with running(release, folder, nginx, [port]) as place:
            yield Edge(tier, port, place, recorder, workers(place))


def altered(release: Release, change: Callable[[str], str]) -> Release:
    files = [
        replace(file, content=change(file.content.decode()).encode())
        if file.path.endswith("nginx.conf")
        else file
        for file in release.files
    ]
    return replace(release, files=tuple(files))


@pytest.fixture(params=TIERS)
def edge(request: pytest.FixtureRequest, tmp_path: Path, nginx: str) -> Iterator[Edge]:
    with edge_of(request.param, tmp_path, nginx, max_body=32 * MEBI) as found:
        yield found
        found.check()


# ----------------------------------------------------------------------------------- closed paths
FORMS: tuple[Callable[[str], str], ...] = (
    str,
    lambda path: path.replace("/", "//"),
    lambda path: path.replace("/", "/./"),
    lambda path: "/x/.." + path,
    lambda path: "/api/chat/../.." + path,
    lambda path: path + "/",
    lambda path: path + "?x",
    lambda path: path + "%00",
    lambda path: path + "%20",
    lambda path: path + ";a",
    lambda path: path.upper(),
    lambda path: path.replace("p", "%70").replace("c", "%63").replace("d", "%64").replace("b", "%62"),
    lambda path: path.replace("/", "%2f"),
    lambda path: path.replace("/", "\\"),
    lambda path: "http://127.0.0.1:11434" + path,
    lambda path: "/v1/models/x" + path,
    lambda path: "/v1/models/.." + path,
)


def test_no_path_trick_reaches_what_is_closed(edge: Edge) -> None:
    """Every closed path, with and without a key, in every form, by every method; nothing but JSON errors."""
    found: Counter[int] = Counter()
    for path in (*CLOSED, *INSIDE):
        for form in FORMS:
            for method in ("GET", "POST", "DELETE", "HEAD"):
                for headers in (ALICE, {}, {"Authorization": "Bearer wrong"}):
                    body = b'{"model":"chat"}' if method != "GET" else None
                    answer = edge.ask(request(form(path), body, method=method, **headers))
                    # what is internal to nginx does not get as far as being asked for a key
                    hidden = {404} if path.startswith("/_ogen/error/") else set()
                    wanted = {400, 403, 404} if headers is ALICE else {400, 401} | hidden
                    assert answer.status in wanted, form(path)
                    found[answer.status] += 1
    assert found[401] > 2 * found[403] > 100, found
    assert edge.recorder.seen == []


@pytest.mark.parametrize("tier", TIERS)
def test_admin_keys_open_what_is_closed_to_others(tier: str, tmp_path: Path, nginx: str) -> None:
    """Only where the balancer knows one instance's pool (the plain tier), and never by a trick."""
    with edge_of(tier, tmp_path, nginx, admins=("root",)) as edge:
        for path in ADMIN:
            assert edge.ask(request(path, b"{}", **ALICE)).status == 403
            assert edge.ask(request(path, b"{}")).status == 401
        assert edge.recorder.seen == []
        statuses = {edge.ask(request(path, b"{}", x_api_key=KEYS["root"])).status for path in ADMIN}
        reached = {seen.path for seen in edge.recorder.seen}
        if tier == "plain":
            assert (statuses, reached) == ({200}, set(ADMIN))
            assert not any("api-key" in name for seen in edge.recorder.seen for name, _ in seen.headers)
        for path in ("/debug/pprof/", "/api/blobs/../../x", "/api/pull/x", "/api/blobs/sha256:00"):
            assert edge.ask(request(path, b"{}", x_api_key=KEYS["root"])).status in (400, 403, 404)
        assert {seen.path for seen in edge.recorder.seen} == reached
        assert workers(edge.folder) == edge.before


# ------------------------------------------------------------------------------- too much, too slow
def test_oversized_bodies_and_headers(edge: Edge) -> None:
    large = 33 * MEBI
    head = f"POST {{}} HTTP/1.1\r\nHost: a\r\nx-api-key: {KEYS['alice']}\r\n{{}}\r\n\r\n"
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        for framing in (f"Content-Length: {large}", f"Content-Length: {large}\r\nExpect: 100-continue"):
            assert edge.ask(head.format(path, framing).encode(), path).status == 413
        chunk = head.format(path, "Transfer-Encoding: chunked").encode() + b"%x\r\nx" % large
        assert edge.ask(chunk, path).status == 413
    answered = 0  # nginx closes without having read all, so that an answer may be lost on its way
    many = {f"X_{place}": "a" * 1000 for place in range(60)}
    for path in ("/api/chat", "/v1/messages") * 3:
        for data in (
            request(path, b"{}", **ALICE, X_Big="a" * 9_000),
            request(path, b"{}", **ALICE, **many),
            request(f"{path}?{'a' * 40_000}", b"{}", **ALICE),
        ):
            answers, rest = exchange(edge.port, data, most=1)
            assert [wrong_with(answer) or answer.status for answer in answers] in ([], [400], [414])
            assert rest == b""
            answered += len(answers)
    assert answered
    assert edge.recorder.seen == []
    whole = b'{"model":"chat","prompt":"' + b"x" * (20 * MEBI) + b'"}'
    assert edge.ask(request("/api/generate", whole, **ALICE), idle=30).status == 200
    assert json.loads(edge.recorder.seen[0].body)["prompt"] == "x" * (20 * MEBI)


def test_deep_and_odd_json(edge: Edge) -> None:
    """Nesting ends in an error, not in a worker's stack; what is no JSON object reaches no instance."""
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        for depth in (2_000, 1_000_000):
            for end in (b"", b"1" + closing * depth):
                body = b'{"model":"chat","a":' + opening * depth + end + b"}"
                answer = edge.ask(request("/v1/messages", body, **ALICE), "/v1/messages", idle=30)
                assert answer.status in ((200,) if edge.tier == "plain" else (400,))
    odd = (
        b"\0",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"\xff\xfe{\0}\0",
        b'\xef\xbb\xbf{"model":"chat"}',
        b'{"model":"chat"',
    )
    odd += (b'{"model":"chat"}}', b'{"model":"chat"}{"model":"coder"}', b"model=chat", b"{'model':'chat'}")
    before = len(edge.recorder.seen)
    for body in odd if edge.tier != "plain" else ():
        assert edge.ask(request("/api/chat", body, **ALICE)).status == 400, body
    assert len(edge.recorder.seen) == before


def faster(config: str) -> str:
    """The same waits, to be waited for in a test."""
    for name, seconds in (
        ("client_header_timeout", "30s"),
        ("client_body_timeout", "60s"),
        ("keepalive_timeout", "75s"),
    ):
        assert f"{name} {seconds};" in config
        config = config.replace(f"{name} {seconds};", f"{name} 1s;")
    return config


@pytest.mark.parametrize("tier", TIERS)
def test_slow_clients_hold_nobody_up_and_are_sent_away(tier: str, tmp_path: Path, nginx: str) -> None:
    head = f"POST /v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: {KEYS['alice']}\r\n"
    parts = (
        "",
        "P",
        head,
        head + "X: ",
        head + "Content-Length: 9\r\n\r\n{",
        head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    )
    with edge_of(tier, tmp_path, nginx, faster) as edge, connections(edge.port, 300) as links:
        for place, link in enumerate(links):
            link.sendall(parts[place % len(parts)].encode())
        assert edge.ask(request("/api/chat", b'{"model":"chat"}', **ALICE)).status == 200
        for link in links:
            link.settimeout(20)  # as a bound: each is closed after a second
            got = b"".join(iter(lambda link=link: link.recv(65536), b""))  # type: ignore[misc]
            assert got == b"" or b"application/json" in got, got
        edge.check()


def test_half_a_request_is_no_request(edge: Edge) -> None:
    """A client that leaves in the middle of its body has asked for nothing."""
    whole = request("/api/chat", b'{"model":"chat","prompt":"x"}', **ALICE)
    for cut in range(len(whole) - 40, len(whole)):
        with connections(edge.port, 1) as (link,):
            link.sendall(whole[:cut])
    assert edge.ask(request("/api/chat", b'{"model":"coder"}', **ALICE)).status == 200
    assert [json.loads(seen.body)["model"].partition(":")[0] for seen in edge.recorder.seen] == ["coder"]


def test_conditions_of_a_client_end_no_worker(edge: Edge) -> None:
    """An answer of 412 instead of a router's own once took the Lua router's worker with it."""
    for name, value in (("If_Match", '"x"'), ("If_Unmodified_Since", "Sat, 01 Jan 2000 00:00:00 GMT")):
        for path in (*GATHERED, "/v1/models/chat", "/"):
            status = edge.ask(request(path, **ALICE, **{name: value})).status
            assert status in (200, 412)
        for path in ROUTED:
            assert edge.ask(request(path, b'{"model":"chat"}', **ALICE, **{name: value})).status in (200, 412)
            assert edge.ask(request(path, b'{"model":"x"}', **ALICE, **{name: value})).status in (
                200,
                404,
                412,
            )


# -------------------------------------------------------------------------------------- smuggling
INNER = "POST /api/delete HTTP/1.1\r\nHost: localhost:11434\r\nX-Smuggled: 1\r\nContent-Length: 0\r\n\r\n"
SHAPES = (  # framing, and the body that holds a second request for whoever reads the framing otherwise
    ("Content-Length: 4\r\nTransfer-Encoding: chunked", f"0\r\n\r\n{INNER}"),
    (f"Content-Length: {len(INNER) + 5}\r\nTransfer-Encoding: chunked", f"0\r\n\r\n{INNER}"),
    (f"Transfer-Encoding: chunked\r\nContent-Length: {len(INNER)}", INNER),
    (f"Content-Length: 0\r\nContent-Length: {len(INNER)}", INNER),
    (f"Content-Length: {len(INNER)}\r\nContent-Length: 0", INNER),
    (f"Content-Length: 0, {len(INNER)}", INNER),
    ("Transfer-Encoding: xchunked\r\nContent-Length: 5", f"0\r\n\r\n{INNER}"),
    ("Transfer-Encoding : chunked\r\nContent-Length: 5", f"0\r\n\r\n{INNER}"),
    ("Transfer-Encoding: identity, chunked\r\nContent-Length: 5", f"0\r\n\r\n{INNER}"),
    ("Transfer-Encoding:\x0bchunked\r\nContent-Length: 5", f"0\r\n\r\n{INNER}"),
    ("X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5", f"0\r\n\r\n{INNER}"),
    ("X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5", f"0\r\n\r\n{INNER}"),
    ("X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5", f"0\r\n\r\n{INNER}"),
    ("Transfer_Encoding: chunked\r\nContent-Length: 5", f"0\r\n\r\n{INNER}"),
    ("Transfer-Encoding: chunked", f"0;{'x' * 20}\r\n\r\n{INNER}"),
    ("Transfer-Encoding: chunked", f"0\r\nContent-Length: 50\r\n\r\n{INNER}"),
    ("Transfer-Encoding: chunked", f"0\n\n{INNER}"),
    ("Transfer-Encoding: chunked", f"00000000000000000\r\n\r\n{INNER}"),
    ("Transfer-Encoding: chunked", f"10000000000000000\r\n\r\n{INNER}"),
    ("Transfer-Encoding: chunked", f"0x0\r\n\r\n{INNER}"),
    ("Content-Length: 0\r\nExpect: 100-continue", INNER),
    ("Content-Length: 0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk", INNER),
    ("Content-Length: 0\r\nConnection: keep-alive, Content-Length", INNER),
    ("X: a\0b\r\nContent-Length: 0", INNER),
)


@pytest.mark.parametrize("path", ["/api/chat", "/api/tags", "/nothing"])
def test_nothing_is_smuggled(edge: Edge, path: str) -> None:
    """Whatever nginx takes for a second request, it is asked for its key; the instance sees none of it."""
    for method in ("GET", "POST"):
        for framing, body in SHAPES:
            head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nx-api-key: {KEYS['alice']}\r\n"
            data = f"{head}{framing}\r\n\r\n{body}"
            answers, rest = exchange(edge.port, data.encode("latin-1"), idle=0.05)
            assert rest == b"", (framing, rest)
            assert [wrong_with(answer) for answer in answers if wrong_with(answer)] == [], framing
            assert len(answers) <= 2
            if len(answers) == 2:
                assert answers[1].status == 401, framing
    assert not any(
        seen.header("x-smuggled") or b"smuggled" in seen.body.lower()
        for seen in edge.recorder.seen
        if seen.path != path
    )


def test_http_0_9_is_json_too(edge: Edge) -> None:
    """A request of HTTP/0.9 gets a body without status or headers: nginx answers so by itself."""
    for path in ("/api/tags", "/api/pull", "/nothing"):
        answers, rest = exchange(edge.port, f"GET {path}\r\n".encode())
        assert (answers, rest) == ([], b'{"error":"a valid key is required"}')
    assert edge.recorder.seen == []


@pytest.mark.parametrize("tier", TIERS)
def test_plain_http_where_tls_is_spoken(
    tier: str, tmp_path: Path, nginx: str, need: Callable[[str], str]
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 2 -keyout"
    code, output = run(need("openssl"), *command.split(), str(key), "-out", str(certificate))
    assert code == 0, output
    with edge_of(tier, tmp_path, nginx, tls=Tls(str(certificate), str(key))) as edge:
        for path in ("/api/chat", "/v1/messages", "/api/pull"):
            assert edge.ask(request(path, b"{}", **ALICE), path).status == 400
        edge.check()


# -------------------------------------------------------------------------------------- 10,000
async def fire(port: int, shots: list[Shot], found: list[str], statuses: Counter[int]) -> None:
    """One connection after another: kept where a request's end is clear, closed where it is not."""
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    for one in shots:
        if reader is None or writer is None or writer.is_closing():
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MEBI)
        answer = None
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                writer.write(one.data)
                await writer.drain()
                answer = await asyncio.wait_for(
                    read_message(reader, one.method == "HEAD"), 20 if one.framed else 0.1
                )
                if answer and answer.status == 100:
                    answer = await asyncio.wait_for(
                        read_message(reader, one.method == "HEAD"), 20 if one.framed else 0.1
                    )
            except Broken as error:
                text = error.args[0] if isinstance(error.args[0], bytes) else str(error).encode()
                if not text.startswith(b'{"error":'):  # HTTP/0.9 has no headers
                    found.append(f"no HTTP: {text[:80]!r} for {one.data[:80]!r}")
            except (TimeoutError, asyncio.TimeoutError):
                if one.framed:
                    found.append(f"no answer for {one.data[:200]!r}")
        if answer:
            statuses[answer.status] += 1
            why = wrong_with(answer, one.method, one.path if one.framed else "")
            if why:
                found.append(f"{why} for {one.data[:200]!r}")
        if answer is None or not one.framed or answer.header("connection") == "close":
            writer.close()
            writer = None
    if writer:
        writer.close()


async def fire_all(port: int, shots: list[Shot]) -> tuple[list[str], Counter[int]]:
    found: list[str] = []
    statuses: Counter[int] = Counter()
    await asyncio.gather(*(fire(port, shots[place::AT_ONCE], found, statuses) for place in range(AT_ONCE)))
    return found, statuses


@pytest.mark.parametrize("tier", TIERS)
def test_ten_thousand_requests(tier: str, tmp_path: Path, nginx: str) -> None:
    dice = random.Random(SEED)
    shots = [shot(number, dice) for number in range(SHOTS)]
    keyless = {str(number) for number, one in enumerate(shots) if not one.keyed}
    with edge_of(tier, tmp_path, nginx, max_body=MEBI) as edge:
        began = time.monotonic()
        found, statuses = asyncio.run(fire_all(edge.port, shots))
        took, reached = time.monotonic() - began, len(edge.recorder.seen)
        print(f"\n{tier}: {SHOTS} in {took:.1f} s: {sorted(statuses.items())}, {reached} reached")
        assert found[:5] == []
        assert {200, 400, 401, 403, 404, 414, 501, 505} <= set(statuses)
        assert reached > 500, "a fuzzer that never gets through shows nothing"
        edge.check(keyless)
        assert edge.ask(request("/api/chat", b'{"model":"chat"}', **ALICE)).status == 200


# ------------------------------------------------------------------------------------- controls
def test_the_rules_see_an_opened_configuration(tmp_path: Path, nginx: str) -> None:
    """Each rule is shown a configuration that breaks it."""
    dice = random.Random(SEED)
    shots = [shot(number, dice) for number in range(2000)]
    keyless = {str(number) for number, one in enumerate(shots) if not one.keyed}

    def opened(config: str) -> str:
        config = config.replace("return 403;", "proxy_pass http://pool_chat;").replace(
            "return 401;", "set $x 1;"
        )
        config = config.replace('proxy_set_header X-Api-Key "";', "").replace("localhost:11434", "$host")
        return "\n".join(line for line in config.splitlines() if "error_page" not in line)

    with edge_of("plain", tmp_path, nginx, opened) as edge:
        found, _ = asyncio.run(fire_all(edge.port, shots))
        assert any("as text/html" in line for line in found)
        behind = wrong_behind(edge.recorder, keyless)
        for what in ("'/api/pull'", "without a key", "Host ", "x-api-key"):
            assert any(what in line for line in behind), what
        (victim,) = sorted(edge.before)[:1]
        os.kill(victim, 9)
        log = edge.folder / "stderr"
        end = time.monotonic() + 10
        while not wrong_in_log(log.read_text(errors="replace")) and time.monotonic() < end:
            time.sleep(0.02)
        assert any("exited on signal 9" in line for line in wrong_in_log(log.read_text(errors="replace")))
