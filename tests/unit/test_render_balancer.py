"""The rendered nginx under a real nginx: what it accepts, where it sends, how it fails."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import crossplane
import pytest
from rendering import (
    Backend,
    backends,
    check_nginx,
    free_port,
    instance,
    make_plan,
    pool,
    run,
    running,
    sandbox,
    text_of,
)

from ogen.errors import RenderError
from ogen.inventory.model import Balancer, ClientOptions, Gate, Limit, Limits, Secret, Tls
from ogen.plan.model import Entry, Member, Plan, Pool
from ogen.release.model import Release
from ogen.render import render

KEYS = "alice: 0123456789abcdef-alice\nbob: 'fedcba9876543210$\"\\.*'\n"


def member(port: int, name: str = "gpu0", address: str = "127.0.0.1", weight: int = 1) -> Member:
    return Member("gpu1", name, address, port, 2, weight)


def release_of(plan: Plan, host: str = "edge", **values: Any) -> Release:
    (found,) = render(plan, host=host, **values)
    return found


class Client:
    """Plain HTTP to a balancer under test."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, data, {k.replace("_", "-"): v for k, v in headers.items()})
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        value = json.loads(text) if text[:1] in (b"{", b"[") else text.decode()
        return reply.status, value, {k.lower(): v for k, v in reply.getheaders()}

    def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", path, body, **headers)[:2]

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.ask("GET", path, **headers)[:2]


#: the two routers: njs, and Lua with the gate
TIERS = pytest.mark.parametrize("gate", [None, Gate()], ids=["njs", "lua"])


@pytest.fixture
def nginx(need: Callable[[str], str]) -> str:
    return need("nginx")


# ----------------------------------------------------------------------------- what it accepts
POOLS = (
    pool("chat", [member(11434), member(11435, "gpu1")], ["chat:latest", "gpt-4o-mini:latest"]),
    pool("a/b:c d", [member(11436, "gpu2", "2001:db8::1", 3)], ["a/b:c"]),
    pool("nobody", []),
)
VARIANTS = [
    Balancer("api", "edge", routing=routing, strategy=strategy, hash_key=key, keys=keys)  # type: ignore[arg-type]
    for routing in ("by_model", "per_port", "single")
    for strategy, key in (
        ("least_conn", None),
        ("round_robin", None),
        ("ip_hash", None),
        ("random", None),
        ("hash", "api_key"),
        ("hash", "header:X-Session"),
        ("hash", None),
    )
    for keys in (None, Secret("env", "KEYS"))
]
VARIANTS += [
    replace(
        each, gate=Gate(), limits=Limits(Limit("10/s", 20, 4), {"bob": Limit("30/m")} if each.keys else {})
    )
    for each in VARIANTS
    if each.routing == "by_model"
]


@pytest.mark.parametrize(
    "balancer", VARIANTS, ids=lambda b: f"{b.routing}-{b.strategy}-{b.hash_key}-{bool(b.keys)}-{bool(b.gate)}"
)
def test_every_variant_passes_nginx(balancer: Balancer, nginx: str, tmp_path: Path) -> None:
    release = release_of(make_plan(balancers=[(balancer, POOLS)]), secrets=lambda _: KEYS)
    check_nginx(release, tmp_path, nginx)
    if balancer.routing != "by_model":
        inside = replace(balancer, into="conf.d")
        check_nginx(release_of(make_plan(balancers=[(inside, POOLS)])), tmp_path, nginx)


def test_crossplane_reads_the_same_upstreams(tmp_path: Path) -> None:
    release = release_of(make_plan(balancers=[(Balancer("api", "edge"), POOLS)]))
    (config,) = sandbox(release, tmp_path)
    payload = crossplane.parse(str(config))
    assert payload["status"] == "ok", payload["errors"]
    http_block = next(d for d in payload["config"][0]["parsed"] if d["directive"] == "http")
    upstreams = {d["args"][0]: d["block"] for d in http_block["block"] if d["directive"] == "upstream"}
    servers = [d["args"] for d in upstreams["pool_chat"] if d["directive"] == "server"]
    assert servers == [[f"127.0.0.1:{port}", "max_fails=2", "fail_timeout=10s"] for port in (11434, 11435)]
    order = [d["directive"] for d in upstreams["pool_chat"]]
    assert order.index("zone") < order.index("least_conn") < order.index("keepalive")
    assert len(upstreams) == 2, "a pool without members has no upstream"


