"""Modelfiles say the same as the requests; immutable names; views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendering import CHAT, card, instance, make_plan, paths_of, placement, text_of

from ogen.errors import RenderError
from ogen.inventory.model import Context, Lock, Message, Model, Source
from ogen.release.model import ModelBuild, Release
from ogen.render import render
from ogen.render.escape import readable
from ogen.render.models import manifest_path

PATH = "/etc/ogen/current/models/{}.Modelfile"


# ------------------------------------------- Ollama's parser/parser.go, for the comparison
def parse(text: str) -> list[tuple[str, str]]:
    """(command, value) of a Modelfile, as Ollama's command line reads it; ValueError as it fails."""
    found: list[tuple[str, str]] = []
    state, buffer, name = "nil", "", ""
    for char in text:
        following, kept = _next(state, char)
        if following != state:
            if state == "name":
                name = buffer.lower()
                if name not in ("from", "parameter", "template", "system", "adapter", "license", "message"):
                    raise ValueError(f"not a command: {name}")
                following = {"parameter": "parameter", "message": "message"}.get(name, following)
            elif state in ("parameter", "message"):
                name = f"{name} {buffer}"
            elif state == "value":
                value, whole = _unquote(buffer.strip())
                if not whole or char in " \t":
                    buffer += char
                    continue
                found.append((name, value))
            buffer, state = "", following
        if kept and (char.isprintable()):
            buffer += char
    if state == "value":
        value, whole = _unquote(buffer.strip())
        if not whole:
            raise ValueError("unexpected EOF")
        found.append((name, value))
    elif state not in ("nil", "comment"):
        raise ValueError("unexpected EOF")
    return found


def _next(state: str, char: str) -> tuple[str, bool]:
    space, newline = char in " \t", char in "\r\n"
    if state == "nil":
        return ("comment", False) if char == "#" else ("nil", False) if space or newline else ("name", True)
    if state == "comment":
        return ("nil", False) if newline else ("comment", False)
    if state == "value":
        return ("nil", True) if space or newline else ("value", True)
    if space:
        return "value", False
    if not (char.isascii() and (char.isalnum() or char == "_")):
        raise ValueError(f"{state}: {char!r}")
    return state, True


def _unquote(text: str) -> tuple[str, bool]:
    if text.startswith('"""'):
        return (text[3:-3], True) if len(text) >= 6 and text.endswith('"""') else ("", False)
    if text.startswith('"'):
        return (text[1:-1], True) if len(text) >= 2 and text.endswith('"') else ("", False)
    return text, True


# ---------------------------------------------------------------------------------- helpers
def made(model: Model, lock: Lock | None = None, **settings: Any) -> tuple[Release, ModelBuild]:
    (release,) = render(make_plan([instance(models=[placement(model, **settings)])], lock=lock), host="gpu1")
    (build,) = release.models
    return release, build


def kept(text: str) -> str:
    return "".join(c for c in readable(text) if c.isprintable() or c in "\n\t")


# ------------------------------------------------------------------------------------ tests
def test_a_plain_model() -> None:
    release, build = made(CHAT)
    assert build.name.startswith("ogen/chat:")
    assert build.source == "llama3.1:8b-instruct-q4_K_M"
    assert build.request == {"from": build.source, "parameters": {"num_ctx": 8192}}
    assert text_of(release, PATH.format("chat")).splitlines()[1:] == [
        f"FROM {build.source}",
        "PARAMETER num_ctx 8192",
    ]
    views = [view.path.split("/manifests/")[1] for view in release.views]
    assert views == [
        "registry.ollama.ai/library/chat/latest",
        "registry.ollama.ai/library/gpt-4o-mini/latest",
        "registry.ollama.ai/library/llama3.1/8b",
    ]
    assert {view.model for view in release.views} == {build.name}


def test_everything_a_modelfile_holds() -> None:
    model = replace(
        CHAT,
        system="Be brief.\nBe kind.",
        template="{{ .Prompt }}",
        license="MIT",
        messages=(Message("user", "hi"), Message("assistant", "Hello # there")),
        parameters={
            "stop": ("<|end|>", "# x", " "),
            "temperature": 0.5,
            "seed": 7,
            "flag": True,
            "num_ctx": 1,
        },
    )
    release, build = made(model, batch=256, num_gpu=20, main_gpu=0, use_mmap=False)
    text = text_of(release, PATH.format("chat"))
    assert parse(text) == [
        ("from", build.source),
        ("parameter flag", "true"),
        ("parameter num_ctx", "8192"),
        ("parameter seed", "7"),
        ("parameter stop", "<|end|>"),
        ("parameter stop", "# x"),
        ("parameter stop", " "),
        ("parameter temperature", "0.5"),
        ("parameter num_batch", "256"),
        ("parameter num_gpu", "20"),
        ("parameter main_gpu", "0"),
        ("parameter use_mmap", "false"),
        ("template", "{{ .Prompt }}"),
        ("system", "Be brief.\nBe kind."),
        ("license", "MIT"),
        ("message user", "hi"),
        ("message assistant", "Hello # there"),
    ]
    assert build.request["parameters"]["stop"] == ["<|end|>", "# x", " "]
    assert build.request["parameters"]["use_mmap"] is False
    assert "modelfile" not in build.request


