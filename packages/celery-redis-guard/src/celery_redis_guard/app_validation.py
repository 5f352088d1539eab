"""Managed by celery-pi. What must be true of the app as it really ends up, for no task to be lost.

One sentence for each thing that is not; they show no value that could be a secret.
"""

import os
from contextlib import suppress
from datetime import timedelta

from celery.app.routes import MapRoute

from celery_redis_guard.forced_defaults import MARGIN, limit

JSON = {"json", "application/json"}
SERIALIZERS = ("task_serializer", "result_serializer", "event_serializer")
PREFORK = {"prefork", "processes"}
ACCEPTED = ("accept_content", "result_accept_content")


def problems(app):
    """A sentence for each reason not to run this app."""
    yield from _limits(app)
    yield from _countdowns(app)
    yield from _formats(app)
    yield from _results(app)
    yield from _queues(app)
    if app.conf.worker_pool not in PREFORK:
        yield (
            f"worker_pool is {app.conf.worker_pool}, in which no time limit and no memory limit "
            "holds: leave it out, or say prefork"
        )


def warnings(app):
    """A sentence for each task that its own code lets be lost."""
    for name, task in _tasks(app):
        for option in ("acks_late", "reject_on_worker_lost"):
            if not getattr(task, option):
                yield f"{name} has {option}=False: it is lost when its process is killed"


def _tasks(app):
    return sorted(app.tasks.items())


def _limits(app):
    names = ("time_limit", "soft_time_limit")
    limits = [(f"task_{name}", app.conf[f"task_{name}"]) for name in names]
    limits += [
        (f"{name} of {task}", getattr(app.tasks[task], name))
        for task, _ in _tasks(app)
        for name in names
        if getattr(app.tasks[task], name) != app.conf[f"task_{name}"]
    ]
    for what, seconds in limits:
        if seconds and seconds > limit():
            yield (
                f"{what} is {seconds} s, and a stop of the worker waits {limit()} s: "
                f"set celery_time_limit to {seconds}, or lower it"
            )


def _countdowns(app):
    visibility = app.conf.broker_transport_options["visibility_timeout"]
    for what, seconds in _known_countdowns(app):
        if seconds + MARGIN > visibility:
            yield (
                f"{what} is {seconds} s, and a task that is away for {visibility} s "
                f"is run twice: set celery_longest_countdown to {seconds}"
            )


def _known_countdowns(app):
    for name, task in _tasks(app):
        yield f"default_retry_delay of {name}", task.default_retry_delay or 0
        if getattr(task, "retry_backoff", False):
            yield f"retry_backoff_max of {name}", getattr(task, "retry_backoff_max", 600)
    for name, entry in app.conf.beat_schedule.items():
        yield f"countdown of {name} in beat_schedule", _options(entry).get("countdown") or 0


def _options(entry):
    return (entry.get("options") or {}) if isinstance(entry, dict) else entry.options


def _formats(app):
    named = [(key, [app.conf[key]]) for key in SERIALIZERS]
    named += [(key, app.conf[key] or []) for key in ACCEPTED]
    named += [(f"serializer of {name}", [task.serializer]) for name, task in _tasks(app)]
    for what, formats in named:
        for other in sorted({str(kind) for kind in formats if kind} - JSON):
            yield (
                f"{what} is {other}: say json alone, because with formats such as pickle whoever "
                "writes to Redis runs code of his own here"
            )


def _results(app):
    expires = app.conf.result_expires
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if not seconds or seconds < 0:
        yield f"result_expires is {expires}, so results fill Redis: give it seconds, such as 86400"


def _queues(app):
    consumed = os.environ["CELERY_PI_QUEUES"].split(",")
    senders = {}
    for what, queue in _destinations(app):
        if queue:
            senders.setdefault(getattr(queue, "name", queue), what)
    for queue, what in sorted(senders.items()):
        if queue not in consumed:
            yield (
                f"{what} sends to the queue {queue}, which no worker consumes: "
                f"add {queue} to celery_queues"
            )


def _destinations(app):
    """Who sends tasks, and to which queue, as far as it is written down."""
    yield "task_default_queue", app.conf.task_default_queue
    for router in app.amqp.routes:
        if isinstance(router, MapRoute):
            for route in (*router.map.values(), *router.patterns.values()):
                yield "task_routes", _queue(route)
    for name, task in _tasks(app):
        yield name, getattr(task, "queue", None)
        with suppress(Exception):  # a router of the app's may want arguments
            yield name, _queue(app.amqp.router.lookup_route(name, (), {}, {}, task))
    for name, entry in app.conf.beat_schedule.items():
        yield f"{name} in beat_schedule", _options(entry).get("queue")


def _queue(route):
    return route if isinstance(route, str) else dict(route or {}).get("queue")
