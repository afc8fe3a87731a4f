"""The clients that people use, through the rendered nginx, to two instances with one model each."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
from rendering import pool
from test_standin import Box
from tiers import KEYS, TIERS, logged, member, nginx, serving

from ogen.inventory.model import Secret

__all__ = ["nginx"]  # a fixture

CHAT, VECTORS = "llama3:8b", "nomic-embed-text"
QUESTION: Any = [{"role": "user", "content": "hello"}]
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(300_000)).decode()  # larger than nginx's own buffers
PROPERTIES = {"city": {"type": "string"}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": ["city"]}
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": PARAMETERS},
}


@dataclass
class Entry:
    """A balancer in front of the instances: where it is, and which keys it wants."""

    tier: str
    url: str
    folder: Path
    chats: Box
    vectors: Box

    def __post_init__(self) -> None:
        self.closed: list[Callable[[], Any]] = []

    def end(self) -> None:
        for close in self.closed:
            close()

    def ollama(self, key: str = KEYS["alice"]) -> ollama.Client:
        client = ollama.Client(self.url, headers={"Authorization": f"Bearer {key}"} if key else None)
        self.closed.append(client.close)
        return client

    def openai(self, key: str = KEYS["alice"]) -> openai.OpenAI:
        client = openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0)
        self.closed.append(client.close)
        return client

    def anthropic(self, key: str = KEYS["alice"]) -> anthropic.Anthropic:
        client = anthropic.Anthropic(base_url=self.url, api_key=key, max_retries=0)
        self.closed.append(client.close)
        return client

    def mark(self) -> str:
        """What the instance with the chat model says before anything else."""
        return f"[127.0.0.1:{self.chats.port} gpu GPU-aaaa0000-1111]"


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    """Two instances; each has one model, and its own store."""
    boxes = [Box(tmp_path_factory.mktemp(name), {"FAKE_OLLAMA_TOKENS": "12"}) for name in ("one", "two")]
    try:
        for box, model in zip(boxes, (CHAT, VECTORS), strict=True):
            box.start().post("/api/pull", model=model)
        yield boxes[0], boxes[1]
    finally:
        for box in boxes:
            box.stop()


@pytest.fixture(scope="module", params=TIERS)
def entry(
    request: pytest.FixtureRequest,
    instances: tuple[Box, Box],
    tmp_path_factory: pytest.TempPathFactory,
    need: Callable[[str], str],
) -> Iterator[Entry]:
    """Each tier; the plain one can't choose by model, and has the instance with the chat model alone."""
    chats, vectors = instances
    pools = [pool("chat", [member(chats.port)], [CHAT])]
    if request.param != "plain":
        pools.append(pool("vectors", [member(vectors.port, "gpu1")], [f"{VECTORS}:latest"]))
    folder = tmp_path_factory.mktemp(request.param)
    keys = Secret("env", "KEYS")
    with serving(request.param, pools, folder, need("nginx"), keys=keys) as (port, place):
        found = Entry(request.param, f"http://127.0.0.1:{port}", place, chats, vectors)
        yield found
        found.end()


@pytest.fixture
def routed(entry: Entry) -> Entry:
    if entry.tier == "plain":
        pytest.skip("the plain tier does not choose by model: both models need a router")
    return entry


# ------------------------------------------------------------------------- the ollama package
def test_ollama_generates_and_chats(entry: Entry) -> None:
    client = entry.ollama()
    whole = client.generate(CHAT, "hello", options={"temperature": 0.1, "seed": 4})
    assert whole.response.startswith(entry.mark())
    assert "You said: hello" in whole.response
    said = client.chat(CHAT, QUESTION)
    assert "You said: hello" in (said.message.content or "")
    parts = [part.message.content or "" for part in client.chat(CHAT, QUESTION, stream=True)]
    assert len(parts) > 10, "one part for each token"
    assert "".join(parts).strip() == (said.message.content or "").strip()
    parts = [part.response for part in client.generate(CHAT, "hello", stream=True)]
    assert "".join(parts).strip() == whole.response.strip()


