"""Outbox: what follows a task is sent in the step that keeps its result.

Celery sends the next task of a chain, and the callbacks of a task, before it keeps the result. If
the process is killed in between, the task runs again, and so does all that follows. Here those
messages wait in the process, and the script that keeps the result pushes them to their queues
(`chords`). What a task sends by itself, such as `other.delay()`, is sent at once.

Only what goes to the Redis and the database of the results can be pushed there; anything else is
sent as Celery does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from uuid import uuid4

Place = tuple[Any, ...]  # a Redis, as far as a client knows it, and its database
Held = list[tuple[str, str]]  # names of queues, and the messages for them


class Outbox:
    """The messages that wait."""

    def __init__(
        self, place: Place, expected: set[str] | None = None, task_id: str | None = None
    ) -> None:
        self.place = place
        self.expected = expected  # ids of the tasks that are held; None: each
        self.task_id = task_id  # whom they follow
        self.held: Held = []


class Growth(NamedTuple):
    """A chord that is to grow by the task that is sent next."""

    place: Place
    members: str  # key of the chord's members
    size: str  # key of its growth
    task_id: str


_current: ContextVar[Outbox | None] = ContextVar("outbox", default=None)
_growth: ContextVar[Growth | None] = ContextVar("growth", default=None)


def place_of(pool: Any) -> Place:
    """Where the connections of that pool of redis-py lead to."""
    options = pool.connection_kwargs
    if path := options.get("path"):
        return str(path), int(options.get("db") or 0)
    return options.get("host"), int(options.get("port") or 6379), int(options.get("db") or 0)


def current(task_id: Any, pool: Any) -> Held | None:
    """Where a message waits that would be sent by that pool of redis-py; None: nowhere."""
    outbox = _current.get()
    if outbox is None or not (outbox.expected is None or task_id in outbox.expected):
        return None
    return outbox.held if place_of(pool) == outbox.place else None


def grow(growth: Growth | None) -> None:
    """Let the chord grow in the step that sends the next task."""
    _growth.set(growth)


def growth(pool: Any) -> Growth | None:
    """What grows by the message that is about to be sent by that pool of redis-py."""
    growing = _growth.get()
    return growing if growing and growing.place == place_of(pool) else None


def begin(request: Any, place: Place) -> None:
    """From now on, hold what follows the task of that request."""
    if request.is_eager:  # runs within another
        return
    grow(None)
    following = [*(request.callbacks or ()), *(request.chain or ())[-1:]]
    for signature in following:
        if not signature.get("subtask_type"):
            signature["options"].setdefault("task_id", str(uuid4()))
    _current.set(Outbox(place, set(_ids(following)), request.id) if following else None)


def end(task_id: str) -> Held:
    """Hold nothing of that task's any more; what was held."""
    outbox = _current.get()
    if outbox is None or outbox.task_id != task_id:
        return []
    _current.set(None)
    return outbox.held


@contextmanager
def holding_all(place: Place) -> Iterator[Held]:
    """Hold each message meanwhile."""
    outbox = Outbox(place)
    token = _current.set(outbox)
    try:
        yield outbox.held
    finally:
        _current.reset(token)


def _ids(signatures: Any) -> Iterator[str]:
    """Ids of the tasks of these signatures and, in a chain, group or chord, of their parts."""
    for signature in signatures:
        if task_id := signature["options"].get("task_id"):
            yield task_id
        if signature.get("subtask_type"):
            parts = signature["kwargs"]
            header = parts.get("header") or ()
            # The header of a chord is a group, or a list of tasks.
            yield from _ids([header] if isinstance(header, dict) else header)
            yield from _ids(parts.get("tasks") or ())
            yield from _ids([parts["body"]] if parts.get("body") else ())
