"""Playbooks in Ansible's syntax, compiled to a fixed list of steps per host before the first change."""

from .compiler import FACTS, compile  # noqa: A004 (the word of the domain)
from .course import Course, course, without_release
from .loader import find, load
from .model import Play, Playbook, Step, Task
from .serial import sizes

__all__ = [
    "FACTS",
    "Course",
    "Play",
    "Playbook",
    "Step",
    "Task",
    "compile",
    "course",
    "find",
    "load",
    "sizes",
    "without_release",
]
