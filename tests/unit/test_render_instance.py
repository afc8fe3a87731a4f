"""Units: what each era gets, how free text is written, what systemd says of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rendering import (
    CHAT,
    SERVER,
    card,
    check_units,
    host_of,
    instance,
    make_plan,
    paths_of,
    placement,
    pool,
    run,
    systemd_root,
    text_of,
)

from ogen.errors import RenderError
from ogen.inventory.model import Archive, Balancer, Host, Monitoring, Ollama
from ogen.plan.model import Instance, Member
from ogen.release.model import Release
from ogen.render import render
from ogen.render.escape import environment

UNIT = "/etc/systemd/system/ogen-ollama-{}.service"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return systemd_root(tmp_path_factory.mktemp("root"))


def release_of(*instances: Instance, host: Host | None = None, **values: Any) -> Release:
    (found,) = render(make_plan(instances, host=host, **values), host="gpu1")
    return found


def variables(release: Release, name: str = "gpu0") -> dict[str, str]:
    """The environment of an instance's unit, for values that need no quotes."""
    lines = re.findall(
        r"^Environment=([A-Z0-9_a-z]+)=(.*)$", text_of(release, UNIT.format(name)), re.MULTILINE
    )
    return dict(lines)


def test_the_program_that_ogen_installs() -> None:
    installed = host_of("0.33.0", source=(Archive(file="x.tgz"),))
    found = release_of(instance(), host=installed)
    program = "/opt/ogen/ollama/0.33.0/bin/ollama"
    assert f"ExecStart={program} serve\n" in text_of(found, UNIT.format("gpu0"))
    unit = text_of(found, "/etc/ogen/current/librarian/ogen-librarian.service")
    assert f"ExecStart={program} serve\n" in unit
    assert found.librarian["program"] == program
    assert "program" not in release_of(instance()).librarian


def test_one_card_in_era_c() -> None:
    found = variables(release_of(instance()))
    assert found.pop("OGEN_MODELS").startswith("ogen/chat:")
    assert len(found.pop("OGEN_UNIT_HASH")) == 16
    assert found == {
        "HOME": "/var/lib/ogen/gpu0",
        "CUDA_CACHE_PATH": "/var/lib/ogen/gpu0/cuda",
        "OLLAMA_HOST": "127.0.0.1:11434",
        "OLLAMA_MODELS": "/run/ogen-gpu0/models",
        "OLLAMA_NOPRUNE": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OLLAMA_VULKAN": "0",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_LOAD_TIMEOUT": "5m",
        "OLLAMA_NO_CLOUD": "1",
    }


def test_what_each_era_does_not_know() -> None:
    server = replace(SERVER, kv_on_host=True, experts_on_host=7, split="row", shares=(3.0, 1.0))
    cards = (card(0, reserve=1 << 30), card(1))
    of = {
        version: variables(release_of(instance(cards, server=server), host=host_of(version)), "gpu0-1")
        for version in ("0.12.10", "0.12.11", "0.30.0")
    }
    levers = {
        "LLAMA_ARG_KV_OFFLOAD": "0",
        "LLAMA_ARG_N_CPU_MOE": "7",
        "LLAMA_ARG_SPLIT_MODE": "row",
        "LLAMA_ARG_TENSOR_SPLIT": "3,1",
        "LLAMA_ARG_FIT_TARGET": "2048,1024",
        "OLLAMA_NO_CLOUD": "1",
    }
    assert levers.items() <= of["0.30.0"].items()
    assert "OLLAMA_GPU_OVERHEAD" not in of["0.30.0"], "it reserves nothing any more"
    for old in ("0.12.10", "0.12.11"):
        assert not levers.keys() & of[old].keys()
        assert of[old]["OLLAMA_GPU_OVERHEAD"] == str(1 << 30)
    assert ["OLLAMA_VULKAN" in of[version] for version in of] == [False, True, True]
    assert all(found["OLLAMA_SCHED_SPREAD"] == "1" for found in of.values())