def test_ollama_sees_images_and_calls_tools(entry: Entry) -> None:
    client = entry.ollama()
    assert "1 image, You said: what" in client.generate(CHAT, "what", images=[PICTURE]).response
    message: Any = {"role": "user", "content": "what", "images": [PICTURE, PICTURE]}
    assert "2 images," in (client.chat(CHAT, [message]).message.content or "")
    with pytest.raises(ollama.ResponseError, match="invalid image input"):
        client.chat(CHAT, [{**message, "images": ["!" * 4000]}])
    for stream in (False, True):
        answer: Any = client.chat(CHAT, QUESTION, tools=[TOOL], stream=stream)
        messages = [part.message for part in answer] if stream else [answer.message]
        (call,) = [call for message in messages for call in message.tool_calls or []]
        assert (call.function.name, call.function.arguments) == ("weather", {"city": "city"})
    result: Any = [*QUESTION, messages[0].model_dump(), {"role": "tool", "content": "sunny"}]
    assert "You said: sunny" in (client.chat(CHAT, result, tools=[TOOL]).message.content or "")


def test_ollama_lists_and_shows(entry: Entry) -> None:
    client = entry.ollama()
    expected = {CHAT} if entry.tier == "plain" else {CHAT, f"{VECTORS}:latest"}
    assert {model.model for model in client.list().models} == expected
    client.generate(CHAT, "load")
    assert [model.model for model in client.ps().models if model.model == CHAT] == [CHAT]
    shown = client.show(CHAT)
    assert shown.details
    assert shown.details.family == "llama"
    assert "tools" in (shown.capabilities or [])
    with pytest.raises(ollama.ResponseError, match="not found") as error:
        client.show("nobody")
    assert error.value.status_code == 404


def test_ollama_embeds(routed: Entry) -> None:
    client = routed.ollama()
    assert len(client.embed(VECTORS, ["a", "b"]).embeddings) == 2
    assert len(client.embeddings(VECTORS, "a").embedding) == 32
    with pytest.raises(ollama.ResponseError, match="does not support generate") as error:
        client.generate(VECTORS, "a")
    assert error.value.status_code == 400


@pytest.mark.parametrize("ask", ["pull", "push", "delete", "copy", "create", "blob"])
def test_ollama_changes_no_models(entry: Entry, ask: str, tmp_path: Path) -> None:
    client = entry.ollama()
    before = entry.chats.get("/api/tags")
    (tmp_path / "file").write_text("GGUF")
    calls: dict[str, Callable[[], Any]] = {
        "pull": lambda: client.pull("other"),
        "push": lambda: client.push(CHAT),
        "delete": lambda: client.delete(CHAT),
        "copy": lambda: client.copy(CHAT, "other"),
        "create": lambda: client.create("other", from_=CHAT),
        "blob": lambda: client.create_blob(tmp_path / "file"),
    }
    with pytest.raises(ollama.ResponseError) as error:
        calls[ask]()
    assert error.value.status_code == 403
    assert entry.chats.get("/api/tags") == before


@pytest.mark.parametrize("key", ["", "0123456789abcdef-alic", KEYS["alice"].upper()])
def test_ollama_without_a_valid_key(entry: Entry, key: str) -> None:
    client = entry.ollama(key)
    asked = entry.chats.log.count("[GIN]")
    for call in (client.list, lambda: client.generate(CHAT, "x"), lambda: client.pull("other")):
        with pytest.raises(ollama.ResponseError, match="a valid key is required") as error:
            call()
        assert error.value.status_code == 401
    with pytest.raises(ollama.ResponseError, match="a valid key is required"):
        list(client.chat(CHAT, QUESTION, stream=True))
    assert entry.chats.log.count("[GIN]") == asked


