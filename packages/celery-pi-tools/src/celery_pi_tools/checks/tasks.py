"""Managed by celery-pi. Tasks that wait for ever, are thrown away, or are cut off."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import datetime

from celery_pi_tools.checks.queues import forgotten, queue_of
from celery_pi_tools.checks.registry import Finding, check, ok, problem
from celery_pi_tools.checks.worker import is_plain
from celery_pi_tools.system import RECENT, System
from celery_pi_tools.table import age, count

ABOVE = ("Redis", "celery-worker is down", "Worker")
SHORTEST_VISIBILITY, MARGIN = 3600, 300  # seconds, as the guard's forced_defaults have them
UNKNOWN = re.compile(r"Received unregistered task of type '?([^'\s]+)'?\.?")
LIMIT = re.compile(r"(Soft|Hard) time limit \((\S+?)s\) exceeded for ([\w.]+)\[")


@check("Tasks", "Tasks wait where no worker takes them", "doctor", after=ABOVE)
def unconsumed(system: System) -> Finding | None:
    numbers = forgotten(system)
    if not numbers:
        return None
    queues = ", ".join(f"{count(number, 'task')} in {queue}" for queue, number in numbers.items())
    return problem(
        f"no worker consumes this: {queues}",
        "they wait for ever: PENDING",
        "put the queue into celery_queues and deploy; or, if nobody wants them any more, "
        "redis-cli admin del QUEUE",
        grace=2,
    )


@check("Tasks", "The app sends to a queue that is not its own", "doctor", after=("Redis",))
def refused(system: System) -> Finding | None:
    keys = {
        queue_of(entry["object"])
        for entry in system.acl_log
        if entry["reason"] == "key"
        and entry["username"] == "celery"
        and float(entry["age-seconds"]) < RECENT
    }
    if not keys:
        return None
    return problem(
        f"within the last hour Redis has refused it: {', '.join(sorted(keys))}",
        "its call failed, and the task was not accepted",
        "a queue: put it into celery_queues; another key of the app: into redis_app_keys; deploy",
    )


@check("Tasks", "The worker does not know a task", "doctor", after=("A service runs old code",))
def unknown(system: System) -> Finding | None:
    names = Counter(match[1] for line in system.worker_log if (match := UNKNOWN.search(line)))
    if not names:
        return None
    tasks = ", ".join(f"{name} ({count(number, 'time')})" for name, number in names.items())
    fate = "gone: the worker is plain Celery" if is_plain(system) else "dead letters now"
    return problem(
        f"since it was started, or in the last hour: {tasks}",
        f"they are {fate}, and failed for whoever awaits them",
        "is the module in autodiscover_tasks or CELERY_IMPORTS, and the name spelt the same where "
        "it is sent? Then start the worker again: it takes back those that it knows",
    )


@check("Tasks", "A task runs into its time limit", "doctor")
def limit_reached(system: System) -> Finding | None:
    counts = Counter(
        (match[3], match[2]) for line in system.worker_log if (match := LIMIT.search(line))
    )
    if not counts:
        return None
    tasks = ", ".join(
        f"{name} ({count(number, 'time')}, {seconds} s)"
        for (name, seconds), number in counts.items()
    )
    return problem(
        f"since the worker was started, or in the last hour: {tasks}",
        "it is ended before it is done, each time",
        "do less in one task; or raise celery_time_limit and the app's own limit, and deploy: "
        "then the visibility timeout follows, and nothing is run twice",
    )


@check("Tasks", "A task waits for longer than it may", "doctor", after=ABOVE)
def far_off(system: System) -> Finding | None:
    longest, limit = (
        system.settings["celery_longest_countdown"],
        system.settings["celery_time_limit"],
    )
    visibility = max(SHORTEST_VISIBILITY, limit + MARGIN, longest + MARGIN)
    waits = [
        (seconds, entry["request"]["name"])
        for entries in system.worker_answers[0]["scheduled"].values()
        for entry in entries
        if (seconds := wait(entry["eta"])) > visibility
    ]
    if not waits:
        return None
    seconds, name = max(waits)
    return problem(
        f"{count(len(waits), 'task')}; {name} for another {age(seconds)}, while a task that is "
        f"away for {age(visibility)} is taken for lost",
        "a worker that is not ours, and the site when it asks the workers, puts it back: it is "
        "then run more than once",
        f"set celery_longest_countdown to {int(seconds) // 3600 * 3600 + 3600} or more, and deploy",
    )


def wait(eta: str | None) -> float:
    """Seconds until the ETA."""
    return datetime.fromisoformat(eta).timestamp() - time.time() if eta else 0


@check("Tasks", "Results are not kept", "doctor", after=ABOVE)
def without_results(system: System) -> Finding | None:
    configured = system.worker_answers[0]["conf"]
    if not any(dict(conf).get("task_ignore_result") for conf in configured.values()):
        return None
    return problem(
        "the app's task_ignore_result is on",
        "every task is run, and every result stays PENDING",
        "take it out of the app's configuration, or set ignore_result on the tasks that want it",
    )


@check("Tasks", "Dead letters", "status")
@check("Tasks", "There are dead letters", "doctor", after=("Redis",))
def dead_letters(system: System) -> Finding:
    number = system.ask("LLEN", system.key("set-aside"))
    if not number:
        return ok("none", number=0)
    return problem(
        f"{count(number, 'task')}, lost with its process four times each, or of an unknown name",
        "it takes too much memory, its code ends the process, or the worker does not know it",
        "celery-pi dead-letters lists them; mend their code, and then --return puts them back",
        number=number,
    )
