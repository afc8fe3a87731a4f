"""The tasks of a play around its release task: compiled for each host when it is first looked at, run on
its connection before its transaction and after its commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from ..errors import BecomeError, HostError, OgenError, RemoteError
from ..inventory.model import Inventory
from ..playbook import Course, Step, sizes
from ..playbook import compile as compile_playbook
from ..playbook.modules import DRAIN, FROM_HELLO, MODELS, RELEASE
from . import archives
from .contact import Contact, contact
from .drains import Drains
from .edges import Member
from .pools import Pools
from .provision import variables
from .results import HostResult, OnEvent, Options, ignore
from .steps import StepResult, failed_step, results_of
from .texts import Texts

#: what follows for a host from a task that failed before its transaction, and after it
BEFORE = "nothing was put in force there: mend what the task names, then run this again"
PATIENCE = 10.0  # seconds for the host's lock
#: a unit of the release, as systemd would show it then
IN_FORCE = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
AFTER = "the new release is in force there, and stays: mend what the task names, then run this again"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a host's play has beside its release task."""

    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    handlers: tuple[Step, ...] = ()
    notify: tuple[str, ...] = ()  # handlers of the release task
    uploads: Mapping[str, str] = field(default_factory=dict)  # digest → path of a file to send

    def __bool__(self) -> bool:
        return bool(self.before or self.after)