# ------------------------------------------------------------------------- the openai package
def test_openai_chats_and_completes(entry: Entry) -> None:
    client = entry.openai()
    said = client.chat.completions.create(model=CHAT, messages=QUESTION).choices[0]
    assert (said.message.content or "").startswith(entry.mark())
    assert said.finish_reason == "stop"
    with client.chat.completions.create(
        model=CHAT, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    ) as stream:
        parts = list(stream)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text.strip() == (said.message.content or "").strip()
    assert parts[-1].usage
    assert parts[-1].usage.completion_tokens > 10
    assert "You said: hi" in client.completions.create(model=CHAT, prompt="hi").choices[0].text


def test_openai_answers_in_responses(entry: Entry) -> None:
    client = entry.openai()
    whole = client.responses.create(model=CHAT, input="hello")
    assert whole.output_text.startswith(entry.mark())
    with client.responses.create(model=CHAT, input=QUESTION, stream=True) as stream:
        events = list(stream)
    parts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(parts) > 10
    assert "".join(parts) == whole.output_text
    assert events[-1].type == "response.completed"


def test_openai_sees_images_and_calls_tools(entry: Entry) -> None:
    client = entry.openai()
    url = f"data:image/png;base64,{PICTURE}"
    parts: Any = [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": url}}]
    seen = client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": parts}])
    assert "1 image, You said: what" in (seen.choices[0].message.content or "")
    choice = client.chat.completions.create(model=CHAT, messages=QUESTION, tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "city"})
    with client.chat.completions.create(model=CHAT, messages=QUESTION, tools=[TOOL], stream=True) as stream:
        names = [
            one.function.name
            for part in stream
            for one in part.choices[0].delta.tool_calls or []
            if one.function
        ]
    assert names == ["weather"]


def test_openai_lists_models_and_embeds(routed: Entry) -> None:
    client = routed.openai()
    assert {model.id for model in client.models.list()} == {CHAT, f"{VECTORS}:latest"}
    assert client.models.retrieve(CHAT).id == CHAT
    assert len(client.embeddings.create(model=VECTORS, input=["a", "b"]).data) == 2


def test_openai_reads_the_errors(entry: Entry) -> None:
    with pytest.raises(openai.AuthenticationError, match="a valid key is required") as refused:
        entry.openai("wrong").chat.completions.create(model=CHAT, messages=QUESTION)
    assert refused.value.type == "api_error"
    with pytest.raises(openai.AuthenticationError):
        entry.openai("wrong").chat.completions.create(model=CHAT, messages=QUESTION, stream=True)
    with pytest.raises(openai.AuthenticationError):
        entry.openai("wrong").models.list()
    with pytest.raises(openai.NotFoundError, match="not found"):
        entry.openai().chat.completions.create(model="nobody", messages=QUESTION)
    with pytest.raises(openai.NotFoundError):
        entry.openai().models.retrieve("nobody")
    with pytest.raises(openai.NotFoundError):
        entry.openai().moderations.create(input="x")


# ---------------------------------------------------------------------- the anthropic package
def test_anthropic_chats_streams_and_calls_tools(entry: Entry) -> None:
    client = entry.anthropic()
    said = client.messages.create(model=CHAT, max_tokens=50, messages=QUESTION).content[0]
    assert said.type == "text"
    assert said.text.startswith(entry.mark())
    with client.messages.stream(model=CHAT, max_tokens=50, messages=QUESTION) as stream:
        parts = list(stream.text_stream)
    assert len(parts) > 10
    assert "".join(parts) == said.text
    image: Any = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    content: Any = [{"type": "image", "source": image}, {"type": "text", "text": "what"}]
    seen = client.messages.create(
        model=CHAT, max_tokens=50, messages=[{"role": "user", "content": content}]
    ).content[0]
    assert seen.type == "text"
    assert "1 image, You said: what" in seen.text
    tool: Any = {"name": "weather", "description": "of a city", "input_schema": PARAMETERS}
    called = client.messages.create(model=CHAT, max_tokens=50, messages=QUESTION, tools=[tool])
    assert called.stop_reason == "tool_use"
    assert called.content[0].type == "tool_use"
    assert called.content[0].input == {"city": "city"}
    with client.messages.stream(model=CHAT, max_tokens=50, messages=QUESTION, tools=[tool]) as stream:
        assert stream.get_final_message().content[0].type == "tool_use"


