"""Provision: a playbook's plays over the hosts, each compiled for its host before the first change."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..catalog.libraries import FOLDER as QUEUE_FOLDER
from ..errors import BecomeError, ConnectError, HostError, LockedError, PlaybookError, RemoteError, UsageError
from ..inventory import hosts_matching
from ..inventory.model import Host, Inventory
from ..playbook import Play, Playbook, Step, sizes, without_release
from ..playbook import compile as compile_playbook
from . import archives, bare, libraries, preflight
from .become import PythonMissing
from .contact import Contact, contact
from .results import Event, OnEvent, Options, ignore
from .rollout import each
from .steps import StepResult, failed_step, results_of
from .texts import Texts

Status = Literal["unchanged", "changed", "pending", "failed", "unreachable", "locked", "withheld", "skipped"]


@dataclass(frozen=True, slots=True)
class Provisioned:
    """How it ended on one host. `pending`: a check found something to change."""

    host: str
    status: Status
    steps: tuple[StepResult, ...] = ()
    message: str = ""
    error: HostError | None = None
    seconds: float = 0.0

    @property
    def changes(self) -> tuple[StepResult, ...]:
        return tuple(step for step in self.steps if step.changed)


def provision(
    inventory: Inventory,
    hosts: Sequence[Host],
    playbook: Playbook,
    options: Options,
    on_event: OnEvent = ignore,
    *,
    check: bool = False,
    tags: frozenset[str] = frozenset(),
) -> tuple[Provisioned, ...]:
    """Runs the plays on `hosts`, in their order; a host's errors are results, not exceptions.

    Raises PlaybookError where a play's hosts or expressions can't be resolved.
    """
    without_release(playbook)
    work = _Provision(inventory, playbook, options, on_event, check, tags)
    for host in hosts:
        if host.root:
            message = f"its files lie under {host.root}: there is nothing to provision"
            work.results[host.name] = Provisioned(host.name, "skipped", message=message)
    work.probe(hosts)
    for index, play in enumerate(playbook.plays):
        work.play(index, play, hosts)
    return tuple(work.results.get(h.name) or Provisioned(h.name, "unchanged") for h in hosts)


def variables(inventory: Inventory, host: Host, *, sources: bool = True) -> dict[str, Any]:
    """What a playbook may know of a host from the inventory; docs/playbooks.md explains each.

    Without `sources` no archive is looked at: a file without a digest would have to be read."""
    balancers = [b for b in inventory.balancers if host in hosts_matching(inventory, b.hosts)]
    mirror = inventory.mirror is not None and inventory.mirror.host == host.name
    node = bool(host.gpus or host.pins) or mirror
    return {
        "inventory_hostname": host.name,
        "group_names": sorted(host.groups),
        "ogen_node": node,
        "ogen_gpu": bool(host.gpus),
        "ogen_balancer": bool(balancers),
        "ogen_conf_d": any(b.into == "conf.d" for b in balancers),
        "ogen_mirror": mirror,
        "ogen_by_model": any(b.routing == "by_model" for b in balancers),
        "ogen_gate": any(b.gate for b in balancers),
        "ogen_ollama_archives": archives.wanted(inventory, host) if node and sources else [],
        "ogen_ollama_dir": host.ollama.folder,
        "ogen_queue_redis": any(queue.redis.host == host.name for queue in inventory.queues),
        "ogen_queue_libraries": libraries.wanted(inventory, host),
        "ogen_queue_dir": QUEUE_FOLDER,
        "ogen_models_dir": host.ollama.models_dir,
        "ogen_user": host.ollama.user,
        "ogen_group": host.ollama.group,
    }


def batches(hosts: Sequence[Host], serial: Sequence[int | str]) -> Iterator[Sequence[Host]]:
    """Ansible's `serial`: numbers or percentages of all hosts, at least 1 each; the last one repeats."""
    begin = 0
    for number in range(len(hosts)):
        size = serial[min(number, len(serial) - 1)]
        count = max(1, len(hosts) * int(size[:-1]) // 100) if isinstance(size, str) else size
        if begin < len(hosts):
            yield hosts[begin : begin + count]
        begin += count


@dataclass
class _Provision:
    """One run; `results` grows by the plays, and a host that failed is in no further one."""

    inventory: Inventory
    playbook: Playbook
    options: Options
    on_event: OnEvent
    check: bool
    tags: frozenset[str]
    results: dict[str, Provisioned] = field(default_factory=dict)
    compiled: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, dict[str, str]] = field(default_factory=dict)  # host → digest → file to send
    probed: dict[str, HostError] = field(default_factory=dict)  # why a host can't be worked on

    def probe(self, hosts: Sequence[Host]) -> None:
        """Where plays go batch by batch, root is asked for on every host before the first one is changed.

        A host where it can't be had fails at its turn, as it would have without having been asked.
        """
        todo = [host for host in hosts if not self._out(host)]
        if not any(len(list(self._batches(play, todo))) > 1 for play in self.playbook.plays):
            return

        def one(host: Host) -> HostError | None:
            try:
                with contact(host, self.options, ignore):
                    return None
            except PythonMissing:
                return None
            except HostError as error:
                return error

        for host, error in zip(todo, each(todo, one, self.options.parallel), strict=True):
            if error is not None:
                self.probed[host.name] = error
                self.on_event(Event(host.name, "connect", error.message))

    def play(self, index: int, play: Play, hosts: Sequence[Host]) -> None:
        named = self._named(play)
        todo = [host for host in hosts if host.name in named and not self._out(host)]
        parts = list(self._batches(play, todo))
        for number, batch in enumerate(parts):
            if self.options.stop.is_set():
                self._withhold(batch, "not started: interrupted")
                continue
            done = each(batch, lambda host: self._host(index, host), self.options.parallel)
            self.results.update({result.host: result for result in done})
            bad = sum(result.error is not None for result in done)
            if parts[number + 1 :] and _too_many(bad, len(done), play.max_fail_percentage):
                rest = [host for part in parts[number + 1 :] for host in part]
                self._withhold(rest, f"not started: {bad} of {len(done)} hosts failed before it")
                return

    def _batches(self, play: Play, hosts: Sequence[Host]) -> Iterator[Sequence[Host]]:
        names = {"ogen_batches": list(self.options.batches)}
        return batches(hosts, sizes(play, names) or ("100%",))

    def _named(self, play: Play) -> set[str]:
        try:
            return {host.name for host in hosts_matching(self.inventory, play.hosts)}
        except UsageError as error:
            raise PlaybookError(error.message, where=play.where, hint=error.hint) from None

    def _out(self, host: Host) -> bool:
        result = self.results.get(host.name)
        return result is not None and (result.error is not None or result.status in ("skipped", "withheld"))

    def _withhold(self, hosts: Sequence[Host], message: str) -> None:
        for host in hosts:
            self.results[host.name] = Provisioned(host.name, "withheld", self._before(host), message)

    def _before(self, host: Host) -> tuple[StepResult, ...]:
        earlier = self.results.get(host.name)
        return earlier.steps if earlier else ()

    # ---- one host
    def _host(self, index: int, host: Host) -> Provisioned:
        begun = time.monotonic()
        steps = list(self._before(host))
        error: HostError | None = None
        message = ""
        try:
            if host.name in self.probed:
                raise self.probed.pop(host.name)
            message = self._work(index, host, steps)
        except HostError as failed:
            error = failed
        spent = round(time.monotonic() - begun, 2)
        status = _status(error, steps, check=self.check)
        self.on_event(Event(host.name, "done", f"{status}: {error.message}" if error else status))
        return Provisioned(host.name, status, tuple(steps), message, error, spent)

    def _work(self, index: int, host: Host, steps: list[StepResult]) -> str:
        """Fills `steps`; returns what there is to say about them."""
        try:
            self._steps(index, host, steps)
            return self.remarks[host.name]
        except PythonMissing:
            if host.python != "python3":
                raise
        name = "Install python3, by plain sh"
        if not self.check:
            self.on_event(Event(host.name, "step", name))
            bare.install_python(host, self.options)
        steps.append(StepResult(name, "raw", True, before="python3: absent\n", after="python3: present\n"))
        if self.check:
            return "the other steps are known when python3 is there"
        self._steps(index, host, steps)
        return self.remarks[host.name]

    def _steps(self, index: int, host: Host, steps: list[StepResult]) -> None:
        play = self.playbook.plays[index]
        with contact(host, self.options, self.on_event) as one:
            document = {
                "check": self.check,
                "who": self.options.who,
                "force_handlers": play.force_handlers,
                "steps": [s.document() for s in self._compiled(host, one, play) if s.play == index],
            }
            whole = one.steps(document, self.uploads[host.name])
        steps.extend(results_of(whole))
        bad = failed_step(host.name, steps)
        if bad is not None:
            raise bad

    def _compiled(self, host: Host, one: Contact, play: Play) -> tuple[Step, ...]:
        """All plays are compiled at the first contact: a mistake in the last one shows before a change, and
        so does a card that can't be had."""
        if host.name not in self.compiled:
            uid, facts = one.ansible_facts()
            if play.become and uid != 0:
                raise BecomeError(
                    "the play needs root", host=host.name, hint="set ssh.become: true, or connect as root"
                )
            self.remarks[host.name] = preflight.check(host, one.driver()) if host.gpus else ""
            own = [n for n, p in enumerate(self.playbook.plays) if host.name in self._named(p)]
            try:
                known = variables(self.inventory, host)
                made = compile_playbook(
                    self.playbook,
                    facts,
                    known,
                    tags=self.tags,
                    plays=own,
                    look=one.stat,
                    texts=Texts(self.inventory.folder),
                )
                if any(step.module == "unarchive" for step in made):
                    libraries.prepare(self.inventory, host)
                made, self.uploads[host.name] = archives.sent(self.inventory, host, made)
            except (
                PlaybookError,
                UsageError,
            ) as wrong:  # with this host's facts: the others' results still count
                where, hint = wrong.where, wrong.hint
                raise RemoteError(wrong.message, host=host.name, where=where, hint=hint) from None
            self.compiled[host.name] = made
        return self.compiled[host.name]


def _too_many(bad: int, count: int, allowed: float | None) -> bool:
    """As in Ansible: more than `max_fail_percentage` of a batch, or all of it, end the play."""
    return bad == count or (allowed is not None and bad * 100 > allowed * count)


def _status(error: HostError | None, steps: Sequence[StepResult], *, check: bool) -> Status:
    if isinstance(error, ConnectError):
        return "unreachable"
    if isinstance(error, LockedError):
        return "locked"
    if error is not None:
        return "failed"
    if not any(step.changed for step in steps):
        return "unchanged"
    return "pending" if check else "changed"
