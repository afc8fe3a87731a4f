"""More than the plan allows: no way of asking for it reaches an instance."""

# ruff: noqa: E501  # bodies read best in rows
from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fuzz import ROUTED
from go_json import Read, Refused, read
from rendering import pool
from tiers import ROUTERS, logged, member, nginx, serving
from wire import Message, Recorder, exchange, request

from ogen.inventory.model import ClientOptions

__all__ = ["nginx"]  # a fixture

CONTEXT = 4096
RUNNER = {"num_ctx": 131072, "num_batch": 4096, "num_gpu": 0, "main_gpu": 1, "use_mmap": False, "num_thread": 1,
          "low_vram": True, "f16_kv": False, "logits_all": True, "vocab_only": True, "use_mlock": True, "numa": True}  # fmt: skip
SAMPLING = {"temperature": 0.5, "seed": 7, "stop": ["a"], "num_predict": 5}
KELVIN, LONG_S = "\u212a", "\u017f"


@dataclass
class Edge:
    """A router in front of two pools, each with an instance that writes down what it got."""

    port: int
    folder: Path
    chat: Recorder
    coder: Recorder

    def send(self, path: str, body: bytes, **headers: str) -> tuple[Message, list[tuple[str, Message]]]:
        """The answer, and what reached which pool."""
        before = len(self.chat.seen), len(self.coder.seen)
        (answer,), _ = exchange(self.port, request(path, body, **headers), idle=20, most=1)
        reached = [("chat", seen) for seen in self.chat.seen[before[0] :]]
        return answer, reached + [("coder", seen) for seen in self.coder.seen[before[1] :]]

    def read(self, path: str, body: bytes, **headers: str) -> Read | None:
        """What the instance takes the body for; None where none was asked, or it refuses."""
        answer, reached = self.send(path, body, **headers)
        if not reached:
            assert 400 <= answer.status < 500, answer
            return None
        ((name, seen),) = reached
        assert seen.header("content-length") == str(len(seen.body))
        assert not seen.header("content-encoding")
        try:
            found = read(seen.body)
        except Refused:
            return None
        assert found.asked.removesuffix(":latest") == name, "router and instance disagree on the model"
        return found


@pytest.fixture(scope="module", params=ROUTERS)
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def edge_of(tier: str, folder: Path, nginx: str, **options: Any) -> Iterator[Edge]:
    with Recorder() as chat, Recorder() as coder:
        pools = [pool("chat", [member(chat.port)], context=CONTEXT), pool("coder", [member(coder.port)])]
        values = {"client_options": ClientOptions(**options)} if options else {}
        with serving(tier, pools, folder, nginx, **values) as (port, place):
            yield Edge(port, place, chat, coder)


@pytest.fixture(scope="module")
def found_nginx(need: Any) -> str:
    return str(need("nginx"))


@pytest.fixture(scope="module")
def edge(tier: str, tmp_path_factory: pytest.TempPathFactory, found_nginx: str) -> Iterator[Edge]:
    """As it is by default: max_context is the plan's."""
    yield from edge_of(tier, tmp_path_factory.mktemp(tier), found_nginx)


@pytest.fixture(scope="module")
def capped(tier: str, tmp_path_factory: pytest.TempPathFactory, found_nginx: str) -> Iterator[Edge]:
    """A context may be asked for, up to 2048; keep_alive is allowed, and so is one option."""
    allow = ("temperature", "num_ctx", "keep_alive")
    yield from edge_of(tier, tmp_path_factory.mktemp(tier), found_nginx, allow=allow, max_context=2048)


# ---------------------------------------------------------------------------------- the ways
def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def escaped(text: str) -> str:
    """Every character as \\uXXXX."""
    return "".join(f"\\u{ord(c):04x}" for c in text)


def spelt(key: str) -> list[str]:
    """The key in ways that Go takes for the same."""
    ways = [key.upper(), key.title(), key.replace("k", KELVIN), key.replace("s", LONG_S)]
    return [way for way in dict.fromkeys(ways) if way != key]


