"""Managed by celery-pi. Tasks: those that wait, those that run, and who runs and sends them."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

import celery_pi_privileges as privileges

from celery_pi_checks.control import tell
from celery_pi_checks.look import Look
from celery_pi_checks.registry import Result, check, ok, warn, wrong
from celery_pi_checks.table import age, count

SCHEDULE = Path("/var/lib/celery-beat/schedule")
MACHINE = Path("/etc/machine-id")
CGROUPS = Path("/sys/fs/cgroup")
MAINTENANCE = Path("/var/lib/celery-pi/maintenance/page.html")
BY_PRIORITY = ("", *(f"\x06\x16{step}" for step in range(1, 10)))  # as kombu names the lists
WORKER = "journalctl -u celery-worker -n 50; systemctl restart celery-worker"


@check("Tasks", "Maintenance")
def maintenance(_: Look) -> Result | None:
    if not MAINTENANCE.exists():
        return None
    since = int(time.time() - MAINTENANCE.stat().st_mtime)
    told = f"on for {age(since)}: no task is begun, the site shows a page"
    return warn(told, "celery-pi maintenance off", seconds=since)


@check("Tasks", "Queues")
def queues(look: Look) -> Result:
    lengths = {
        queue: sum(look.ask("LLEN", look.key(queue + step)) for step in BY_PRIORITY)
        for queue in look.settings["celery_queues"]
    }
    told = ", ".join(f"{queue} {length}" for queue, length in lengths.items())
    return ok(told, **lengths)


@check("Tasks", "Unacknowledged")
def unacknowledged(look: Look) -> Result:
    number = look.ask("HLEN", look.key("unacked"))
    return ok(f"{number}, running or waiting for their time", number=number)


@check("Tasks", "Active and scheduled")
def in_workers(look: Look) -> Result:
    told, workers = tell(look, ("active", "scheduled"))
    numbers = {method: sum(map(len, by.values())) for method, by in told.items()}
    answered = min(len(by) for by in told.values())
    shown = f"{numbers['active']} active, {numbers['scheduled']} scheduled"
    names = sorted({task["name"] for tasks in told["active"].values() for task in tasks})
    if names:
        shown += f" ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
    if not workers:
        return warn("no worker can be asked", WORKER, **numbers)
    if answered < workers:
        missing = workers - answered
        return warn(f"{shown}; {count(missing, 'worker')} did not answer", WORKER, **numbers)
    return ok(shown, **numbers)


@check("Tasks", "Set aside")
def set_aside(look: Look) -> Result:
    number = look.ask("LLEN", look.key("set-aside"))
    if number:
        told = f"{count(number, 'task')}, lost with their process each time"
        return wrong(told, "celery-pi set-aside", number=number)
    return ok("none", number=0)


@check("Tasks", "Workers")
def workers(look: Look) -> Result:
    unit = look.units["celery-worker"]
    channel = look.key("celery-pi.alive.")
    # A pattern for Redis: a prefix has no character that means something in one.
    alive = [name[len(channel) :] for name in look.ask("PUBSUB", "CHANNELS", f"{channel}*")]
    here = sum(name.startswith(f"{MACHINE.read_text().strip()}/{unit['Id']}/") for name in alive)
    pool = processes(unit["MainPID"], unit["ControlGroup"])
    least = look.settings["celery_min_concurrency"] or look.settings["celery_concurrency"]
    others = len(alive) - here
    elsewhere = f"; {others} elsewhere" if others else ""
    told = f"{'alive' if here else 'not connected to Redis'}, {count(pool, 'process', 'processes')}"
    values = {"here": here, "elsewhere": others, "pool": pool}
    if not here or not pool:
        return wrong(f"{told}{elsewhere}", WORKER, **values)
    if pool < least:
        return warn(f"{told} of {least}{elsewhere}", WORKER, **values)
    return ok(f"{told}{elsewhere}", **values)


def processes(main: str, group: str) -> int:
    """Children of the worker's main process: those that run tasks."""
    if main == "0" or not group:
        return 0
    listed = (CGROUPS / group.lstrip("/") / "cgroup.procs").read_text().split()
    return sum(parent(pid) == main for pid in listed)


def parent(pid: str) -> str:
    try:
        stat = Path("/proc", pid, "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has just ended
    return stat.rpartition(")")[2].split()[1]


@check("Tasks", "Beat")
def beat(look: Look) -> Result:
    try:
        text = privileges.read(look.settings["app_user"], str(SCHEDULE))
    except FileNotFoundError:
        return ok("keeps no schedule of ours")  # django-celery-beat's is in the site's database
    try:
        sent = dict(json.loads(text))
        last = {name: datetime.fromisoformat(when).timestamp() for name, (when, _) in sent.items()}
    except (TypeError, ValueError, RecursionError):
        return wrong("its schedule is damaged", "systemctl restart celery-beat")
    if not last:
        return ok("has nothing to send", entries=0)
    name = max(last, key=lambda entry: last[entry])
    since = time.time() - last[name]
    return ok(f"{name}, {age(since)} ago", entries=len(last), last=name, age=int(since))
