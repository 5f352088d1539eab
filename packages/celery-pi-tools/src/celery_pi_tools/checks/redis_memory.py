"""Managed by celery-pi. Redis' memory: what fills it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from celery_pi_tools.checks.queues import consumed, queue_of
from celery_pi_tools.checks.redis_state import HIGH
from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.system import System
from celery_pi_tools.table import percent, size

LONG = 3  # seconds that are spent on looking at keys
PAGE = 200  # keys at a time
BIG = 25  # percent of what is in use, in one key
KEPT = 86400  # seconds for which a result is kept that nobody has given a time to
RESULTS = ("celery-task-meta-", "celery-taskset-meta-")
FOR_A_TIME, FOR_EVER = "results that expire", "results that never expire"


class Contents(NamedTuple):
    """Bytes of each kind of keys, extrapolated; the largest key with its bytes; and the names of
    results without an expiry that were seen."""

    kinds: Counter[str]
    largest: tuple[int, str]
    endless: list[str]


@check("Redis' memory", "Redis' memory fills", "doctor", after=("Redis", "Redis' settings"))
def fills(system: System) -> Finding | None:
    used, limit = system.number("used_memory"), system.number("maxmemory")
    if not limit or percent(used, limit) < HIGH:
        return None
    sample = contents(system)
    # Results that expire are given up for what is new, if need be.
    spare = 0 if system.config("maxmemory-policy") == "noeviction" else sample.kinds[FOR_A_TIME]
    if percent(used - spare, limit) < HIGH:
        return None
    symptom = f"{size(used)} of {size(limit)}: {shown(sample, used)}"
    impact = "when it is full, new tasks are refused"
    if sample.endless:
        will = f"let the results without an expiry go after {KEPT // 3600} hours"
        return problem(symptom, impact, will, lambda: expire(system.refresh()))
    return problem(
        symptom,
        impact,
        "run what waits (systemctl status celery-worker; celery_concurrency), send less, keep big "
        "data out of tasks and results, or raise redis_maxmemory and deploy",
    )


def shown(sample: Contents, used: int) -> str:
    """The three largest kinds, and a key that takes a large share by itself."""
    most = [f"{size(number)} {kind}" for kind, number in sample.kinds.most_common(3)]
    number, name = sample.largest
    big = [f"{size(number)} in the one key {name}"] if percent(number, used) >= BIG else []
    return ", ".join([*most, *big])


def contents(system: System) -> Contents:
    """A sample of the app's database, within LONG seconds, extrapolated."""
    kinds: Counter[str] = Counter()
    largest, endless, seen = (0, ""), [], 0
    queues = consumed(system)
    for name in keys(system, LONG):
        number = system.ask("MEMORY", "USAGE", name) or 0  # it may be gone
        kind = kind_of(system, name, queues)
        kinds[kind] += number
        largest, seen = max(largest, (number, name)), seen + 1
        if kind == FOR_EVER:
            endless.append(name)
    whole = system.ask("DBSIZE")
    for kind in kinds if 0 < seen < whole else ():
        kinds[kind] = kinds[kind] * whole // seen
    return Contents(kinds, largest, endless)


def kind_of(system: System, name: str, queues: set[str]) -> str:
    """What the key is for."""
    plain = name.removeprefix(system.key(""))
    if plain.startswith(RESULTS):
        return FOR_EVER if system.ask("TTL", name) == -1 else FOR_A_TIME
    if plain.startswith("unacked"):
        return "tasks that run or wait for their time"
    queue = queue_of(plain)
    if queue in queues:
        return f"tasks in the queue {queue}"
    return "other lists" if system.ask("TYPE", name) == "list" else "other keys"


def keys(system: System, seconds: float) -> Iterator[str]:
    """Names of keys, in no order; all of them if there is time."""
    end, cursor = time.monotonic() + seconds, "0"
    while True:
        cursor, page = system.ask("SCAN", cursor, "COUNT", str(PAGE))
        yield from page
        if cursor == "0" or time.monotonic() > end:
            return


def expire(system: System) -> None:
    """Sets an expiry for each result that has none, within a time; the next run continues."""
    for name in keys(system, 10 * LONG):
        if name.removeprefix(system.key("")).startswith(RESULTS):
            system.ask("EXPIRE", name, str(KEPT), "NX", user="admin")
