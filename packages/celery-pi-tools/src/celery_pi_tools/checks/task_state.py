"""Managed by celery-pi. Tasks: those that wait, those that run, and who runs and sends them."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

from celery_pi_tools import privileges
from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.checks.worker import BEAT, LOOK, is_plain
from celery_pi_tools.config import MAINTENANCE_PAGE
from celery_pi_tools.system import System
from celery_pi_tools.table import age, count
from celery_pi_tools.worker_control import ask_workers

SCHEDULE = Path("/var/lib/celery-beat/schedule")
BY_PRIORITY = ("", *(f"\x06\x16{step}" for step in range(1, 10)))  # as kombu names the lists


@check("Tasks", "Maintenance", "status")
def maintenance(_: System) -> Finding | None:
    if not MAINTENANCE_PAGE.exists():
        return None
    since = int(time.time() - MAINTENANCE_PAGE.stat().st_mtime)
    evidence = f"on for {age(since)}: no task is begun, the site shows a page"
    return warn(evidence, "celery-pi maintenance off", seconds=since)


@check("Tasks", "Queues", "status")
def queues(system: System) -> Finding:
    lengths = {
        queue: sum(system.ask("LLEN", system.key(queue + step)) for step in BY_PRIORITY)
        for queue in system.settings["celery_queues"]
    }
    evidence = ", ".join(f"{queue} {length}" for queue, length in lengths.items())
    return ok(evidence, **lengths)


@check("Tasks", "Unacknowledged", "status")
def unacknowledged(system: System) -> Finding:
    number = system.ask("HLEN", system.key("unacked"))
    return ok(f"{number}, running or waiting for their time", number=number)


@check("Tasks", "Active and scheduled", "status")
def in_workers(system: System) -> Finding:
    answers, workers = ask_workers(system, ("active", "scheduled"))
    numbers = {method: sum(map(len, by_worker.values())) for method, by_worker in answers.items()}
    answered = min(len(by_worker) for by_worker in answers.values())
    evidence = f"{numbers['active']} active, {numbers['scheduled']} scheduled"
    names = sorted({task["name"] for tasks in answers["active"].values() for task in tasks})
    if names:
        evidence += f" ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
    if not workers:
        return warn("no worker can be asked", LOOK, **numbers)
    if answered < workers:
        missing = workers - answered
        return warn(f"{evidence}; {count(missing, 'worker')} did not answer", LOOK, **numbers)
    return ok(evidence, **numbers)


@check("Tasks", "Beat", "status")
def beat(system: System) -> Finding:
    if is_plain(system, BEAT):
        return ok("keeps Celery's own file, because it is plain")
    try:
        text = privileges.read(system.settings["app_user"], str(SCHEDULE))
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
