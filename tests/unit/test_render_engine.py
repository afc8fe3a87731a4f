"""Templates: whose they are, which line failed, and what hostile ones can't do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rendering import CHAT, card, instance, make_plan, placement, pool, text_of

from ogen.errors import RenderError, Text, Where
from ogen.inventory.model import Balancer
from ogen.plan.model import Member
from ogen.render import render
from ogen.render.engine import MAX_SOURCE, Engine
from ogen.render.sandbox import MAX_OUTPUT

WHERE = Where(Text("inventory.yaml", ["models:", "  chat: {}"]), 2, 3)


def project(folder: Path, **templates: str) -> Engine:
    (folder / "templates").mkdir(exist_ok=True)
    for name, text in templates.items():
        (folder / "templates" / f"{name}.j2").write_text(text)
    return Engine(str(folder))


def failure(folder: Path, text: str, **values: Any) -> RenderError:
    with pytest.raises(RenderError) as caught:
        project(folder, t=text).render("t.j2", values, WHERE)
    return caught.value


def test_the_projects_own_template_wins(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "ogen.target.j2").write_text("[Unit]\nDescription=mine on {{ host }}\n")
    (tmp_path / "templates" / "preload.py").write_text("#!/usr/bin/python3\n")
    (release,) = render(make_plan([instance()], folder=str(tmp_path)), host="gpu1")
    assert text_of(release, "/etc/systemd/system/ogen.target") == "[Unit]\nDescription=mine on gpu1\n"
    assert text_of(release, "/etc/ogen/current/bin/preload.py") == "#!/usr/bin/python3\n"
    assert "ollama serve" in text_of(release, "/etc/systemd/system/ogen-ollama-gpu0.service")


def test_an_error_names_both_lines(tmp_path: Path) -> None:
    error = failure(tmp_path, "a\nb\n{{ missing }}\n")
    assert str(error) == "inventory.yaml:2:3: templates/t.j2:3: 'missing' is undefined"
    assert failure(tmp_path, "a\n{% if %}").template == "templates/t.j2:2"
    assert failure(tmp_path, "\n\n{{ a.b.c }}", a={"b": {}}).template == "templates/t.j2:3"
    assert failure(tmp_path, "{% for x in 7 %}{% endfor %}").template == "templates/t.j2:1"
    assert failure(tmp_path, "\n{{ 1 // 0 }}").template == "templates/t.j2:2"
    inner = project(tmp_path, inner="one\n{{ nope }}\n")
    assert inner is not None
    assert failure(tmp_path, '{% include "inner.j2" %}').template == "templates/inner.j2:2"
    assert failure(tmp_path, '\n{% include "none.j2" %}').message.startswith(
        "templates/t.j2:2: there is no template 'none.j2'"
    )


def test_a_failing_filter_names_the_template_line(tmp_path: Path) -> None:
    error = failure(tmp_path, "\n\n{{ x | nginx }}", x="a$b")
    assert error.template == "templates/t.j2:3"
    assert "nginx can't hold" in error.message
    assert error.where == WHERE


def test_errors_of_the_shipped_templates_name_the_inventory_line() -> None:
    bad = instance(models=[placement(CHAT)], env={"X": "a\x01"}, where=WHERE)
    with pytest.raises(RenderError) as caught:
        render(make_plan([bad]))
    assert str(caught.value).startswith("inventory.yaml:2:3: templates/ollama.service.j2:")


HOSTILE = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ x.__init__.__globals__ }}",
    "{{ x.__class__.__base__.__subclasses__() }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ range.__self__ }}",
    "{{ cycler.__init__ }}",
    "{{ lipsum(9999999) }}",
    "{{ namespace(a=1) }}",
    "{{ dict(a=1) }}",
    "{{ x.append(1) }}",
    "{{ d.update(a=1) }}",
    "{{ d.pop('a') }}",
    "{{ 'x'.format(1) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ 'x'.format_map(d) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ 'x' * 999999999 }}",
    "{{ [1] * 999999999 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ 'x'.center(999999999) }}",
    "{{ 'x'.ljust(999999999) }}",
    "{{ 'x'.zfill(999999999) }}",
    "{{ 'x' | center(999999999) }}",
    "{{ 'x' | indent(999999999) }}",
    "{{ 'x' | format(1) }}",
    "{{ x | map('upper') | list }}",
    "{{ x | attr('__class__') }}",
    "{{ x | pprint }}",
    "{{ 'a' | replace('a', 'aaaa') }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(1000000000) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
    "{% for i in x recursive %}{{ loop(x) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% set big %}{% for i in range(99999) %}x{% endfor %}{% endset %}",
    "{% set a = 'xxxxxxxxxx' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}",
    "{% set a = 'xxxxxxxxxx' %}" + "{% set a = a + a %}" * 60 + "{{ a }}",
    "{% set a = ['xxxxxxxxxx'] %}" + "{% set a = [a | join, a | join] %}" * 60 + "{{ a }}",
    "{% set a = 9 %}" + "{% set a = a * a %}" * 60 + "{{ a }}",
    "{% set a = [x] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
    "{% set a = [x] %}" + "{% set a = [a, a] %}" * 60 + "{{ a ~ '' }}",
    "{% set a = [x] %}" + "{% set a = [a, a] %}" * 60 + "{{ a | js }}",
    "{% set a = [x] %}" + "{% set a = [a, a] %}" * 60 + "{{ a | comment }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "[" * 500 + "]" * 500 + " }}",
    "{% include 't.j2' %}",
    "{% include '../inventory.yaml' %}",
    "{% include '/etc/passwd' %}",
    "{% include ['a', 'b'] %}",
    "{% import 'ogen.target.j2' as x %}",
    "{% from 'ogen.target.j2' import x %}",
    "{% extends 'ogen.target.j2' %}",
    "{% block x %}{% endblock %}",
    "{% call x() %}{% endcall %}",
    "{% filter upper %}x{% endfilter %}",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=lambda n: HOSTILE[n][:50])
def test_a_hostile_template_is_refused_soon(number: int, tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text("secret\n")
    error = failure(tmp_path, HOSTILE[number], x=["item"], d={"a": "b"})
    assert error.template
    assert "templates/t.j2" in error.template
    assert "secret" not in str(error)


def test_output_is_bounded_through_includes(tmp_path: Path) -> None:
    engine = project(
        tmp_path, t="{% for i in range(9999) %}{% include 'big.j2' %}{% endfor %}", big="x" * 100_000
    )
    with pytest.raises(RenderError, match=f"writes more than {MAX_OUTPUT} characters"):
        engine.render("t.j2", {}, WHERE)


def test_templates_come_from_inside_of_the_project_only(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    inside = tmp_path / "project"
    inside.mkdir()
    engine = project(inside)
    folder = inside / "templates"
    (folder / "ogen.target.j2").symlink_to(outside)
    (folder / "monitor.py").symlink_to(outside)
    (folder / "librarian.service.j2").symlink_to("librarian.service.j2")
    os.mkfifo(folder / "Modelfile.j2")
    (folder / "logrotate.j2").write_bytes(b"\xff")
    (folder / "router.js.j2").write_text("x" * (MAX_SOURCE + 1))
    for name, why in (
        ("ogen.target.j2", "inside of the project"),
        ("librarian.service.j2", "can't be read"),
        ("Modelfile.j2", "must be a file"),
        ("logrotate.j2", "not UTF-8"),
        ("router.js.j2", "larger than"),
    ):
        with pytest.raises(RenderError, match=why) as caught:
            engine.render(name, {"host": "x"}, WHERE)
        assert caught.value.template == f"templates/{name}"
        assert caught.value.where == WHERE
    with pytest.raises(RenderError, match="inside of the project"):
        engine.copy("monitor.py")
    (folder / "fine.j2").symlink_to(folder / "real.j2")
    (folder / "real.j2").write_text("fine\n")
    assert engine.render("fine.j2", {}) == "fine\n"


def test_a_templates_folder_that_leaves_the_project(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "ogen.target.j2").write_text("[Unit]\n")
    inside = tmp_path / "project"
    inside.mkdir()
    (inside / "templates").symlink_to(outside)
    with pytest.raises(RenderError, match="inside of the project"):
        render(make_plan([instance()], folder=str(inside)))


def test_the_same_plan_gives_the_same_bytes() -> None:
    def once() -> list[str]:
        pools = [pool("chat", [Member("gpu1", "gpu0", "192.0.2.11", 11434, 2)])]
        plan = make_plan([instance((card(0),)), instance((card(1),))], [(Balancer("api", "edge"), pools)])
        return [release.id for release in render(plan)]

    assert once() == once()