def test_tls_and_networks(nginx: str, tmp_path: Path, need: Callable[[str], str]) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 2 -keyout"
    code, output = run(need("openssl"), *command.split(), str(key), "-out", str(certificate))
    assert code == 0, output
    balancer = Balancer(
        "api",
        "edge",
        tls=Tls(str(certificate), str(key)),
        allow=("10.0.0.0/8", "2001:db8::/32"),
        address="127.0.0.1",
    )
    release = release_of(make_plan(balancers=[(balancer, POOLS)]))
    check_nginx(release, tmp_path, nginx)
    assert "allow 10.0.0.0/8;" in text_of(release, "/etc/ogen/current/balancers/api/nginx.conf")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_is_modern(nginx: str, tmp_path: Path, need: Callable[[str], str]) -> None:
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 2 -keyout"
    assert run(need("openssl"), *command.split(), str(key), "-out", str(certificate))[0] == 0
    with backends(Backend("one")) as (one,):
        release = serve(port, [pool("chat", [member(one.port)])], tls=Tls(str(certificate), str(key)))
        with running(release, tmp_path, nginx, [port]):

            def handshake(**values: Any) -> str | None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                context.set_ciphers(values.pop("ciphers", "ALL:@SECLEVEL=0"))
                for name, value in values.items():
                    setattr(context, name, value)
                try:
                    with socket.create_connection(("127.0.0.1", port), 5) as plain:
                        return context.wrap_socket(plain).version()
                except (ssl.SSLError, ConnectionError):
                    return None

            assert handshake() == "TLSv1.3"
            two = ssl.TLSVersion.TLSv1_2
            assert handshake(maximum_version=two) == "TLSv1.2"
            assert handshake(maximum_version=two, ciphers="AES128-SHA:ECDHE-ECDSA-AES128-SHA") is None
            old = ssl.TLSVersion.TLSv1_1
            assert handshake(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=old) is None


def test_a_thousand_hosts_in_one_pool(nginx: str, tmp_path: Path) -> None:
    members = [member(11434 + n % 8, f"gpu{n % 8}", f"10.1.{n // 2048}.{n // 8 % 256}") for n in range(8000)]
    check_nginx(
        release_of(make_plan(balancers=[(Balancer("api", "edge"), [pool("chat", members)])])), tmp_path, nginx
    )


def test_conf_d_cannot_route_by_model() -> None:
    plan = make_plan(balancers=[(Balancer("api", "edge", into="conf.d"), POOLS)])
    with pytest.raises(RenderError, match="into: own"):
        render(plan)


def test_the_hash_is_over_all_but_itself() -> None:
    def proof(**values: Any) -> Any:
        balancer = Balancer("api", "edge", **values)
        plan = make_plan(balancers=[(balancer, POOLS)])
        release = release_of(plan, secrets=lambda _: KEYS)
        assert release.balancers[0].hash in text_of(release, release.balancers[0].config)
        return release.balancers[0]

    assert proof().hash == proof().hash
    hashes = {
        proof().hash,
        proof(listen=9).hash,
        proof(keys=Secret("env", "K")).hash,
        proof(max_fails=3).hash,
    }
    assert len(hashes) == 4


def test_its_own_instances_are_reached_by_loopback() -> None:
    plan = make_plan(
        balancers=[(Balancer("api", "edge"), [pool("chat", [member(11434, address="192.0.2.11")])])]
    )
    entry = plan.entries[0]
    assert "server 192.0.2.11:11434" in text_of(
        release_of(plan), "/etc/ogen/current/balancers/api/nginx.conf"
    )
    here = replace(plan.inventory.host("edge"), name="gpu1")
    both = make_plan([instance()], [(entry.balancer, entry.pools)], host=here, edge=here)
    assert "server 127.0.0.1:11434" in text_of(
        release_of(both, "gpu1"), "/etc/ogen/current/balancers/api/nginx.conf"
    )


# ------------------------------------------------------------------------------ where it sends
def serve(port: int, pools: list[Pool], **values: Any) -> Release:
    balancer = Balancer("api", "edge", listen=port, address="127.0.0.1", **values)
    return release_of(make_plan(balancers=[(balancer, pools)]), secrets=lambda _: KEYS)