def test_the_name_follows_from_the_content() -> None:
    names = {made(CHAT)[1].name, made(CHAT)[1].name}
    assert len(names) == 1
    moved = Lock(digests={"llama3.1:8b-instruct-q4_K_M": "ab" * 32})
    other = [
        made(replace(CHAT, system="x"))[1].name,
        made(CHAT, context=4096)[1].name,
        made(CHAT, lock=moved)[1].name,
        made(replace(CHAT, sources=(Source(None, "llama3.1:70b"),)))[1].name,
    ]
    assert len({*names, *other}) == 5
    assert made(replace(CHAT, aliases=()))[1].name in names, "an alias is another manifest, not another model"


def test_a_file_stands_for_its_digest() -> None:
    model = replace(CHAT, sources=(Source(None, "./my/model.gguf"),), adapter="lora.gguf")
    release, build = made(
        model, lock=Lock(digests={"./my/model.gguf": "ab" * 32}, sizes={"./my/model.gguf": 7})
    )
    assert build.source == "sha256:" + "ab" * 32
    assert build.size == 7
    assert build.request["files"] == {"model.gguf": build.source}
    assert build.request["adapters"] == {"lora.gguf": "lora.gguf"}
    assert "from" not in build.request
    assert parse(text_of(release, PATH.format("chat")))[:2] == [
        ("from", "./my/model.gguf"),
        ("adapter", "lora.gguf"),
    ]
    assert made(model)[1].request["files"] == {"model.gguf": "./my/model.gguf"}


def test_two_settings_of_one_model_have_two_modelfiles() -> None:
    both = [instance((card(0),)), instance((card(1),), [placement(context=4096)]), instance((card(2),))]
    (release,) = render(make_plan(both), host="gpu1")
    assert len(release.models) == 2
    assert [path.rsplit("/", 1)[1] for path in paths_of(release) if path.endswith(".Modelfile")] == [
        "chat-gpu1.Modelfile",
        "chat.Modelfile",
    ]
    assert "num_ctx 4096" in text_of(release, PATH.format("chat-gpu1"))
    assert len(release.views) == 9


def test_names_of_manifests() -> None:
    assert manifest_path("ns/chat") == "registry.ollama.ai/ns/chat/latest"
    assert manifest_path("hf.co/a/b:Q4") == "hf.co/a/b/Q4"
    for bad in (
        "",
        "../x",
        "a/../b",
        "a:b/c",
        "/x",
        "a//b",
        "a/b/c/d",
        "x:",
        "a b",
        "é",
        "x" * 200,
        "..",
        "a:..",
    ):
        with pytest.raises(RenderError):
            manifest_path(bad)


QUOTED = st.lists(
    st.sampled_from(
        ['"', '"""', "\n", " ", "\t", "\r\n", "\u200b", "a", "# x", "FROM y", "\\", "SYSTEM ", "\x00"]
    ),
    max_size=14,
).map("".join)
TEXT = QUOTED | st.text(max_size=80)


@given(TEXT, TEXT, TEXT, TEXT)
def test_any_text_is_inert(system: str, message: str, stop: str, template: str) -> None:
    model = Model(
        "m",
        (Source(None, "x:1"),),
        Context(4096, 4096),
        system=system,
        template=template,
        messages=(Message("user", message),),
        parameters={"stop": (stop,)},
    )
    release, build = made(model)
    text = text_of(release, PATH.format("m"))
    wanted = [("from", "x:1"), ("parameter stop", stop), ("parameter num_ctx", "4096")]
    wanted += [("template", template)] if template else []
    wanted += [("system", system)] if system else []
    wanted += [("message user", message)]
    found = parse(text)
    assert [name for name, _ in found] == [name for name, _ in wanted]
    replaced = "ends in three quotes" in text
    for (_, read), (_, written) in zip(found, wanted, strict=True):
        assert read == kept(written) or replaced
    if not replaced:
        assert build.request["messages"] == [{"role": "user", "content": message}]


def test_text_that_is_no_utf8_is_an_error() -> None:
    with pytest.raises(RenderError, match="UTF-8"):
        made(replace(CHAT, system="\ud800"))
