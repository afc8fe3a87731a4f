"""The way from files to an Inventory: short forms, defaults, groups, ranges, cards, folders of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from ogen.errors import OgenError, Problems
from ogen.inventory import Context, Host, Inventory, Message, Model, Secret, load
from ogen.inventory.model import Ollama

GIB = 2**30


def written(folder: Path, text: str, name: str = "inventory.yaml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dedent(text))
    return file


def loaded(folder: Path, text: str) -> Inventory:
    return load(written(folder, text))


def model(folder: Path, *lines: str) -> Model:
    """A model `m` with these lines."""
    body = "".join(f"    {line}\n" for line in lines)
    hosts = "hosts: {h: {address: 192.0.2.1, gpus: [{model: RTX 3090, count: 2}]}}"
    return load(written(folder, f"version: 1\nmodels:\n  m:\n{body}{hosts}\n")).models[0]


def host(folder: Path, *lines: str, top: str = "") -> Host:
    body = "".join(f"    {line}\n" for line in lines)
    text = (
        f"version: 1\n{top}models: {{chat: {{from: llama3}}}}\nhosts:\n  h:\n    address: 192.0.2.1\n{body}"
    )
    return load(written(folder, text)).hosts[0]


# ---------------------------------------------------------------------------------------- models
def test_a_model_with_everything(tmp_path: Path) -> None:
    found = model(
        tmp_path,
        "from: {Q8_0: hf.co/a/b:Q8_0, Q4_K_M: ./m.gguf}",
        "context: {want: 8192, at_least: 2048}",
        "parallel: 2",
        "replicas: 1",
        "on: [h]",
        "aliases: [gpt-4o-mini, 'llama3.1:8b']",
        "kv_cache: q8_0",
        "gpus_per_replica: 2",
        "split: row",
        "shares: [3, 1]",
        "concessions: [context, kv_cache]",
        "system: |\n      Two\n      lines",
        "template: '{{ .Prompt }}'",
        "adapter: lora/x.gguf",
        "messages: [{role: user, content: hi}]",
        "parameters: {temperature: 0.5, top_k: 10, stop: '###'}",
        "keep_alive: -1",
        "residency: on_demand",
        "use_mmap: false",
    )
    assert [(s.quant, s.ref) for s in found.sources] == [("Q8_0", "hf.co/a/b:Q8_0"), ("Q4_K_M", "./m.gguf")]
    assert found.context == Context(8192, 2048)
    assert found.aliases == ("gpt-4o-mini", "llama3.1:8b")
    assert found.shares == (3.0, 1.0)
    assert found.system == "Two\nlines\n"
    assert found.messages == (Message("user", "hi"),)
    assert found.parameters == {"temperature": 0.5, "top_k": 10, "stop": ("###",)}
    assert (found.on, found.keep_alive, found.residency, found.use_mmap) == ("h", "-1", "on_demand", False)
    assert found.where is not None
    assert (found.where.line, found.where.column) == (3, 3)


def test_the_articles_words(tmp_path: Path) -> None:
    found = model(
        tmp_path,
        "from: llama2:13b",
        "num_gpu: 30",
        "low_vram: true",
        "num_ctx: 2048",
        "num_batch: 256",
        "main_gpu: 0",
    )
    assert found.context == Context(2048, 2048)
    assert (found.batch, found.num_gpu, found.low_vram, found.main_gpu) == (256, 30, True, 0)


def test_num_gpu_of_minus_one_is_automatic(tmp_path: Path) -> None:
    assert model(tmp_path, "from: llama3", "num_gpu: -1").num_gpu is None
    assert model(tmp_path, "from: llama3", "num_gpu: 0").num_gpu == 0


@pytest.mark.parametrize(
    ("written_as", "means"),
    [("8192", (8192, 8192)), ("{want: 8192}", (8192, 8192)), ("{want: 8192, at_least: 1024}", (8192, 1024))],
)
def test_contexts(written_as: str, means: tuple[int, int], tmp_path: Path) -> None:
    assert model(tmp_path, "from: llama3", f"context: {written_as}").context == Context(*means)


def test_sources_in_order(tmp_path: Path) -> None:
    assert [s.ref for s in model(tmp_path, "from: [b:q8_0, a:q4_0]").sources] == ["b:q8_0", "a:q4_0"]
    assert [s.ref for s in model(tmp_path, "from: hf.co/library/llama3:8b").sources] == [
        "hf.co/library/llama3:8b"
    ]


@pytest.mark.parametrize(
    "text",
    [
        '}" ; $(id) `id` %h $host',
        "{{ x }}{% y %}",
        "# no comment",
        "a: b",
        'three """ quotes',
        "FROM evil\nSYSTEM evil",
        "tab\tand\n\nlines",
        "\\ and '",
        "שלום 你好 🦙",
        "\u202e",
    ],
)
def test_free_text_is_taken_as_it_is(text: str, tmp_path: Path) -> None:
    """What is legal text stays whole: the renderer quotes it."""
    quoted = json.dumps(text, ensure_ascii=False)
    found = model(tmp_path, "from: llama3", f"system: {quoted}", f"template: {quoted}", f"license: {quoted}")
    assert (found.system, found.template, found.license) == (text, text, text)