@TIERS
def test_the_model_chooses_the_pool(gate: Gate | None, nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one"), Backend("two", ("coder:latest",))) as (one, two):
        port = free_port()
        pools = [
            pool("chat", [member(one.port)], ["chat:latest", "gpt-4o-mini:latest", "llama3.1:8b"]),
            pool("coder", [member(two.port, "gpu1")]),
            pool("nobody", []),
        ]
        with running(serve(port, pools, gate=gate), tmp_path, nginx, [port]):
            client = Client(port)
            for name in (
                "chat",
                "chat:latest",
                "gpt-4o-mini",
                "llama3.1:8b",
                "registry.ollama.ai/library/chat",
            ):
                assert client.post("/api/chat", {"model": name})[1]["by"] == "one"
            assert client.post("/api/generate", {"name": "coder"})[1]["by"] == "two"
            assert (
                client.post("/v1/chat/completions?x=1", {"model": "coder"})[1]["path"]
                == "/v1/chat/completions?x=1"
            )
            nested = {"messages": [{"role": "user", "tool_calls": [{"model": "coder"}]}], "model": "chat"}
            assert client.post("/v1/messages", nested)[1]["by"] == "one"
            big = {"messages": "x" * 3_000_000, "model": "coder"}
            assert client.post("/api/chat", big)[1]["by"] == "two"
            assert json.loads(two.seen[-1]["body"]) == big
            headers = one.seen[0]["headers"]
            assert headers["Host"] == "localhost:11434"
            assert "Connection" not in headers
            check_gathered(client)
            check_errors(client)


def check_gathered(client: Client) -> None:
    """What is asked of the whole cluster."""
    assert [m["name"] for m in client.get("/api/tags")[1]["models"]] == ["chat:latest", "coder:latest"]
    assert [m["id"] for m in client.get("/v1/models")[1]["data"]] == ["chat:latest", "coder:latest"]
    assert len(client.get("/api/ps")[1]["models"]) == 2
    assert client.get("/api/version")[1] == {"version": "0.32.15"}
    assert client.get("/") == (200, "Ollama is running")
    assert client.get("/v1/models/coder")[1]["by"] == "two"


def check_errors(client: Client) -> None:
    """Each API's own shape of error, for what the router and for what nginx refuses."""
    assert client.post("/api/chat", {"model": "none"}) == (404, {"error": "model 'none' not found"})
    status, error = client.post("/v1/chat/completions", {"model": "none"})
    assert (status, error["error"]["type"]) == (404, "not_found_error")
    status, error = client.post("/v1/messages", {"model": "none"})
    assert (status, error["type"], error["error"]["type"]) == (404, "error", "not_found_error")
    for bad in (b"", b"{", b"[]", b"null", b'"x"'):
        assert client.post("/api/chat", bad)[0] == 400
    for body in ({}, {"model": 7}, {"model": ""}, {"model": ["chat"]}):
        assert client.post("/api/chat", body) == (400, {"error": "model is required"})
    for trick in ("__proto__", "constructor", "toString", "hasOwnProperty"):
        assert client.post("/api/chat", {"model": trick})[0] == 404
    assert client.post("/api/chat", {"model": "nobody"})[0] == 503
    assert client.get("/api/chat")[0] == 405
    for path in ("/api/tags", "/api/version", "/v1/models", "/v1/models/chat"):
        status, _, headers = client.ask("DELETE", path)
        assert (status, headers["allow"]) == (405, "GET, HEAD"), path
    assert client.get("/v1/models/none")[0] == 404
    assert client.get("/_ogen/pool_chat/api/tags") == (404, {"error": "not found"})
    assert client.get("/v1/nothing") == (
        404,
        {"error": {"type": "api_error", "param": None, "code": None, "message": "not found"}},
    )


TRICKS = ("//api//pull", "/./api/pull", "/x/../api/pull", "/api/%70ull", "/api/pull/", "/API/pull",
          "/api/chat%0a", "/api/tags%0d%0aX: y", "/api/chat/../pull", "/v1/models/a%0ab")  # fmt: skip
ADMIN = (
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/blobs/sha256:00",
    "/debug/pprof/",
)


@pytest.mark.parametrize("routing", ["by_model", "single", "per_port"])
def test_what_changes_models_is_closed(routing: str, nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one")) as (one,):
        port = free_port()
        with running(
            serve(port, [pool("chat", [member(one.port)])], routing=routing), tmp_path, nginx, [port]
        ):
            client = Client(port)
            for path in ADMIN:
                for method in ("GET", "POST", "DELETE"):
                    assert client.ask(method, path, {"model": "chat"})[:2] == (
                        403,
                        {"error": "not allowed here"},
                    )
            for path in TRICKS:
                status, body = client.post(path.replace(" ", "%20"), {"model": "chat"})
                assert status in (403, 404), path
                assert "error" in body
            assert not one.seen
            assert client.post("/api/chat", {"model": "chat"})[1]["by"] == "one"
            assert client.get("/api/tags")[0] == 200
            assert client.get("/v1/models/chat")[0] == 200


def test_per_port_and_single(nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one"), Backend("two")) as (one, two):
        first, second = free_port(), free_port()
        pools = [pool("chat", [member(one.port)]), pool("coder", [member(two.port)])]
        balancer = Balancer("api", "edge", listen=first, routing="per_port", address="127.0.0.1")
        plan = make_plan(balancers=[(balancer, pools)])
        entry = Entry(balancer, ("edge",), tuple(pools), {"chat": first, "coder": second})
        plan = replace(
            plan, entries=(entry,), hosts=(plan.hosts[0], replace(plan.hosts[1], entries=(entry,)))
        )
        with running(release_of(plan), tmp_path, nginx, [first, second]):
            assert Client(first).post("/api/chat", {"model": "whatever"})[1]["by"] == "one"
            assert Client(second).post("/v1/completions", {})[1] == {"by": "two", "path": "/v1/completions"}


@TIERS
def test_keys(gate: Gate | None, nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one")) as (one,):
        port = free_port()
        release = serve(port, [pool("chat", [member(one.port)])], keys=Secret("env", "KEYS"), gate=gate)
        assert next(f for f in release.files if f.path.endswith("keys.conf")).mode == 0o600
        with running(release, tmp_path, nginx, [port]) as folder:
            client, body = Client(port), {"model": "chat"}
            for key in ("0123456789abcdef-alice", 'fedcba9876543210$"\\.*'):
                assert client.post("/api/chat", body, Authorization=f"Bearer {key}")[0] == 200
                assert client.post("/api/chat", body, x_api_key=key)[0] == 200
            passed_on = {header.lower() for seen in one.seen for header in seen["headers"]}
            assert not passed_on & {"authorization", "x-api-key"}
            asked = len(one.seen)
            for bad in (
                "",
                "0123456789ABCDEF-alice",
                "0123456789abcdef-alic",
                "0123456789abcdef-alicex",
                "alice",
            ):
                status, error, headers = client.ask("POST", "/api/chat", body, Authorization=f"Bearer {bad}")
                assert (status, error) == (401, {"error": "a valid key is required"})
                assert headers["www-authenticate"] == "Bearer"
            assert client.ask("POST", "/api/pull", body)[0] == 401
            assert len(one.seen) == asked
            time.sleep(0.2)
            lines = [
                json.loads(line) for line in (folder / "log-ogen/balancer-api.log").read_text().splitlines()
            ]
            assert {line["key"] for line in lines} == {"alice", "bob", ""}
            assert lines[0]["model"] == "chat:latest"
            assert lines[0]["upstream"] == f"127.0.0.1:{one.port}"


@TIERS
def test_client_options(gate: Gate | None, nginx: str, tmp_path: Path) -> None:
    options = ClientOptions(allow=("temperature", "num_ctx"), max_context="plan")
    with backends(Backend("one")) as (one,):
        port = free_port()
        release = serve(
            port, [pool("chat", [member(one.port)], context=4096)], client_options=options, gate=gate
        )
        with running(release, tmp_path, nginx, [port]):
            client = Client(port)
            sent = {"num_ctx": 9999, "num_gpu": 0, "temperature": 0.5, "main_gpu": 1}
            client.post("/api/chat", {"model": "chat", "options": sent, "keep_alive": 0, "prompt": "é"})
            assert json.loads(one.seen[-1]["body"]) == {
                "model": "chat", "prompt": "é", "options": {"temperature": 0.5}
            }  # fmt: skip
            client.post("/api/chat", {"model": "chat", "Options": {"num_ctx": "x"}, "KEEP_ALIVE": 0})
            assert json.loads(one.seen[-1]["body"]) == {"model": "chat", "options": {}}
            assert one.seen[-1]["headers"]["Content-Length"] == str(len(one.seen[-1]["body"]))


@TIERS
def test_admins_may_ask_for_what_changes_models(gate: Gate | None, nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one")) as (one,):
        port = free_port()
        release = serve(
            port, [pool("chat", [member(one.port)])], keys=Secret("env", "KEYS"), admins=("alice",), gate=gate
        )
        with running(release, tmp_path, nginx, [port]):
            client = Client(port)
            alice, bob = "0123456789abcdef-alice", 'fedcba9876543210$"\\.*'
            for path in ("/api/pull", "/api/create", "/api/blobs/sha256:" + "0" * 64):
                assert client.post(path, {"model": "x"}, x_api_key=bob) == (
                    403,
                    {"error": "not allowed here"},
                )
                assert client.post(path, {"model": "x"})[0] == 401
            assert not one.seen
            for path in ("/api/pull", "/api/create", "/api/blobs/sha256:" + "0" * 64):
                assert client.post(path, {"model": "x"}, x_api_key=alice)[1] == {"by": "one", "path": path}
            assert client.ask("DELETE", "/api/delete", {"model": "x"}, x_api_key=alice)[0] == 200
            assert not {h.lower() for seen in one.seen for h in seen["headers"]} & {"x-api-key"}
            for path in ("/api/blobs/x", "/api/pull/", "/debug/pprof/"):
                assert client.post(path, {}, x_api_key=alice)[0] == 403


def test_an_admin_needs_a_key() -> None:
    with pytest.raises(RenderError, match="admins without a key: carol"):
        serve(8080, [pool("chat", [member(11434)])], keys=Secret("env", "KEYS"), admins=("carol",))


@TIERS
def test_limits_are_each_keys_own(gate: Gate | None, nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one")) as (one,):
        port = free_port()
        limits = Limits(Limit("1/m", burst=1), {"bob": Limit("600/m", burst=50)})
        pools = [pool("chat", [member(one.port)])]
        release = serve(port, pools, keys=Secret("env", "KEYS"), limits=limits, gate=gate)
        with running(release, tmp_path, nginx, [port]):
            client, body = Client(port), {"model": "chat"}
            alice, bob = "0123456789abcdef-alice", 'fedcba9876543210$"\\.*'
            assert [client.post("/api/chat", body, x_api_key=alice)[0] for _ in range(4)] == [
                200,
                200,
                429,
                429,
            ]
            assert [client.post("/api/chat", body, x_api_key=bob)[0] for _ in range(20)] == [200] * 20
            status, error, headers = client.ask("POST", "/v1/messages", body, x_api_key=alice)
            assert (status, error["type"], headers["retry-after"]) == (429, "error", "60")


@TIERS
@pytest.mark.parametrize("keys", [None, Secret("env", "KEYS")], ids=["open", "keys"])
def test_a_limit_of_requests_at_once(
    keys: Secret | None, gate: Gate | None, nginx: str, tmp_path: Path
) -> None:
    with backends(Backend("one", hang=0.5)) as (one,):
        port = free_port()
        pools = [pool("chat", [member(one.port)])]
        release = serve(port, pools, keys=keys, limits=Limits(Limit(concurrent=2)), gate=gate)
        with running(release, tmp_path, nginx, [port]), ThreadPoolExecutor(6) as pool_:
            asked = [
                pool_.submit(
                    Client(port).post, "/api/chat", {"model": "chat"}, x_api_key="0123456789abcdef-alice"
                )
                for _ in range(6)
            ]
            assert sorted(each.result()[0] for each in asked) == [200, 200, 429, 429, 429, 429]


def test_backups_are_asked_when_no_other_answers(nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one"), Backend("spare")) as (one, spare):
        port = free_port()
        second = replace(member(spare.port, "gpu1"), backup=True)
        with running(serve(port, [pool("chat", [member(one.port), second])]), tmp_path, nginx, [port]):
            assert {Client(port).post("/api/chat", {"model": "chat"})[1]["by"] for _ in range(10)} == {"one"}
        port, folder = free_port(), tmp_path / "b"
        folder.mkdir()
        members = [member(free_port()), second]
        with running(serve(port, [pool("chat", members)]), folder, nginx, [port]):
            assert {Client(port).post("/api/chat", {"model": "chat"})[1]["by"] for _ in range(10)} == {
                "spare"
            }
        text = text_of(serve(port, [pool("chat", [second])]), "/etc/ogen/current/balancers/api/nginx.conf")
        assert "backup" not in text, "a pool of backups alone has no server for nginx"


# ---------------------------------------------------------------------------------- how it fails
@TIERS
def test_streams_arrive_piece_by_piece(gate: Gate | None, nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one", chunks=5)) as (one,):
        port = free_port()
        with running(serve(port, [pool("chat", [member(one.port)])], gate=gate), tmp_path, nginx, [port]):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("POST", "/api/chat", json.dumps({"model": "chat"}))
            reply = connection.getresponse()
            times = [time.monotonic() for _ in iter(reply.readline, b"")]
            assert len(times) == 5
            assert times[-1] - times[0] > 0.3, "a chunk is passed on when it comes"
            connection.close()


@pytest.mark.parametrize("routing", ["by_model", "single"])
def test_a_dead_and_a_broken_instance_fail_no_request(routing: str, nginx: str, tmp_path: Path) -> None:
    with backends(Backend("well"), Backend("broken", status=500)) as (well, broken):
        port, dead = free_port(), free_port()
        members = [member(well.port), member(broken.port, "gpu1")]
        with running(serve(port, [pool("chat", members)], routing=routing), tmp_path, nginx, [port]):
            answers = Counter(
                Client(port).post("/api/chat", {"model": "chat"})[1].get("by") for _ in range(40)
            )
            assert answers == {"well": 40}
            assert len(broken.seen) <= 3, "after max_fails the broken one rests"
        members[1] = member(dead, "gpu1")
        port = free_port()
        other = tmp_path / "second"
        other.mkdir()
        with running(serve(port, [pool("chat", members)], routing=routing), other, nginx, [port]):
            answers = Counter(
                Client(port).post("/api/chat", {"model": "chat"})[1].get("by") for _ in range(40)
            )
            assert answers == {"well": 40}


def test_an_instance_that_hangs_at_connecting_is_passed_over(nginx: str, tmp_path: Path) -> None:
    with socket.socket() as full, backends(Backend("well")) as (well,):
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):  # fills the queue, so that a further connection is not answered
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(full.getsockname())
            waiting.append(one)
        port = free_port()
        members = [member(full.getsockname()[1], "gpu1"), member(well.port)]
        with running(serve(port, [pool("chat", members)], connect_timeout=0.5), tmp_path, nginx, [port]):
            for _ in range(4):
                assert Client(port).post("/api/chat", {"model": "chat"}) == (
                    200,
                    {"by": "well", "path": "/api/chat"},
                )
        for one in waiting:
            one.close()


def test_a_request_that_waited_is_not_repeated(nginx: str, tmp_path: Path) -> None:
    with backends(Backend("one", hang=3), Backend("two", hang=3)) as (one, two):
        port = free_port()
        members = [member(one.port), member(two.port, "gpu1")]
        with running(serve(port, [pool("chat", members)], read_timeout=1.0), tmp_path, nginx, [port]):
            status, error = Client(port).post("/api/chat", {"model": "chat"})
            assert (status, error) == (504, {"error": "the instance did not answer in time"})
            assert len(one.seen) + len(two.seen) == 1


def test_a_dead_pool_and_large_bodies_are_json_errors(nginx: str, tmp_path: Path) -> None:
    port = free_port()
    pools = [pool("chat", [member(free_port()), member(free_port(), "gpu1")])]
    with running(serve(port, pools, max_body=2 * 1024 * 1024), tmp_path, nginx, [port]):
        client = Client(port)
        assert client.post("/api/chat", {"model": "chat"}) == (502, {"error": "no instance answers"})
        assert client.post("/v1/messages", {"model": "chat"})[1]["type"] == "error"
        assert client.get("/api/tags") == (502, {"error": "no instance answers"})
        status, error = client.post("/api/chat", b"x" * 2_500_000)
        assert (status, error) == (413, {"error": "the request body is too large"})


def test_the_private_socket_tells_the_hash(nginx: str, tmp_path: Path) -> None:
    port = free_port()
    release = serve(port, [pool("chat", [member(free_port())])])
    with running(release, tmp_path, nginx, [port]) as folder, socket.socket(socket.AF_UNIX) as private:
        private.connect(str(folder / "run-balancer-api/release.sock"))
        private.sendall(b"GET /release HTTP/1.0\r\n\r\n")
        text = private.recv(4096).decode()
        assert text.endswith(f"\r\n\r\n{release.balancers[0].hash}\n")
