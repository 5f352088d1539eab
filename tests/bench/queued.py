"""What a task costs when very many wait: memory, sending another, and taking one."""

from __future__ import annotations

import json

from tests.bench.figure import Effort, Figure, Goal
from tests.bench.queue_fill import fill, settle
from tests.faults.site import Site

_DEPTHS = (10, 1_000, 100_000)
# Milliseconds, the median of so many, after a few that open connections.
_TIMES = """
import json, time
from statistics import median
from observations_nids import celery_app as app
from observations_nids.tasks import add

def lasts(do):
    start = time.perf_counter()
    do()
    return (time.perf_counter() - start) * 1000

send = lambda: add.delay(1, 2)
with app.connection_for_read() as connection:
    queue = app.amqp.queues["celery"](connection.default_channel)
    take = lambda: queue.get().ack()
    for do in (send, take) * 5:
        do()
    turns = [(lasts(send), lasts(take)) for _ in range(200)]
print(json.dumps([median(times) for times in zip(*turns)]))
"""
_MEMORY = """`used_memory` of Redis. The worker is stopped, so that the tasks stay."""
_LATENCY = """Medians of 200 calls of `add`, sent and taken in turns by a process of the app, so the
queue stays as long as it is. To take is to get and acknowledge a message with kombu, as a worker
does without running it."""


def lengths(site: Site, effort: Effort) -> list[Figure]:
    """Memory, and the times to send and to take a task, by the length of the queue."""
    site.ctl("stop", site.worker)
    depths = _DEPTHS[:2] if effort.quick else _DEPTHS
    names = {depth: f"{depth:,} queued" for depth in depths}
    found: list[dict[str, list[float]]] = [{name: [] for name in names.values()} for _ in range(3)]
    for _ in range(effort.runs):
        for depth, name in names.items():
            for runs, value in zip(found, _costs(site, depth), strict=True):
                runs[name].append(value)
    site.ask("del", "celery")
    settle(site)
    site.ctl("start", site.worker)
    goals = [Goal(names[depths[-1]], names[depths[0]], 1.5)]
    title = "by the length of the queue"
    return [
        Figure("growth-memory", f"Memory of Redis, {title}", "MB", found[0], note=_MEMORY),
        Figure("growth-send", f"Sending a task, {title}", "ms", found[1], goals, _LATENCY),
        Figure("growth-take", f"Taking a task, {title}", "ms", found[2], goals, _LATENCY),
    ]


def _costs(site: Site, depth: int) -> tuple[float, float, float]:
    """Megabytes, and milliseconds to send and to take."""
    fill(site, "add.delay(1, 2)", depth)
    info = dict(line.split(":", 1) for line in site.ask("info", "memory").split() if ":" in line)
    send, take = json.loads(site.in_app(_TIMES))
    return int(info["used_memory"]) / 1e6, send, take