def body(**values: Any) -> bytes:
    return dump({"model": "chat", **values})


def raw(text: str) -> bytes:
    """A body whose other members are written as they are."""
    return b'{"model":"chat",' + text.encode() + b"}"


RUNNING = json.dumps(RUNNER)
WAYS: dict[str, list[bytes]] = {
    "options": [body(options=RUNNER), body(options={**SAMPLING, **RUNNER})],
    "one option at a time": [body(options={key: value}) for key, value in RUNNER.items()],
    "at top level": [body(**RUNNER), body(keep_alive=-1, **RUNNER)],
    "keep_alive": [body(keep_alive=value) for value in (0, -1, "24h", "-1m", 1e9, None, [], {})],
    "keep_alive in options": [body(options={"keep_alive": -1, "num_ctx": 9})],
    "options in another case": [body(**{key: RUNNER}) for key in spelt("options")],
    "keep_alive in another case": [body(**{key: -1}) for key in spelt("keep_alive")],
    "option names in another case": [body(options={way: 131072}) for key in RUNNER for way in spelt(key)],
    "escaped keys": [
        raw(f'"{escaped("options")}":{{"{escaped("num_ctx")}":131072}},"{escaped("keep_alive")}":-1'),
        raw(f'"{escaped("option" + LONG_S)}":{RUNNING},"{escaped("Keep_alive".replace("K", KELVIN))}":-1'),
    ],
    "options twice": [
        raw(f'"options":{RUNNING},"options":{{"seed":1}}'),
        raw(f'"options":{{"seed":1}},"options":{RUNNING}'),
        raw(f'"options":{RUNNING},"options":null,"OPTIONS":{RUNNING}'),
        raw(f'"options":{RUNNING},"Options":{{}},"option{LONG_S}":{{"num_gpu":0}},"options":[]'),
        raw(f'"OPTIONS":{RUNNING},"options":7'),
    ],
    "an option twice": [raw('"options":{"num_ctx":1,"num_ctx":131072,"seed":1,"num_gpu":1,"num_gpu":0}')],
    "keep_alive twice": [raw('"keep_alive":0,"keep_alive":-1,"KEEP_ALIVE":"1h"')],
    "options of another type": [
        raw(f'"options":{value}')
        for value in ("[]", f"[{RUNNING}]", json.dumps(RUNNING), "7", "true", "null", '""', f'{{"options":{RUNNING}}}')
    ],
    "numbers of another kind": [
        raw(f'"options":{{"num_ctx":{value}}}')
        for value in ("131072.0", "1.31072e5", "1e9", "-1", "0", '"131072"', "9" * 30, "1e308", "true", "[131072]",
                      '{"value":131072}', "null", "-0", "0.1")
    ],
    "no numbers of JSON": [
        raw(f'"options":{{"num_ctx":{value}}}') for value in ("NaN", "Infinity", "-Infinity", "0x20000", "+1", "1e999", "01")
    ],
    "white space": [
        raw(' \t\r\n"options" \n:\r\n { "num_ctx"\t:\n131072 , "num_gpu" :0 } ,\n"keep_alive"\t: -1 '),
        b" \r\n\t" + body(options=RUNNER) + b" \n",
    ],
    "after the end": [body() + body(options=RUNNER), body() + b"}", body(options=RUNNER) + b"\0", body() + b"x"],
    "byte order marks and encodings": [
        b"\xef\xbb\xbf" + body(options=RUNNER),
        body(options=RUNNER).decode().encode("utf-16"),
        body(options=RUNNER).decode().encode("utf-16-le"),
        body(options=RUNNER).decode().encode("utf-32"),
        body(options=RUNNER).decode().encode("utf-7"),
        b"\0" + body(options=RUNNER),
    ],
    "bytes that are no text": [
        b'{"model":"chat","options\xff":{"num_ctx":9},"options":{"num_ctx\xff":9,"num_ctx":131072}}',
        b'{"model":"chat","a":"\xff\xfe","options":{"num_ctx":131072},"\xc0\xafkeep_alive":1,"keep_alive":-1}',
        b'{"model":"chat","a":"\\ud800","options":{"num_ctx":131072},"b":"\\u0000","keep_alive":-1}',
        b'{"model":"chat","a":"\n\t\x01","options":{"num_ctx":131072},"keep_alive":-1}',
    ],
    "strings that look like members": [
        body(prompt='"},"options":{"num_ctx":131072},"x":{"', options=RUNNER),
        body(prompt='\\"', system="\\\\", template='\\\\"{}[]:,', options=RUNNER, keep_alive=-1),
        body(**{'"options":{': "}", "a\\": 1, "options": RUNNER, "b": [[[]], {"c": "]"}], "keep_alive": -1}),
    ],
    "prototypes": [
        raw(f'"__proto__":{{"options":{RUNNING},"keep_alive":-1}},"constructor":{{"options":{RUNNING}}}'),
        raw(f'"options":{{"__proto__":{RUNNING},"num_ctx":131072}},"toJSON":1'),
        raw('"options":{"constructor":1,"hasOwnProperty":2,"toString":3,"num_gpu":0}'),
    ],
    "depth": [
        raw(f'"options":{"[" * 24}{"]" * 24},"options":{RUNNING}'),
        raw(f'"a":{"[" * 300}{"]" * 300},"options":{RUNNING},"keep_alive":-1'),
    ],
    "size": [
        body(prompt="x" * 3_000_000, options=RUNNER, keep_alive=-1),
        raw(",".join(f'"k{place}":{place}' for place in range(20_000)) + f',"options":{RUNNING},"keep_alive":-1'),
    ],
}  # fmt: skip


