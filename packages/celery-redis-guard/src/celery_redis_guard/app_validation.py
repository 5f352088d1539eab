"""What must be true of the app's final configuration for no task to be lost.

Each function yields one sentence for each violation. No sentence shows a value that could be a
secret.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.app.routes import MapRoute
from celery.concurrency import get_implementation, prefork
from celery.utils.imports import symbol_by_name

from celery_redis_guard import mode
from celery_redis_guard.forced_defaults import MARGIN, always, time_limit

JSON = {"json", "application/json"}
SERIALIZERS = ("task_serializer", "result_serializer", "event_serializer")
ACCEPTED = ("accept_content", "result_accept_content")


def errors(app: Celery) -> Iterator[str]:
    """A sentence for each reason not to run this app."""
    if replaced := list(_forced(app)):
        yield from replaced
        return
    yield from _time_limits(app)
    yield from _countdowns(app)
    yield from _serializers(app)
    yield from _result_expiry(app)
    yield from _queues(app)
    yield from _pool(app)
    if mode.current().guarded:
        yield from _classes(app)


def warnings(app: Celery) -> Iterator[str]:
    """A sentence for each task whose own options allow it to be lost."""
    for name, task in _tasks(app):
        for option in ("acks_late", "reject_on_worker_lost"):
            if not getattr(task, option):
                yield f"{name} has {option}=False: it is lost when its process is killed"


def _forced(app: Celery) -> Iterator[str]:
    for key, value in always().items():
        if app.conf[key] != value:
            yield f"{key} is {app.conf[key]}, not {value}: a module of the app replaces app.conf"


def _pool(app: Celery) -> Iterator[str]:
    kind = prefork.TaskPool
    if mode.current().guarded:
        from celery_redis_guard.pool import TaskPool as kind
    if not issubclass(get_implementation(app.conf.worker_pool), kind):
        yield (
            f"worker_pool is {app.conf.worker_pool}, in which no time limit and no memory limit "
            "holds: leave it out, or say prefork"
        )


def _classes(app: Celery) -> Iterator[str]:
    """Whatever names them: a setting, a URL, or a subclass of Celery."""
    from celeryredisguard import Backend, Consumer, Transport

    used = {
        "worker_consumer": (symbol_by_name(app.conf.worker_consumer), Consumer),
        "the broker's transport": (app.connection_for_read().get_transport_cls(), Transport),
        "the result backend": (type(app.backend), Backend),
    }
    for what, (kind, ours) in used.items():
        if not issubclass(kind, ours):
            yield (
                f"{what} is {kind.__module__}.{kind.__qualname__}, with which tasks are lost when "
                f"a process is killed: leave it out, or derive from {ours.__qualname__} of "
                f"{ours.__module__}"
            )


def _tasks(app: Celery) -> list[tuple[str, Any]]:
    return sorted(app.tasks.items())


def _time_limits(app: Celery) -> Iterator[str]:
    names = ("time_limit", "soft_time_limit")
    limits = [(f"task_{name}", app.conf[f"task_{name}"]) for name in names]
    limits += [
        (f"{name} of {task}", getattr(app.tasks[task], name))
        for task, _ in _tasks(app)
        for name in names
        if getattr(app.tasks[task], name) != app.conf[f"task_{name}"]
    ]
    for what, seconds in limits:
        if seconds and seconds > time_limit():
            yield (
                f"{what} is {seconds} s, and a stop of the worker waits {time_limit()} s: "
                f"set celery_time_limit to {seconds}, or lower it"
            )


def _countdowns(app: Celery) -> Iterator[str]:
    visibility = app.conf.broker_transport_options["visibility_timeout"]
    for what, seconds in _declared_countdowns(app):
        if seconds + MARGIN > visibility:
            yield (
                f"{what} is {seconds} s, and a task that is away for {visibility} s "
                f"is run twice: set celery_longest_countdown to {seconds}"
            )


def _declared_countdowns(app: Celery) -> Iterator[tuple[str, float]]:
    for name, task in _tasks(app):
        yield f"default_retry_delay of {name}", task.default_retry_delay or 0
        if getattr(task, "retry_backoff", False):
            yield f"retry_backoff_max of {name}", getattr(task, "retry_backoff_max", 600)
    for name, entry in app.conf.beat_schedule.items():
        yield f"countdown of {name} in beat_schedule", _options(entry).get("countdown") or 0


def _options(entry: Any) -> dict[str, Any]:
    """Options of an entry of the beat schedule, which is a dict or a ScheduleEntry."""
    options = entry.get("options") if isinstance(entry, dict) else entry.options
    return options or {}


def _serializers(app: Celery) -> Iterator[str]:
    named = [(key, [app.conf[key]]) for key in SERIALIZERS]
    named += [(key, app.conf[key] or []) for key in ACCEPTED]
    named += [(f"serializer of {name}", [task.serializer]) for name, task in _tasks(app)]
    for what, formats in named:
        for other in sorted({str(kind) for kind in formats if kind} - JSON):
            yield (
                f"{what} is {other}: say json alone, because with formats such as pickle whoever "
                "writes to Redis runs code of his own here"
            )


def _result_expiry(app: Celery) -> Iterator[str]:
    expires = app.conf.result_expires
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if not seconds or seconds < 0:
        yield f"result_expires is {expires}, so results fill Redis: give it seconds, such as 86400"


def _queues(app: Celery) -> Iterator[str]:
    consumed = os.environ["CELERY_PI_QUEUES"].split(",")
    senders: dict[str, str] = {}
    for sender, queue in _routes(app):
        if queue:
            senders.setdefault(getattr(queue, "name", queue), sender)
    for name, sender in sorted(senders.items()):
        if name not in consumed:
            yield (
                f"{sender} sends to the queue {name}, which no worker consumes: "
                f"add {name} to celery_queues"
            )


def _routes(app: Celery) -> Iterator[tuple[str, Any]]:
    """Who sends tasks, and to which queue (a name, a kombu.Queue or None), as far as declared."""
    yield "task_default_queue", app.conf.task_default_queue
    for router in app.amqp.routes:
        if isinstance(router, MapRoute):
            for route in (*router.map.values(), *router.patterns.values()):
                yield "task_routes", _queue(route)
    for name, task in _tasks(app):
        yield name, getattr(task, "queue", None)
        with suppress(Exception):  # a router of the app's may need the task's arguments
            yield name, _queue(app.amqp.router.lookup_route(name, (), {}, {}, task))
    for name, entry in app.conf.beat_schedule.items():
        yield f"{name} in beat_schedule", _options(entry).get("queue")


def _queue(route: Any) -> Any:
    return route if isinstance(route, str) else dict(route or {}).get("queue")
