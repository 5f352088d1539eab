"""Managed by celery-pi. The worker: alive for systemd, and yet no task is run."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery_pi_tools.checks.processes import PROC, parent, pids
from celery_pi_tools.checks.registry import Finding, check, ok, problem, warn, wrong
from celery_pi_tools.checks.repairs import all_of
from celery_pi_tools.commands import execute
from celery_pi_tools.config import MAINTENANCE_PAGE, size_in_bytes
from celery_pi_tools.process import command_line
from celery_pi_tools.system import System
from celery_pi_tools.table import count
from celery_pi_tools.worker_control import EXCHANGE, command

UNIT, BEAT = "celery-worker", "celery-beat"
CONNECTING = 20  # seconds; 15 are its longest pause between two tries
ANSWERING = 10  # seconds
ABOVE = ("Redis", f"{UNIT} is down", "A process is stopped")
ROLES = ("worker", "beat")
MIB = 2**20
GROWTH = 64 * MIB  # bytes; GROWTH of celery_redis_guard's memory_limit.py, which sets the limit
LONGEST = 2**16  # bytes of a command line in which they stand
LOG = f"journalctl -u {UNIT} -n 50"
TESTED_SET = (
    "pin a tested set (docs/operate/upgrade.md, Upgrading Celery), or say so: worker_guard = off"
)
LOOK = f"{LOG}; systemctl restart {UNIT}"


@check("Tasks", "Workers", "status")
@check("Worker", "The worker is not connected to Redis", "doctor", after=ABOVE)
def connected(system: System) -> Finding:
    here, others = system.alive_workers()
    pool = sum(parent(pid) == system.units[UNIT]["MainPID"] for pid in system.pids(UNIT))
    least = system.settings["celery_min_concurrency"] or system.settings["celery_concurrency"]
    elsewhere = f"; {others} elsewhere" if others else ""
    processes = count(pool, "process", "processes")
    values: dict[str, Any] = {"here": here, "elsewhere": others, "pool": pool}
    if not here:
        return problem(
            f"not connected to Redis, {processes}{elsewhere}",
            "it runs no task",
            f"start it again, which lets its tasks finish first; {LOG}",
            lambda: execute("systemctl", "--no-block", "restart", UNIT),
            grace=CONNECTING,
            **values,
        )
    evidence = f"alive, {processes}"
    if not pool:
        return wrong(f"{evidence}{elsewhere}", LOOK, **values)
    if pool < least:
        return warn(f"{evidence} of {least}{elsewhere}", LOOK, **values)
    return ok(f"{evidence}{elsewhere}", **values)


def is_plain(system: System, unit: str = UNIT) -> bool:
    """Whether it has told systemd that it runs as plain Celery, without the guard."""
    return system.units[unit]["StatusText"].startswith("plain ")


@check("Tasks", "Guard", "status", "audit")
def guard(system: System) -> Finding:
    """As worker and Beat have told it at their start: what is installed may be newer."""
    told = system.units[UNIT]["StatusText"]
    if not system.up(UNIT) or not told:
        return warn("the worker does not run, so it does not tell", LOOK)
    plain, beat_plain = is_plain(system), is_plain(system, BEAT)
    values = {"guarded": not plain, "setting": system.settings["worker_guard"]}
    if system.up(BEAT) and beat_plain != plain:
        kinds = {True: "plain", False: "guarded"}
        evidence = f"the worker is {kinds[plain]}, and Beat still {kinds[beat_plain]}"
        return warn(evidence, f"systemctl restart {BEAT}", **values)
    if plain and system.settings["worker_guard"] != "off":
        return warn(told, TESTED_SET, **values)
    return ok(told, **values)


@check("Worker", "The worker does not answer", "doctor", after=(*ABOVE, "Worker"))
def unresponsive(system: System) -> Finding | None:
    if system.worker_answers[0]["active_queues"]:
        return None
    return problem(
        "it is connected to Redis, and answers no question",
        "it may hang; systemd then ends it within half a minute and starts it again",
        f"journalctl -u {UNIT} -n 50 shows where it hung, if it was ended",
        grace=ANSWERING,
    )


@check("Worker", "A queue is paused", "doctor", after=(*ABOVE, "Worker"))
def paused(system: System) -> Finding | None:
    if MAINTENANCE_PAGE.exists():
        return None
    answers = system.worker_answers[0]["active_queues"]
    consumed_queues = {queue["name"] for each in answers.values() for queue in each}
    missing = [queue for queue in system.settings["celery_queues"] if queue not in consumed_queues]
    if not missing:
        return None
    name = min(answers)
    return problem(
        f"no worker takes tasks from {', '.join(missing)}",
        "they wait there; somebody has said cancel_consumer, by Flower or celery control",
        "have the worker take them again (add_consumer)",
        all_of(*(partial(consume, system, name, queue) for queue in missing)),
        grace=5,
    )


def consume(system: System, worker: str, queue: str) -> None:
    """Makes that worker consume the queue (add_consumer)."""
    channel = system.key(f"/{system.settings['redis_database']}.{EXCHANGE}")
    message = command(
        "add_consumer", str(uuid4()), str(uuid4()), {"queue": queue}, destination=[worker]
    )
    system.refresh().ask("PUBLISH", channel, message, user="admin")


@check("Worker", "The app is larger than a process may be", "doctor", after=ABOVE)
def large(system: System) -> Finding | None:
    """Its size is that of the main process, which loads it and runs no task."""
    size = resident(int(system.units[UNIT]["MainPID"]))
    limit = size_in_bytes(system.settings["celery_max_memory_per_child"])
    least = size + GROWTH
    if least <= limit:
        return None
    return problem(
        f"the app takes {size // MIB} MB, celery_max_memory_per_child is {limit // MIB} MB",
        f"the worker lets each process take {least // MIB} MB: with less each task got a new one",
        f"set celery_max_memory_per_child to {least // MIB + 1}mb or more, and deploy",
        level="warn",
    )


def resident(pid: int) -> int:
    """Bytes of memory of a process; none if it has just ended."""
    try:
        pages = (PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@check("Worker", "A second worker or Beat runs", "doctor")
def second(system: System) -> Finding | None:
    ours = {pid for unit in (UNIT, BEAT) for pid in system.pids(unit)}
    other_pids = [pid for pid in pids() if pid not in ours]
    strangers = sorted(
        f"celery {role} ({pid})" for pid in other_pids if (role := role_of(system, pid))
    )
    if not strangers:
        return None
    return problem(
        f"beside our units: {', '.join(strangers)}",
        "a second Beat sends each periodic task twice; a worker without our safeguards loses tasks",
        "find who starts it (systemctl status PID; an older unit of yours?) and end it there",
        grace=2,
    )


def role_of(system: System, pid: int) -> str:
    """`worker` or `beat` if the process is one of this app's, else empty."""
    words = command_line(PROC / str(pid), LONGEST).decode(errors="replace").split("\0")
    roles = [word for word in words if word in ROLES]
    if not roles or "celery" not in (Path(word).name for word in words[:2]):
        return ""
    named = {word.rpartition("=")[2] for word in words}
    ours = {system.settings["app_module"], "celery_pi_app"}
    return "" if named.isdisjoint(ours) else roles[0]