def wrong(found: Read | None) -> list[str]:
    """What reached the instance of what shapes its runner; names of options count as written, and folded."""
    if found is None:
        return []
    # Options.FromMap knows exact names only; the router is stricter
    names = {name.lower().replace(KELVIN.lower(), "k").replace(LONG_S, "s") for name in found.options}
    kept = sorted(names & {*RUNNER, "keep_alive"})
    return kept + ([f"keep_alive {found.keep_alive!r}"] if found.keep_alive is not None else [])


def test_there_are_twenty_ways() -> None:
    assert len(WAYS) >= 20


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_ask_for_more(edge: Edge, way: str) -> None:
    reached = 0
    for data in WAYS[way]:
        for path in ROUTED if len(data) < 10_000 else ("/api/chat", "/v1/messages"):
            found = edge.read(path, data)
            assert wrong(found) == [], (path, data[:300])
            reached += found is not None
    refused = ("no numbers of JSON", "after the end", "byte order marks and encodings")
    assert reached or way in refused, "a way that is refused altogether shows nothing of what is stripped"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "application/json; charset=utf-16"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "multipart/form-data; boundary=x"},
        {"Content_Encoding": "identity"},
        {"X_HTTP_Method_Override": "PUT", "Expect": "100-continue"},
    ],
    ids=lambda headers: next(iter(headers.values())),
)
def test_headers_change_nothing(edge: Edge, headers: dict[str, str]) -> None:
    found = edge.read("/api/chat", body(options={**SAMPLING, **RUNNER}, keep_alive=-1), **headers)
    assert found
    assert wrong(found) == []
    assert found.options == SAMPLING


