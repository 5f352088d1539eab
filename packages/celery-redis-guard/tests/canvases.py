"""Canvases whose tasks tell a driver when they begin and when they end, and wait for its leave."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from celery import Celery, chain, chord, group
from celery.backends.redis import RedisBackend
from celery.signals import worker_ready


def tell(word: str, case: str = "", name: str = "") -> None:
    """Send a line to the driver, and go on when it has replied."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["CANVAS_DRIVER"])
        connection.sendall(f"{word} {os.getpid()} {case} {name}\n".encode())
        connection.recv(1)


def step(*arguments: Any) -> str:
    case, name = arguments[-2:]
    tell("begin", case, name)
    tell("end", case, name)
    return str(name)


def retried(self: Any, *arguments: Any) -> str:
    case, name = arguments[-2:]
    tell("begin", case, name)
    if not self.request.retries:
        raise self.retry(countdown=0)
    tell("end", case, name)
    return str(name)


def replaced(self: Any, case: str, name: str) -> None:
    tell("begin", case, name)
    step = self.app.tasks["step"]
    raise self.replace(chain(step.si(case, f"{name}1"), step.si(case, f"{name}2")))


def growing(self: Any, case: str, name: str) -> str:
    tell("begin", case, name)
    self.add_to_chord(self.app.tasks["step"].si(case, f"{name}1"))
    tell("end", case, name)
    return name


def failing(case: str, name: str) -> None:
    tell("begin", case, name)
    raise ValueError(name)


def errback(task_id: str) -> None:
    tell("end", task_id.partition("/")[0], "errback")


class SendersBackend(RedisBackend):  # type: ignore[misc]  # it has no types
    """Listens for no result: one that is deleted while Redis is away could block its process."""

    def on_task_call(self, producer: Any, task_id: str) -> None:
        pass

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:  # noqa: ARG002
        return result

    def remove_pending_result(self, result: Any) -> Any:
        return result


class Tasks:
    """The tasks of an app. Those in a canvas get its case and their own name as last arguments."""

    def __init__(self, app: Celery) -> None:
        self.step = app.task(step, name="step")
        self.retried = app.task(retried, name="retried", bind=True)
        self.replaced = app.task(replaced, name="replaced", bind=True)
        self.growing = app.task(growing, name="growing", bind=True)
        self.failing = app.task(failing, name="failing")
        self.errback = app.task(errback, name="errback")
        worker_ready.connect(lambda **_: tell("ready"), weak=False)


class Canvas(NamedTuple):
    """How it is built of the tasks and a case's name, and which tasks are to end."""

    build: Callable[[Any, str], Any]
    ends: tuple[str, ...]


def _step(tasks: Any, case: str, name: str) -> Any:
    return tasks.step.s(case, name)


CANVASES = {
    "single task": Canvas(lambda t, case: _step(t, case, "a"), ("a",)),
    "chain": Canvas(lambda t, case: chain(*(_step(t, case, name) for name in "abc")), tuple("abc")),
    "group": Canvas(lambda t, case: group(_step(t, case, name) for name in "abc"), tuple("abc")),
    "chord": Canvas(
        lambda t, case: chord([_step(t, case, name) for name in "ab"], _step(t, case, "body")),
        ("a", "b", "body"),
    ),
    "chord, a retry in its header": Canvas(
        lambda t, case: chord(
            [t.retried.s(case, "a"), _step(t, case, "b")], _step(t, case, "body")
        ),
        ("a", "b", "body"),
    ),
    "nested chord": Canvas(
        lambda t, case: chord(
            [
                chord([_step(t, case, name) for name in "ab"], _step(t, case, "inner")),
                _step(t, case, "c"),
            ],
            _step(t, case, "body"),
        ),
        ("a", "b", "inner", "c", "body"),
    ),
    "link_error": Canvas(
        lambda t, case: t.failing.s(case, "a").set(task_id=f"{case}/a").on_error(t.errback.s()),
        ("errback",),
    ),
    "chain with a group in it": Canvas(
        lambda t, case: chain(
            _step(t, case, "a"),
            group(_step(t, case, name) for name in "bc"),
            _step(t, case, "body"),
        ),
        ("a", "b", "c", "body"),
    ),
    "chord, a failure in its header": Canvas(
        lambda t, case: chord(
            [_step(t, case, "a"), t.failing.s(case, "b")],
            _step(t, case, "body").set(task_id=f"{case}/body").on_error(t.errback.s()),
        ),
        ("a", "errback"),
    ),
    "chord, a header that is replaced": Canvas(
        lambda t, case: chord(
            [t.replaced.s(case, "a"), _step(t, case, "b")], _step(t, case, "body")
        ),
        ("a1", "a2", "b", "body"),
    ),
    "chord that grows": Canvas(
        lambda t, case: chord(
            [t.growing.s(case, "a"), _step(t, case, "b")], _step(t, case, "body")
        ),
        ("a", "a1", "b", "body"),
    ),
}