@dataclass
class Around:
    """One run of a course over its hosts. Threads work on different hosts; a host is worked on by one."""

    inventory: Inventory
    course: Course
    options: Options
    pools: Pools
    names: Callable[[str], Mapping[str, Any]]  # what only this command knows of a host: ogen_release, …
    tags: frozenset[str] = frozenset()
    on_event: OnEvent = ignore
    compiled: dict[str, Compiled] = field(default_factory=dict)
    steps: dict[str, list[StepResult]] = field(default_factory=dict)
    notified: dict[str, set[str]] = field(default_factory=dict)
    failures: dict[str, HostError] = field(default_factory=dict)  # of tasks after the commit
    promised: dict[str, Mapping[str, object]] = field(default_factory=dict)  # to a check: of the release
    away: dict[Member, bool] = field(default_factory=dict)  # instances, as a check would have drained them
    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)

    @property
    def drains(self) -> Drains:
        return Drains(self.inventory, self.pools, self.options, self.on_event, self.away)

    def tasks(self, name: str) -> bool:
        """Whether the host has tasks beside its release."""
        return bool(self.compiled.get(name))

    def prepares(self, name: str) -> bool:
        return bool(self.compiled.get(name, Compiled()).before)

    # ------------------------------------------------------------------------------- before a change
    def prepare(self, opened: Contact) -> None:
        """Resolves all expressions for this host. Raises HostError with the place of what can't be."""
        host = opened.host
        try:
            made = self._compile(opened)
            made, uploads = archives.sent(self.inventory, host, made)
            for step in made:
                if step.module == DRAIN:
                    self.drains.check(host.name, step)
        except HostError:
            raise
        except OgenError as wrong:  # with this host's facts: the others' results still count
            raise RemoteError(wrong.message, host=host.name, where=wrong.where, hint=wrong.hint) from None
        tasks = [step for step in made if not step.handler and step.module != MODELS]
        at = next(n for n, step in enumerate(tasks) if step.module == RELEASE)
        self.compiled[host.name] = Compiled(
            tuple(tasks[:at]),
            tuple(tasks[at + 1 :]),
            tuple(step for step in made if step.handler),
            tasks[at].notify,
            uploads,
        )

    def _compile(self, opened: Contact) -> tuple[Step, ...]:
        host, play = opened.host, self.course.play
        facts: Mapping[str, Any] = {}
        if play.gather_facts or any(task.module in FROM_HELLO for task in play.tasks):
            uid, facts = opened.ansible_facts()
            if play.become and uid != 0:
                hint = "set ssh.become: true, or connect as root"
                raise BecomeError("the play needs root", host=host.name, hint=hint)
        sources = any("ogen_ollama_archives" in line for line in play.where.text.lines)
        known = {**variables(self.inventory, host, sources=sources), **self.names(host.name)}
        texts = Texts(self.inventory.folder)
        return compile_playbook(
            self.course.playbook, facts, known, tags=self.tags, look=opened.stat, texts=texts
        )

    # ------------------------------------------------------------------------------------ on a host
    def before(self, opened: Contact) -> bool:
        """Runs what stands before the release task, once; whether it changed something. Raises HostError."""
        name = opened.host.name
        if name in self.begun or not self.tasks(name):
            return False
        self.begun.add(name)
        try:
            self._run(opened, self.compiled[name].before)
        except HostError as error:
            error.hint = error.hint or BEFORE
            self._forced(opened)
            raise
        return any(step.changed for step in self.steps.get(name, ()))

    def after(self, opened: Contact, *, changed: bool) -> None:
        """Runs what stands after it, and the handlers, once. What fails is told by `told`."""
        name = opened.host.name
        if name in self.ended or name not in self.compiled:
            return
        self.ended.add(name)
        if changed:
            self._notify(name, self.compiled[name].notify)
        try:
            with ExitStack() as stack:
                if opened.lost and self.compiled[name].after:  # its transaction was followed over another one
                    opened = stack.enter_context(contact(opened.host, self.options, self.on_event))
                try:
                    self._run(opened, self.compiled[name].after)
                except HostError:
                    self._forced(opened)
                    raise
                self._run(opened, self._called(name))
        except HostError as error:
            error.hint = error.hint or AFTER
            self.failures[name] = error

    def told(self, result: HostResult) -> HostResult:
        """A host's result with what its tasks did."""
        steps = tuple(self.steps.get(result.host, ()))
        error = self.failures.get(result.host)
        if error is not None and result.error is None:
            return replace(
                result, status="failed", message=error.message, error=error, committed=True, steps=steps
            )
        if result.status == "unchanged" and any(step.changed for step in steps):
            return replace(result, status="applied", message="the release was in force already", steps=steps)
        return replace(result, steps=steps)

    def foresee(self, opened: Contact, units: Iterable[str], *, changed: bool) -> None:
        """Fills `steps` with what the tasks would do; `units` and `changed`: what the release would bring."""
        name = opened.host.name
        own = self.compiled[name]
        self._run(opened, own.before, check=True)
        self.promised[name] = {f"unit {unit}": IN_FORCE for unit in units}
        if changed:
            self._notify(name, own.notify)
        self._run(opened, own.after, check=True)
        self._run(opened, self._called(name), check=True)

    # ------------------------------------------------------------------------------------- the steps
    def _run(self, opened: Contact, steps: Sequence[Step], *, check: bool = False) -> None:
        """Steps for the agent in one request, drains in between by ourselves."""
        name = opened.host.name
        done = self.steps.setdefault(name, [])
        for by_us, some in groupby(steps, lambda step: step.module == DRAIN):
            part = list(some)
            found = self._drain(name, part, check) if by_us else self._ask(opened, part, check)
            done.extend(found)
            for step, result in zip(part, found, strict=False):  # the first that failed is the last result
                self._notify(name, step.notify if result.changed else ())
            bad = failed_step(name, found)
            if bad is not None:
                raise bad

    def _drain(self, name: str, steps: Sequence[Step], check: bool) -> list[StepResult]:
        found: list[StepResult] = []
        for step in steps:
            found.append(self.drains.run(name, step, check=check))
            if found[-1].failed:
                break
        return found

    def _ask(self, opened: Contact, steps: Sequence[Step], check: bool) -> list[StepResult]:
        document = {
            "check": check,
            "promised": self.promised.get(opened.host.name, {}),
            "who": self.options.who,
            "patience": PATIENCE,
            "force_handlers": False,
            # handlers were chosen here: to the agent they are steps like any other
            "steps": [{**step.document(), "handler": False} for step in steps],
        }
        return results_of(opened.steps(document, self.compiled[opened.host.name].uploads))

    def _notify(self, name: str, handlers: Iterable[str]) -> None:
        self.notified.setdefault(name, set()).update(handlers)

    def _called(self, name: str) -> tuple[Step, ...]:
        called = self.notified.get(name, ())
        return tuple(step for step in self.compiled[name].handlers if step.name in called)

    def _forced(self, opened: Contact) -> None:
        """As in Ansible, handlers that were notified run after a failure where the play says so."""
        name = opened.host.name
        if self.course.play.force_handlers and self._called(name):
            self._run(opened, self._called(name))


def ruled(options: Options, course: Course, given: Mapping[str, Any]) -> Options:
    """The options as the play has them: `serial` and `max_fail_percentage`, unless the command line (`given`)
    says otherwise."""
    play = course.play
    found = sizes(play, {"ogen_batches": list(options.batches)})
    if found is not None and "batches" not in given:
        options = replace(options, batches=found)
    if play.max_fail_percentage is not None and "max_fail" not in given:
        options = replace(options, max_fail=f"{int(play.max_fail_percentage)}%")
    return options