def test_what_is_no_json_reaches_no_instance(edge: Edge) -> None:
    """Compressed, as a form, or in the query: Ollama reads none of these, and neither does the router."""
    form = b"model=chat&options[num_ctx]=131072&keep_alive=-1"
    for path in ROUTED:
        for encoding in ("gzip", "zstd", "deflate, gzip"):
            answer, reached = edge.send(path, gzip.compress(body(options=RUNNER)), Content_Encoding=encoding)
            assert (answer.status, reached) == (400, [])
        for kind in ("application/x-www-form-urlencoded", "application/json"):
            answer, reached = edge.send(path, form, Content_Type=kind)
            assert (answer.status, reached) == (400, [])
        found = edge.read(
            f'{path}?options={{"num_ctx":131072}}&keep_alive=-1&model=coder'.replace('"', "%22"), body()
        )
        assert found
        assert wrong(found) == []


def test_chunked_bodies(edge: Edge) -> None:
    """Cut anywhere, in the middle of keys and of escapes."""
    data = WAYS["escaped keys"][1]
    for size in (1, 3, 7, 50):
        chunks = b"".join(
            b"%x\r\n%s\r\n" % (len(data[at : at + size]), data[at : at + size])
            for at in range(0, len(data), size)
        )
        head = (
            b"POST /api/chat HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        (answer,), _ = exchange(edge.port, head + chunks + b"0\r\nOptions: {}\r\n\r\n", most=1)
        assert answer.status == 200
        assert wrong(read(edge.chat.seen[-1].body)) == []


# ------------------------------------------------------------------------- which model is meant
MODELS = [
    ('"model":"chat","Model":"coder"', "coder"),
    ('"Model":"coder","model":"chat"', "chat"),
    ('"MODEL":"coder"', "coder"),
    ('"model":"chat","model":"coder"', "coder"),
    ('"model":"chat","name":"coder"', "chat"),
    ('"name":"coder","model":"chat"', "chat"),
    ('"name":"coder"', "coder"),
    ('"NAME":"coder","model":""', "coder"),
    ('"name":"coder","model":null', "coder"),
    ('"model":"chat","messages":[{"model":"coder","tool_calls":[{"name":"coder"}]}]', "chat"),
    ('"mo\\u0064el":"coder"', "coder"),
    ('"model":"c\\u006fder"', "coder"),
    ('"__proto__":{"model":"coder"},"model":"chat"', "chat"),
]


@pytest.mark.parametrize(("text", "wanted"), MODELS)
def test_router_and_instance_agree_on_the_model(edge: Edge, text: str, wanted: str) -> None:
    for path in ROUTED:
        found = edge.read(path, b"{" + text.encode() + b"}")
        assert found, "each of these has a model that is served"
        assert found.asked.removesuffix(":latest") == wanted
    assert logged(edge.folder, lambda log: bool(log) and log[-1]["model"] == f"{wanted}:latest")


@pytest.mark.parametrize("text", ['"model":7', '"model":["chat"]', '"model":{"a":1},"name":"chat"', '"model":true', '"messages":[{"model":"chat"}]', '"__proto__":{"model":"chat"}', '"model":"chat\\u0000"', '"model":" chat"', '"model":"CHAT/../coder"'])  # fmt: skip
def test_what_is_no_model_reaches_no_instance(edge: Edge, text: str) -> None:
    answer, reached = edge.send("/api/chat", b"{" + text.encode() + b"}")
    assert answer.status in (400, 404)
    assert reached == []


# ------------------------------------------------------------------- what is allowed stays as it is
HARMLESS: list[dict[str, Any]] = [
    {"options": SAMPLING},
    {"options": {}},
    {"messages": [], "tools": [], "images": [], "format": {}},
    {
        "messages": [
            {"role": "user", "content": 'é \u2028 \U0001f600 \\ " / </script> \x7f', "images": ["AAAA"]}
        ]
    },
    {
        "messages": [
            {"content": '{"options":{"num_ctx":1}}', "options": RUNNER, "keep_alive": 1, "num_ctx": 9}
        ]
    },
    {
        "tools": [
            {"function": {"name": "f", "parameters": {"properties": {"options": RUNNER, "x": {"enum": []}}}}}
        ]
    },
    {"a": [0, -1, 1.5, 0.1, 1e-7, 123456789.123, 2**53, True, False, None, "", [[]], {}]},
    {"stream": False, "raw": True, "think": "high", "truncate": None, "dimensions": 256},
    {"b": {"2": 1, "1": 2, "": 3, "a b": 4, "\u212a": 5}},
    {"context": list(range(2000)), "prompt": "x" * 100_000},
]


@pytest.mark.parametrize("values", HARMLESS, ids=lambda values: ",".join(values))
def test_what_is_allowed_arrives_as_it_was_sent(edge: Edge, values: dict[str, Any]) -> None:
    for text in (
        dump({"model": "chat", **values}),
        json.dumps({**values, "model": "chat"}, indent=3).encode(),
    ):
        _, reached = edge.send("/api/chat", text)
        ((_, seen),) = reached
        assert json.loads(seen.body) == {"model": "chat", **values}


def test_schemas_may_be_deep(edge: Edge) -> None:
    """Schemas of tools nest, two levels for each level of what they describe."""
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(12):
        deep = {"type": "object", "properties": {"x": deep}}
    tools = [{"function": {"parameters": deep}}]
    _, reached = edge.send("/api/chat", body(tools=tools))
    assert json.loads(reached[0][1].body)["tools"] == tools


# ------------------------------------------------------------------------- what an inventory allows
def test_only_what_is_allowed_passes_and_a_context_is_capped(capped: Edge) -> None:
    for number, wanted in (
        (1024, 1024),
        (2048, 2048),
        (2049, 2048),
        (131072, 2048),
        (1e9, 2048),
        (2048.5, 2048),
    ):
        found = capped.read(
            "/api/chat", body(options={"num_ctx": number, **SAMPLING, "num_gpu": 0}, keep_alive="1h")
        )
        assert found
        assert (found.options, found.keep_alive) == ({"num_ctx": wanted, "temperature": 0.5}, "1h")


@pytest.mark.parametrize("way", ["options", "option names in another case", "options twice", "an option twice",
                                 "numbers of another kind", "escaped keys", "bytes that are no text", "prototypes"])  # fmt: skip
def test_no_way_above_the_cap(capped: Edge, way: str) -> None:
    for data in WAYS[way]:
        found = capped.read("/api/generate", data)
        if found is None:
            continue
        assert set(found.options) <= {"num_ctx", "temperature"}
        context = found.options.get("num_ctx", 0)
        assert isinstance(context, (int, float))
        assert not isinstance(context, bool)
        assert context <= 2048


# ------------------------------------------------------------------------------------ the control
def test_the_reader_reads_as_go_does() -> None:
    """Cross-checked by hand with Go's encoding/json on the same bytes."""
    assert read(f'{{"option{LONG_S}":{{"a":1}},"{KELVIN}eep_Alive":5,"MODEL":"x"}}'.encode()) == Read(
        "x", "", {"a": 1}, 5
    )
    assert read(b'{"options":{"a":1,"b":1},"Options":{"b":2}}').options == {"a": 1, "b": 2}
    assert read(b'{"options":{"a":1},"options":null,"options":{"b":2}}').options == {"b": 2}
    assert read(b'{"model":"x","model":null}trailing').model == "x"
    for bad in (
        b'{"options":[]}',
        b'{"model":7}',
        b"[]",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":0x1}',
        b'{"a":"\n"}',
    ):
        with pytest.raises(Refused):
            read(bad)


def test_the_ways_are_seen_where_nothing_is_stripped() -> None:
    """Without a router between, each way but those that no JSON decoder reads does reach the instance."""
    seen = set()
    for way, bodies in WAYS.items():
        for data in bodies:
            try:
                seen |= {way} if wrong(read(data)) else set()
            except Refused:
                pass
    unseen = {
        "at top level",
        "options of another type",
        "no numbers of JSON",
        "byte order marks and encodings",
    }
    assert seen >= set(WAYS) - unseen - {"after the end"}, set(WAYS) - seen
