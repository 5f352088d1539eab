"""Managed by celery-pi. The worker: alive for systemd, and yet no task is run."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from uuid import uuid4

from celery_pi_tools.commands import execute
from celery_pi_tools.config import MAINTENANCE_PAGE
from celery_pi_tools.doctor.registry import Found, problem
from celery_pi_tools.doctor.repairs import all_of
from celery_pi_tools.process import command_line
from celery_pi_tools.system import System
from celery_pi_tools.worker_control import EXCHANGE, command

UNIT = "celery-worker"
CONNECTING = 20  # seconds; 15 are its longest pause between two tries
ANSWERING = 10  # seconds
ABOVE = ("Redis", f"{UNIT} is down", "A process is stopped")
PROC = Path("/proc")
ROLES = ("worker", "beat")
LONGEST = 2**16  # bytes of a command line in which they stand


@problem("Worker", "The worker is not connected to Redis", needs=ABOVE)
def away(system: System) -> Found | None:
    if system.is_alive():
        return None
    return Found(
        "its unit is active, and Redis does not see it",
        "it runs no task",
        "start it again, which lets its tasks finish first",
        lambda: execute("systemctl", "--no-block", "restart", UNIT),
        grace=CONNECTING,
    )


@problem("Worker", "The worker does not answer", needs=(*ABOVE, "Worker"))
def deaf(system: System) -> Found | None:
    if system.worker_answers[0]["active_queues"]:
        return None
    return Found(
        "it is connected to Redis, and answers no question",
        "it may hang; systemd then ends it within half a minute and starts it again",
        f"journalctl -u {UNIT} -n 50 shows where it hung, if it was ended",
        grace=ANSWERING,
    )


@problem("Worker", "A queue is paused", needs=(*ABOVE, "Worker"))
def paused(system: System) -> Found | None:
    if MAINTENANCE_PAGE.exists():
        return None
    answers = system.worker_answers[0]["active_queues"]
    there = {queue["name"] for each in answers.values() for queue in each}
    missing = [queue for queue in system.value("celery_queues") if queue not in there]
    if not missing:
        return None
    name = min(answers)
    return Found(
        f"no worker takes tasks from {', '.join(missing)}",
        "they wait there; somebody has said cancel_consumer, by Flower or celery control",
        "have the worker take them again (add_consumer)",
        all_of(*(partial(consume, system, name, queue) for queue in missing)),
        grace=5,
    )


def consume(system: System, worker: str, queue: str) -> None:
    """Makes that worker consume the queue (add_consumer)."""
    channel = system.key(f"/{system.value('redis_database')}.{EXCHANGE}")
    message = command(
        "add_consumer", str(uuid4()), str(uuid4()), {"queue": queue}, destination=[worker]
    )
    system.refresh().ask("PUBLISH", channel, message, user="admin")


@problem("Worker", "A second worker or Beat runs")
def second(system: System) -> Found | None:
    ours = {pid for unit in (UNIT, "celery-beat") for pid in system.pids(unit)}
    found = [pid for pid in map(int, filter(str.isdigit, os.listdir(PROC))) if pid not in ours]  # noqa: PTH208
    strangers = sorted(f"celery {role} ({pid})" for pid in found if (role := role_of(system, pid)))
    if not strangers:
        return None
    return Found(
        f"beside our units: {', '.join(strangers)}",
        "a second Beat sends each periodic task twice; a worker without our safeguards loses tasks",
        "find who starts it (systemctl status PID; an older unit of yours?) and end it there",
        grace=2,
    )


def role_of(system: System, pid: int) -> str:
    """`worker` or `beat` if the process is one of this app's, else empty."""
    words = command_line(PROC / str(pid), LONGEST).decode(errors="replace").split("\0")
    asked = [word for word in words if word in ROLES]
    if not asked or "celery" not in (Path(word).name for word in words[:2]):
        return ""
    named = {word.rpartition("=")[2] for word in words}
    ours = {system.value("app_module"), "celery_pi_app"}
    return "" if named.isdisjoint(ours) else asked[0]
