"""Managed by celery-pi. Queues: who consumes them, and what waits where nobody does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase

from celery_pi_tools.system import System
from celery_pi_tools.worker_control import SEPARATOR

LONG = 3  # seconds that are spent on looking at keys
PAGE = 1000  # keys at a time
# Lists of ours and Celery's own that are no queues of tasks.
NO_QUEUES = ("set-aside", "celery-taskset-meta-", "celeryev.")
LARGEST = 2**20  # characters of a task that is parsed
ANSWERS = ".reply.celery.pidbox"


def queue_of(name: str) -> str:
    """The queue that a list belongs to: there is one for each priority."""
    return name.partition(SEPARATOR)[0]


def consumed(system: System) -> set[str]:
    """Queues of the settings, and those that any worker consumes."""
    answers = system.worker_answers[0]["active_queues"].values()
    return {
        *system.settings["celery_queues"],
        *(queue["name"] for each in answers for queue in each),
    }


def forgotten(system: System) -> dict[str, int]:
    """Number of tasks in each queue that nobody consumes."""
    consumed_queues = consumed(system)
    numbers: dict[str, int] = {}
    for key in lists(system):
        queue = queue_of(key.removeprefix(system.key("")))
        if queue not in consumed_queues and is_queue(system, key):
            numbers[queue] = numbers.get(queue, 0) + system.ask("LLEN", key)
    return numbers


def is_queue(system: System, key: str) -> bool:
    """Whether the list holds tasks, and is no other app's."""
    plain = key.removeprefix(system.key(""))
    if not key.startswith(system.key("")) or plain.startswith(NO_QUEUES) or ANSWERS in plain:
        return False
    if ":" in plain or any(fnmatchcase(key, own) for own in system.settings["redis_app_keys"]):
        return False  # with a prefix of another app's, or the site's own
    return is_task(system.ask("LINDEX", key, "-1", user="admin"))


def is_task(text: str | None) -> bool:
    if text and len(text) > LARGEST:  # to parse it could take all memory
        return '"headers"' in text and '"task"' in text
    try:
        return "task" in json.loads(text or "")["headers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def lists(system: System) -> Iterator[str]:
    """Names of lists, in no order; all of them if there is time."""
    end, cursor = time.monotonic() + LONG, "0"
    while True:
        cursor, page = system.ask("SCAN", cursor, "COUNT", str(PAGE), "TYPE", "list")
        yield from page
        if cursor == "0" or time.monotonic() > end:
            return