# ----------------------------------------------------------------------------------------- hosts
def test_defaults_groups_and_host_merge(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """\
        version: 1
        ssh: {user: ops, become: true}
        ollama: {version: 0.32.15, env: {A: top, B: top}}
        groups:
          boxes: {hosts: [a, b], ssh: {port: 2222}, ollama: {env: {B: group, C: 1}}, env: {X: "1"}}
        hosts:
          a: {address: 192.0.2.1, ollama: {version: 0.9, env: {C: host}}, ssh: {user: root}}
          b: {address: 192.0.2.2}
        """,
    )
    a, b = found.hosts
    assert (a.ssh.user, a.ssh.port, a.ssh.become) == ("root", 2222, True)
    assert (b.ssh.user, b.ssh.port) == ("ops", 2222)
    assert a.ollama == Ollama(version="0.9", env={"A": "top", "B": "group", "C": "host"})
    assert b.ollama.env == {"A": "top", "B": "group", "C": "1"}
    assert (a.groups, a.env) == (("boxes",), {"X": "1"})
    assert found.groups == {"boxes": ("a", "b")}


def test_a_version_that_looks_like_a_number(tmp_path: Path) -> None:
    assert host(tmp_path, "ollama: {version: 0.30}").ollama.version == "0.30"


def test_where_ollama_comes_from(tmp_path: Path) -> None:
    text = """\
        version: 1
        ollama: {version: 0.33.0, source: {file: "dist/{version}.tgz"}}
        hosts:
          a: {address: 192.0.2.1}
          b: {address: 192.0.2.2, ollama: {version: 0.32.15, source: []}}
          c:
            address: 192.0.2.3
            ollama: {source: [{url: "https://x/{version}", sha256: {0.33.0: %s}}, {file: more.tgz}]}
        """
    a, b, c = (host.ollama for host in loaded(tmp_path, text % ("a" * 64)).hosts)
    assert [(one.at("0.33.0"), one.digest("0.33.0")) for one in a.source] == [("dist/0.33.0.tgz", None)]
    assert a.program == "/opt/ogen/ollama/0.33.0/bin/ollama"
    assert (b.source, b.program) == ((), "/usr/local/bin/ollama")
    assert [one.at("0.33.0") for one in c.source] == ["https://x/0.33.0", "more.tgz"]
    assert (c.source[0].digest("0.33.0"), c.source[0].digest("0.32.15")) == ("a" * 64, None)


