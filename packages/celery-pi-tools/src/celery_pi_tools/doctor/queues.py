"""Managed by celery-pi. Queues: who consumes them, and what waits where nobody does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase

from celery_pi_checks.control import BETWEEN

from celery_pi_doctor.look import Look

LONG = 3  # seconds that are spent on looking at keys
PAGE = 1000  # keys at a time
# Lists of ours and Celery's own that are no queues of tasks.
NO_QUEUES = ("set-aside", "celery-taskset-meta-", "celeryev.")
LARGEST = 2**20  # characters of a task that is parsed
ANSWERS = ".reply.celery.pidbox"


def queue_of(name: str) -> str:
    """The queue that a list belongs to: there is one for each priority."""
    return name.partition(BETWEEN)[0]


def consumed(look: Look) -> set[str]:
    """Queues of the settings, and those that a worker says it consumes."""
    answers = look.told[0]["active_queues"].values()
    return {*look.value("celery_queues"), *(queue["name"] for each in answers for queue in each)}


def forgotten(look: Look) -> dict[str, int]:
    """Number of tasks in each queue that nobody consumes."""
    known = consumed(look)
    found: dict[str, int] = {}
    for key in lists(look):
        queue = queue_of(key.removeprefix(look.key("")))
        if queue not in known and is_queue(look, key):
            found[queue] = found.get(queue, 0) + look.ask("LLEN", key)
    return found


def is_queue(look: Look, key: str) -> bool:
    """Whether the list holds tasks, and is no other app's."""
    plain = key.removeprefix(look.key(""))
    if not key.startswith(look.key("")) or plain.startswith(NO_QUEUES) or ANSWERS in plain:
        return False
    if ":" in plain or any(fnmatchcase(key, own) for own in look.value("redis_app_keys")):
        return False  # with a prefix of another app's, or the site's own
    return is_task(look.ask("LINDEX", key, "-1", user="admin"))


def is_task(text: str | None) -> bool:
    if text and len(text) > LARGEST:  # to parse it could take all memory
        return '"headers"' in text and '"task"' in text
    try:
        return "task" in json.loads(text or "")["headers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def lists(look: Look) -> Iterator[str]:
    """Names of lists, in no order; all of them if there is time."""
    end, cursor = time.monotonic() + LONG, "0"
    while True:
        cursor, page = look.ask("SCAN", cursor, "COUNT", str(PAGE), "TYPE", "list")
        yield from page
        if cursor == "0" or time.monotonic() > end:
            return