def test_cards_by_uuid_amd_and_none() -> None:
    by_uuid = variables(release_of(instance((card(1, uuid="GPU-5c8e"),))), "gpu1")
    assert by_uuid["CUDA_VISIBLE_DEVICES"] == "GPU-5c8e"
    assert "CUDA_DEVICE_ORDER" not in by_uuid
    half_known = instance((card(0, uuid="GPU-5c8e"), card(1)))
    assert variables(release_of(half_known), "gpu0-1")["CUDA_VISIBLE_DEVICES"] == "0,1"
    amd = release_of(instance((card(0, "amd"),)))
    assert variables(amd)["ROCR_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in variables(amd)
    text = text_of(amd, UNIT.format("gpu0"))
    assert "DeviceAllow=/dev/kfd rw\nDeviceAllow=char-drm rw\n" in text
    assert "SupplementaryGroups=render video\n" in text
    none = release_of(instance(()))
    assert variables(none, "cpu")["CUDA_VISIBLE_DEVICES"] == "-1"
    assert "DeviceAllow" not in text_of(none, UNIT.format("cpu"))


def test_a_quantised_cache_brings_flash_attention() -> None:
    found = variables(release_of(instance(server=replace(SERVER, kv_cache="q8_0", flash_attention=False))))
    assert (found["OLLAMA_KV_CACHE_TYPE"], found["OLLAMA_FLASH_ATTENTION"]) == ("q8_0", "1")


def test_only_balancers_get_through() -> None:
    pools = [pool("chat", [Member("gpu1", "gpu0", "192.0.2.11", 11434, 2)])]
    balancers = [(Balancer("api", "edge"), pools)]

    def unit(edge: Host, host: Host | None = None) -> str:
        return text_of(release_of(instance(), balancers=balancers, edge=edge, host=host), UNIT.format("gpu0"))

    away = unit(Host("edge", "edge.example", data_address="192.0.2.10"))
    assert "OLLAMA_HOST=0.0.0.0:11434\n" in away
    assert "IPAddressDeny=any\nIPAddressAllow=localhost\nIPAddressAllow=192.0.2.10\n" in away
    assert "OLLAMA_HOST=[::]:11434\n" in unit(Host("edge", "2001:db8::1"))
    alone = Host("gpu1", "192.0.2.11")
    for here in (unit(alone, alone), unit(Host("edge", "127.0.0.1")), unit(Host("edge", "localhost"))):
        assert "OLLAMA_HOST=127.0.0.1:11434\n" in here
        assert here.count("IPAddressAllow=") == 1
    with pytest.raises(RenderError, match=r"known by name: edge\.example .*data_address"):
        unit(Host("edge", "edge.example"))


def test_the_hash_tells_what_must_restart() -> None:
    def hashes(model_context: int = 8192, **values: Any) -> list[str]:
        made = release_of(
            instance((card(0),)), instance((card(1),), [placement(context=model_context)], **values)
        )
        for unit in made.units:
            if unit.kind == "instance":
                text = text_of(made, f"/etc/systemd/system/{unit.name}")
                assert text.endswith(f"\nEnvironment=OGEN_UNIT_HASH={unit.hash}\n")
        return [unit.hash for unit in made.units if unit.kind == "instance"]

    before = hashes()
    assert hashes() == before
    for after in (hashes(4096), hashes(env={"A": "1"}), hashes(server=replace(SERVER, parallel=3))):
        assert after[0] == before[0]
        assert after[1] != before[1]


def test_who_may_talk_to_an_instance_is_no_reason_to_restart_it() -> None:
    balancers = [(Balancer("api", "edge"), [pool("chat", [Member("gpu1", "gpu0", "192.0.2.11", 11434, 2)])])]
    first, second = (
        release_of(instance(), balancers=balancers, edge=Host("edge", address))
        for address in ("192.0.2.10", "192.0.2.99")
    )
    texts = [text_of(one, UNIT.format("gpu0")) for one in (first, second)]
    assert texts[0] != texts[1]
    assert texts[0].replace("192.0.2.10", "192.0.2.99") == texts[1]
    assert first.units == second.units
    assert first.id != second.id
    assert [one.instances[0].admits for one in (first, second)] == [("192.0.2.10",), ("192.0.2.99",)]


def test_own_variables_cannot_be_taken() -> None:
    with pytest.raises(RenderError, match="OLLAMA_MODELS is ogen's own"):
        release_of(instance(env={"OLLAMA_MODELS": "/x"}))
    merged = release_of(
        instance(env={"C": "instance"}),
        host=Host(
            "gpu1",
            "192.0.2.11",
            env={"B": "host", "C": "host"},
            ollama=Ollama(env={"A": "all", "B": "all", "OLLAMA_KEEP_ALIVE": "1h"}),
        ),
    )
    found = variables(merged)
    assert [found[name] for name in ("A", "B", "C", "OLLAMA_KEEP_ALIVE")] == ["all", "host", "instance", "1h"]


@pytest.mark.parametrize("version", ["0.9.6", "0.13.0", "0.32.15"])
def test_systemd_takes_every_unit(version: str, root: Path, need: Callable[[str], str]) -> None:
    need("systemd-analyze")
    pools = [pool("chat", [Member("gpu1", "gpu0", "192.0.2.11", 11434, 2)])]
    every = (instance((card(0),)), instance((card(1, "amd"), card(2, "amd"))), instance((), ()))
    plan = make_plan(every, [(Balancer("api", "edge"), pools)], host=host_of(version))
    for release in render(plan):
        check_units(release, root)


def test_a_bad_unit_would_be_seen(root: Path, need: Callable[[str], str]) -> None:
    need("systemd-analyze")
    release = release_of(instance())
    broken = [
        replace(f, content=f.content.replace(b"UMask=0027", b"UMask=what")) if "ollama-gpu0" in f.path else f
        for f in release.files
    ]
    with pytest.raises(AssertionError, match="what"):
        check_units(replace(release, files=tuple(broken)), root)


def test_exposure_is_small(root: Path, need: Callable[[str], str], tmp_path: Path) -> None:
    need("systemd-analyze")
    balancers = [(Balancer("api", "edge"), [pool("chat", [Member("gpu1", "gpu0", "192.0.2.11", 11434, 2)])])]
    scores = {}
    for release in render(make_plan([instance(), instance((card(1, "amd"),))], balancers)):
        for file in release.files:
            if file.path.endswith(".service"):
                unit = tmp_path / Path(file.path).name
                unit.write_bytes(file.content)
                _, output = run("systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit))
                found = re.search(r"exposure level for \S+: ([\d.]+)", output)
                assert found, output
                scores[unit.name] = float(found[1])
    assert len(scores) == 9
    assert max(scores.values()) <= 3.0, scores


def test_monitoring_may_be_left_out() -> None:
    quiet = release_of(instance(), host=Host("gpu1", "192.0.2.11", monitoring=Monitoring(enabled=False)))
    assert not [path for path in paths_of(quiet) if "monitor" in path or "logrotate" in path]
    assert "ogen-monitor.service" not in [unit.name for unit in quiet.units]


# ------------------------------------------------------------------------------ hostile text
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def unquoted(line: str) -> list[str]:
    """What systemd makes of the right side of Environment=: words, C escapes, then specifiers."""
    words, rest = [], line
    while rest:
        match = re.match(r'"((?:[^"\\]|\\.)*)"(?: |$)|([^ "\\]+)(?: |$)', rest)
        assert match, f"systemd would not read {rest!r}"
        quoted, plain = match.groups()
        word = (
            plain
            if quoted is None
            else re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), quoted)
        )
        assert not re.search(r"(?<!%)(?:%%)*%(?!%)", word), "a specifier"
        words.append(word.replace("%%", "%"))
        rest = rest[match.end() :]
    return words


