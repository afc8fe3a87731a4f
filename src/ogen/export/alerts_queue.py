"""Alerting rules of queues."""

from __future__ import annotations

from .rules import Alert

FULL, MEMORY, OLD = 0.8, 0.7, 600  # places, memory, and seconds: `ogen doctor` speaks up from there on
QUEUE = "queue {{ $labels.queue }}"
JOBS = "queue {{ $labels.queue }}, model {{ $labels.model }}"
SHARE = "{{ $value | humanizePercentage }}"


def queue_alerts(inventory: str) -> list[Alert]:
    """`inventory`: its name in commands."""
    doctor, status = (
        f"ogen doctor {inventory}",
        f"ogen queue status {inventory} --queue {{{{ $labels.queue }}}}",
    )
    return [
        Alert(
            "OgenQueueDown",
            "ogen:queue_up:bool == 0",
            "2m",
            "critical",
            f"{QUEUE}: its front or its Redis does not answer",
            f"{doctor}; ogen logs {inventory} /{{{{ $labels.queue }}}} has their journals",
        ),
        Alert(
            "OgenQueueNoWorker",
            "ogen:queue_workers:count == 0",
            "2m",
            "critical",
            f"{JOBS}: no worker was heard of",
            f"{doctor}: its jobs wait until one is back",
        ),
        *_filling(doctor, status),
    ]


def _filling(doctor: str, status: str) -> list[Alert]:
    waiting = 'sum by (queue, model) (ogen:queue_jobs:count{state=~"waiting|delayed"})'
    return [
        Alert(
            "OgenQueueNearFull",
            f"{waiting}\n/ on (queue, model)\nogen:queue_places:count >= {FULL}",
            "5m",
            "warning",
            f"{JOBS}: {SHARE} of its places are taken",
            f"{doctor}: more instances of the model, or a larger `length`; when it is full, jobs are refused",
        ),
        Alert(
            "OgenQueueSlow",
            f"ogen:queue_oldest:seconds > {OLD}",
            "5m",
            "warning",
            f"{JOBS}: the job that is next has waited for {{{{ $value | humanizeDuration }}}}",
            f"{doctor}: more instances of the model",
        ),
        Alert(
            "OgenQueueDeadLetters",
            'ogen:queue_jobs:count{state="dead"} > 0',
            "1m",
            "warning",
            f"{JOBS}: {{{{ $value }}}} jobs failed at every try",
            f"{status} has the reasons; ogen queue retry runs them again; {doctor} says it too",
        ),
        Alert(
            "OgenQueueMemory",
            f"ogen:queue_memory:ratio > {MEMORY}",
            "5m",
            "warning",
            f"{QUEUE}: {SHARE} of its Redis' memory is in use",
            f"{doctor}: a shorter `expiry`, or more `redis.memory`; when it is full, jobs are refused",
        ),
    ]