def test_ranges_advance_together_and_the_host_itself_wins(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """\
        version: 1
        hosts:
          gpu03: {ssh: {port: 99}}
          "gpu[01:04]":
            address: "192.0.2.[11:14]"
            data_address: "10.0.0.[1:4]"
            ssh: {port: 22}
        """,
    )
    assert [(h.name, h.address, h.data_address, h.ssh.port) for h in found.hosts] == [
        ("gpu03", "192.0.2.13", "10.0.0.3", 99),
        ("gpu01", "192.0.2.11", "10.0.0.1", 22),
        ("gpu02", "192.0.2.12", "10.0.0.2", 22),
        ("gpu04", "192.0.2.14", "10.0.0.4", 22),
    ]


def test_cards(tmp_path: Path) -> None:
    found = host(
        tmp_path,
        "gpus:",
        "  - RTX 3090",
        "  - {model: rtx 4090, count: 2, reserve: 512MiB}",
        "  - {model: RTX 3060, vram: 8GiB, uuid: GPU-0f3c}",
        "  - {model: My Own Card, vram: 16GiB, vendor: amd}",
    ).gpus
    assert [(g.index, g.model, g.vendor) for g in found] == [
        (0, "RTX 3090", "nvidia"),
        (1, "RTX 4090", "nvidia"),
        (2, "RTX 4090", "nvidia"),
        (3, "RTX 3060", "nvidia"),
        (4, "My Own Card", "amd"),
    ]
    assert (found[3].vram, found[3].uuid, found[1].reserve, found[4].vram) == (
        8 * GIB,
        "GPU-0f3c",
        GIB // 2,
        16 * GIB,
    )
    assert found[0].where is not None


def test_no_cards(tmp_path: Path) -> None:
    assert host(tmp_path, "gpus: []").gpus == ()
    assert host(tmp_path, "gpus: []", "instances: [{gpus: [], models: chat}]").pins[0].gpus == ()


def test_overrides_change_cards_by_number(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """\
        version: 1
        groups: {boxes: {hosts: ["gpu[1:3]"], gpus: [{model: RTX 3090, count: 2}]}}
        hosts:
          "gpu[1:3]": {address: "192.0.2.[1:3]"}
          gpu2: {gpus: {1: {state: out, reason: fan}}}
          gpu3: {gpus: {2: {model: L4}}}
        """,
    )
    assert [[(g.index, g.model, g.state) for g in h.gpus] for h in found.hosts] == [
        [(0, "RTX 3090", "in"), (1, "RTX 3090", "in")],
        [(0, "RTX 3090", "in"), (1, "RTX 3090", "out")],
        [(0, "RTX 3090", "in"), (1, "RTX 3090", "in"), (2, "L4", "in")],
    ]
    assert found.host("gpu2").gpus[1].reason == "fan"


def test_pins(tmp_path: Path) -> None:
    found = host(
        tmp_path,
        "gpus: [{model: RTX 3090, count: 3}]",
        "instances:",
        "  - {gpus: [1, 0], models: [chat], low_vram: true, num_gpu: -1, context: 4096}",
        "  - {gpus: 2, models: chat, port: 12000, env: {A: 1}}",
    ).pins
    assert [(p.gpus, p.models, p.port, p.low_vram, p.num_gpu, p.context, p.env) for p in found] == [
        ((0, 1), ("chat",), None, True, None, 4096, {}),
        ((2,), ("chat",), 12000, None, None, None, {"A": "1"}),
    ]


def test_hosts_of_groups_of_groups(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """\
        version: 1
        groups:
          all-boxes: {hosts: ["@left", "@right", "!b"], monitoring: {interval: 9s}}
          left: {hosts: [a]}
          right: {hosts: ["b*", c]}
        hosts:
          a: {address: 192.0.2.1}
          b: {address: 192.0.2.2}
          c: {address: 192.0.2.3}
          d: {address: 192.0.2.4}
        """,
    )
    assert found.groups == {"all-boxes": ("a", "c"), "left": ("a",), "right": ("b", "c")}
    assert [h.monitoring.interval for h in found.hosts] == [9.0, 5.0, 9.0, 5.0]