def unwritable_variable(text: str) -> bool:
    """Control characters and code points that systemd takes for bad UTF-8."""
    bad = re.search(r"[\x00-\x08\x0b-\x1f\x7f\ufdd0-\ufdef]", text)
    return bool(bad) or any(ord(c) & 0xFFFE == 0xFFFE for c in text)


@given(TEXT)
def test_any_variable_comes_out_as_it_went_in(text: str) -> None:
    if unwritable_variable(text):
        with pytest.raises(RenderError):
            environment(f"X={text}")
        return
    line = environment(f"X={text}")
    assert "\n" not in line
    assert unquoted(line) == [f"X={text}"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, TEXT, TEXT)
def test_systemd_takes_any_text(
    root: Path, need: Callable[[str], str], value: str, reason: str, model: str
) -> None:
    need("systemd-analyze")
    named = replace(CHAT, system=reason, template=model, license=value)
    one = instance((replace(card(), model=model or "x"),), [placement(named)], env={"X": value})
    host = Host("gpu1", "192.0.2.11", reason=reason)
    if unwritable_variable(value):
        with pytest.raises(RenderError, match="control character"):
            release_of(one, host=host)
        return
    release = release_of(one, host=host)
    check_units(release, root)
    found = text_of(release, UNIT.format("gpu0")).splitlines()
    assert [line for line in found if line.startswith("ExecStart")] == [
        "ExecStart=/usr/local/bin/ollama serve"
    ]
    assert sum(line.startswith("[") for line in found) == 3
