"""Prometheus' rules as values, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Record:
    """A recording rule: `name` is what `expr` gives, with `labels` added."""

    name: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule: `summary` says where and what, `action` what to do."""

    name: str
    expr: str
    wait: str  # how long it must hold
    severity: str
    summary: str
    action: str


Group = tuple[str, Sequence[Record] | Sequence[Alert]]


def document(head: str, groups: Iterable[Group]) -> str:
    """The file of these groups; a group without rules is left out."""
    lines = [f"# {line}" for line in head.splitlines()] + ["groups:"]
    for name, rules in groups:
        if rules:
            lines += [f"  - name: {name}", "    rules:"]
        for rule in rules:
            lines += _record(rule) if isinstance(rule, Record) else _alert(rule)
    return "\n".join(lines) + "\n"


def _record(rule: Record) -> list[str]:
    lines = [f"      - record: {rule.name}", *_expr(rule.expr)]
    return lines + _map("labels", rule.labels) if rule.labels else lines


def _alert(rule: Alert) -> list[str]:
    return [
        f"      - alert: {rule.name}",
        *_expr(rule.expr),
        f"        for: {rule.wait}",
        *_map("labels", {"severity": rule.severity}),
        *_map("annotations", {"summary": rule.summary, "action": rule.action}),
    ]


def _expr(text: str) -> list[str]:
    return ["        expr: |-", *(f"          {line}" for line in text.splitlines())]


def _map(key: str, values: Mapping[str, str]) -> list[str]:
    """A JSON string is a YAML string, whatever is in it."""
    return [
        f"        {key}:",
        *(f"          {k}: {json.dumps(v, ensure_ascii=False)}" for k, v in values.items()),
    ]