def test_local_needs_no_address(tmp_path: Path) -> None:
    found = loaded(tmp_path, "version: 1\nhosts: {me: {connection: local, root: image/root}}\n").hosts[0]
    assert (found.address, found.connection, found.root) == ("127.0.0.1", "local", "image/root")


def test_groups_that_agree_may_say_it_twice(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """\
        version: 1
        groups:
          a: {hosts: [h], monitoring: {interval: 60s}}
          b: {hosts: [h], monitoring: {interval: 1m}}
        hosts: {h: {address: 192.0.2.1}}
        """,
    )
    assert found.hosts[0].monitoring.interval == 60


# ------------------------------------------------------------------------------------- balancers
def test_a_balancer_with_everything(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        """\
        version: 1
        models: {chat: {from: llama3}}
        hosts: {edge: {address: 192.0.2.1}, edge2: {address: 192.0.2.2}}
        balancers:
          api:
            hosts: [edge, edge2]
            listen: 443
            address: 192.0.2.1
            strategy: hash
            hash_key: header:X-Team
            routing: per_port
            ports: {chat: 9000}
            fail_timeout: 30s
            read_timeout: 2h
            max_body: 1GiB
            keys: !env OGEN_KEYS
            tls: {certificate: /etc/ssl/a.pem, key: /etc/ssl/a.key}
            allow: [10.0.0.0/8, "2001:db8::/32"]
            client_options: {allow: [seed], max_context: 4096}
            into: conf.d
        rollout: {batches: [1, 25%], max_fail: 10%, drain_timeout: 1m}
        """,
    )
    api = found.balancers[0]
    assert (api.hosts, api.hash_key, api.ports) == ("edge,edge2", "header:X-Team", {"chat": 9000})
    assert (api.fail_timeout, api.read_timeout, api.max_body) == (30.0, 7200.0, GIB)
    assert api.keys == Secret("env", "OGEN_KEYS")
    assert api.tls is not None
    assert api.allow == ("10.0.0.0/8", "2001:db8::/32")
    assert (api.client_options.allow, api.client_options.max_context) == (("seed",), 4096)
    assert (found.rollout.batches, found.rollout.max_fail) == ((1, "25%"), "10%")


def test_secrets_stay_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OGEN_TEST_PASSWORD", "hunter2")
    top = "ssh: {password: !env OGEN_TEST_PASSWORD, become_password: !command [pass, show, 'a b']}\n"
    found = host(tmp_path, top=top)
    assert found.ssh.password == Secret("env", "OGEN_TEST_PASSWORD")
    assert found.ssh.become_password == Secret("command", ("pass", "show", "a b"))
    assert "hunter2" not in repr(found)


def test_two_balancers_on_one_port_of_two_addresses(tmp_path: Path) -> None:
    text = (
        "version: 1\nhosts: {e: {address: 192.0.2.1}}\nbalancers:\n"
        "  a: {hosts: [e], address: 192.0.2.1, listen: 80}\n"
        "  b: {hosts: [e], address: 192.0.2.2, listen: 80}\n"
    )
    assert len(loaded(tmp_path, text).balancers) == 2


# ------------------------------------------------------------------------------ folders of files
def test_a_folder_is_one_inventory(tmp_path: Path) -> None:
    written(tmp_path, "version: 1\nssh: {user: ops}\nmodels: {a: {from: llama3}}\n", "10-models.yaml")
    written(tmp_path, "version: 1\nssh: {become: true}\nmodels: {b: {from: llama3}}\n", "20-more.yml")
    written(tmp_path, "hosts: {h: {address: 192.0.2.1}}\n", "hosts.yaml")
    written(tmp_path, "never: read\n", ".hidden.yaml")
    written(tmp_path, "never: read\n", "playbooks/apply.yaml")
    written(tmp_path, "version: 1\nhosts: {h: {ollama: 0.32.1}}\n", "inventory.lock.yaml")
    found = load(tmp_path)
    assert [m.name for m in found.models] == ["a", "b"]
    assert (found.hosts[0].ssh.user, found.hosts[0].ssh.become) == ("ops", True)
    assert found.folder == str(tmp_path)
    assert found.lock is not None
    assert found.lock.versions == {"h": "0.32.1"}