def test_anthropic_reads_the_errors(entry: Entry) -> None:
    with pytest.raises(anthropic.AuthenticationError, match="a valid key is required"):
        entry.anthropic("wrong").messages.create(model=CHAT, max_tokens=5, messages=QUESTION)
    with pytest.raises(anthropic.NotFoundError) as error:
        entry.anthropic().messages.create(model="nobody", max_tokens=5, messages=QUESTION)
    body: Any = error.value.body
    assert body["error"]["type"] == "not_found_error"


# --------------------------------------------------------------------------------------- curl
def curl(entry: Entry, path: str, *options: str, key: str = KEYS["alice"]) -> tuple[int, str]:
    command = ["curl", "-sS", "-N", "-w", "\n%{http_code}", *options]
    command += ["-H", f"Authorization: Bearer {key}"] if key else []
    done = subprocess.run(
        [*command, entry.url + path], capture_output=True, text=True, timeout=30, check=True
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


def test_curl_as_in_the_documentation(entry: Entry, need: Callable[[str], str], tmp_path: Path) -> None:
    """`curl -d` says application/x-www-form-urlencoded, and waits for 100 Continue with large bodies."""
    need("curl")
    status, text = curl(entry, "/api/generate", "-d", json.dumps({"model": CHAT, "prompt": "hello"}))
    lines = [json.loads(line) for line in text.splitlines()]
    assert (status, lines[-1]["done"]) == (200, True)
    assert entry.mark() in "".join(line["response"] for line in lines)
    body = {"model": CHAT, "messages": QUESTION, "stream": True}
    status, text = curl(entry, "/v1/chat/completions", "--json", json.dumps(body))
    assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)
    large = tmp_path / "large"
    large.write_text(json.dumps({"messages": [{"content": "x" * 20_000_000, "role": "user"}], "model": CHAT}))
    status, text = curl(entry, "/api/chat", "-d", f"@{large}", "-H", "Expect: 100-continue")
    assert (status, json.loads(text.splitlines()[-1])["done"]) == (200, True)
    status, text = curl(entry, "/api/chat", "-d", f"@{large}", "-H", "Transfer-Encoding: chunked")
    assert (status, json.loads(text.splitlines()[-1])["done"]) == (200, True)
    assert curl(entry, "/api/version") == (
        200,
        json.dumps(entry.chats.get("/api/version"), separators=(",", ":")),
    )
    assert curl(entry, "/") == (200, "Ollama is running")


def test_curl_reads_the_errors(entry: Entry, need: Callable[[str], str]) -> None:
    need("curl")
    refused = (401, '{"error":"a valid key is required"}')
    for key in ("", "wrong"):
        assert curl(entry, "/api/tags", key=key) == refused
        assert curl(entry, "/api/chat", "-d", json.dumps({"model": CHAT}), key=key) == refused
    named = ("-H", f"x-api-key: {KEYS['alice']}")
    assert curl(entry, "/api/tags", *named, key="")[0] == 200
    assert curl(entry, "/api/delete", "-X", "DELETE", "-d", json.dumps({"model": CHAT}))[0] == 403
    assert curl(entry, "/api/chat", "-d", "{")[0] == 400
    assert curl(entry, "/api/nothing") == (404, '{"error":"not found"}')


# ----------------------------------------------------------------------------- what is left
def test_no_key_reaches_an_instance_or_a_log(entry: Entry) -> None:
    """At the end: the texts of keys are in no log, and their names in the balancer's own."""
    entry.ollama().list()
    httpx.get(entry.url + "/api/version", headers={"x-api-key": KEYS["root"]})
    assert logged(entry.folder, lambda log: {"alice", "root"} <= {line["key"] for line in log})
    logs = [(entry.folder / "log-ogen/balancer-api.log").read_text(), (entry.folder / "stderr").read_text()]
    logs += [entry.chats.log, entry.vectors.log]
    for key in KEYS.values():
        assert not any(re.search(re.escape(key), log) for log in logs)
