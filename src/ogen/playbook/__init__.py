"""Playbooks in Ansible's syntax, compiled to a fixed list of steps per host before the first change."""

from .compiler import FACTS, compile  # noqa: A004 (the word of the domain)
from .loader import find, load
from .model import Play, Playbook, Step, Task

__all__ = ["FACTS", "Play", "Playbook", "Step", "Task", "compile", "find", "load"]