def test_the_same_thing_in_two_files(tmp_path: Path) -> None:
    written(tmp_path, "version: 1\nssh: {user: a}\nhosts:\n  h: {address: 192.0.2.1}\n", "a.yaml")
    written(tmp_path, "version: 1\nssh: {user: b}\nhosts:\n  h: {address: 192.0.2.2}\n", "b.yaml")
    with pytest.raises(Problems) as caught:
        load(tmp_path)
    told = [(str(e.where), e.message, e.hint) for e in caught.value.errors]
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    assert told == [
        (f"{b}:2:7", "'ssh.user' is defined twice", f"the first one is at {a}:2:7; keep one"),
        (f"{b}:4:3", "'hosts.h' is defined twice", f"the first one is at {a}:4:3; keep one"),
    ]


def test_mistakes_of_all_files_are_told(tmp_path: Path) -> None:
    written(tmp_path, "version: 1\na: [\n", "a.yaml")
    written(tmp_path, "b: 1\nb: 2\n", "b.yaml")
    with pytest.raises(Problems) as caught:
        load(tmp_path)
    assert [e.where.file for e in caught.value.errors if e.where] == [
        str(tmp_path / n) for n in ("a.yaml", "b.yaml")
    ]


def test_a_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(OgenError, match=r"no \*\.yaml"):
        load(tmp_path)


def test_a_link_inside_of_the_folder_is_fine(tmp_path: Path) -> None:
    written(tmp_path, "version: 1\nhosts: {h: {address: 192.0.2.1}}\n", "real/x.txt")
    (tmp_path / "inventory.yaml").symlink_to("real/x.txt")
    assert load(tmp_path / "inventory.yaml").hosts[0].name == "h"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "inventory.yaml")
    with pytest.raises(OgenError, match="not a file"):
        load(tmp_path / "inventory.yaml")


# ----------------------------------------------------------------------------------------- speed
def fleet(hosts: int) -> str:
    """An inventory of hosts with eight cards each, no two alike."""
    cards = ("RTX 3090", "RTX 4090", "RTX 3060", "A100 80GB", "L4", "RTX 3080", "RTX 4080", "A100 40GB")
    lines = ["version: 1", "models: {chat: {from: llama3.1:8b, context: 8192}}", "groups:"]
    for first in range(0, hosts, 20):
        lines.append(
            f'  rack{first}: {{hosts: ["h[{first:05}:{first + 19:05}]"], monitoring: {{interval: 7s}}}}'
        )
    lines.append("hosts:")
    for number in range(hosts):
        lines += [f"  h{number:05}:", f"    address: 10.0.{number // 250}.{number % 250}", "    gpus:"]
        lines += [
            f"      - {{model: {cards[(number + card) % 8]}, uuid: GPU-{number:08x}-{card}, "
            f"reserve: {100 + number * 8 + card}MiB}}"
            for card in range(8)
        ]
    return "\n".join(lines) + "\n"


def test_a_thousand_hosts(tmp_path: Path) -> None:
    file = written(tmp_path, fleet(1000))
    found = load(file)
    assert (len(found.hosts), sum(len(h.gpus) for h in found.hosts)) == (1000, 8000)


def test_what_loading_imports(tmp_path: Path) -> None:
    """A small file is loaded in the time of a few imports: none of them is the heavy ones."""
    file = written(tmp_path, "version: 1\nhosts: {h: {address: 192.0.2.1, gpus: [RTX 3090]}}\n")
    program = (
        "import sys\nfrom ogen.inventory import load\nload(sys.argv[1])\n"
        "print([n for n in ('paramiko', 'rich', 'jinja2', 'click', 'jsonschema') if n in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
