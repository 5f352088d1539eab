"""Ownership: a task that a worker has taken and not acknowledged stays with it until it dies.

kombu gives a task to another worker when it is older than the visibility timeout, or when the
connection to Redis is lost, even while it runs; and a killed worker's tasks only then. Here a hash
in Redis records the owner of each unacknowledged task: `liveness` requeues at once what a dead
worker had, and nobody takes what a live one has. What cannot be written while Redis is away is
deferred to the next connection.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache, wraps
from logging import getLogger
from time import time
from typing import Any, NamedTuple

from billiard.einfo import ExceptionWithTraceback
from celery import current_app
from celery.app.task import Context
from celery.exceptions import InvalidTaskError, TaskRevokedError, WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.worker import request, state
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.transport import virtual
from kombu.transport.redis import QoS
from kombu.utils.json import dumps, loads
from redis import Redis

from celery_redis_guard.identity import worker_id
from celery_redis_guard.oom_exempt import ALLOW_OOM

OWNERS_KEY = "unacked_owner"  # hash: delivery tag -> worker id
DEAD_LETTERS_KEY = "set-aside"  # list of [message, keys of its queues, time]
CRASH_COUNT = "x-celery-pi-lost"  # header: how often the process that ran the task has crashed
UNKNOWN = "x-celery-pi-unknown"  # header of a dead letter whose task the worker did not know
RESTORED = 1000  # tasks that the visibility timeout requeues at a time, each ten seconds
MAX_REDELIVERIES = 3  # then the task is a dead letter: it would crash its process for ever
ANY_OWNER, NO_OWNER = "*", ""
STRING = r'"(?:[^"\\]|\\.)*"'
ENTRY = re.compile(rf"\[(.*),{STRING},({STRING})\]", re.DOTALL)  # message, exchange, routing key

# Requeues dead letters whose task the worker knows by now, to queues that it consumes; the others
# keep their order. KEYS: dead letters. ARGV: header, number of queues, queues, names of tasks.
RETURN_SCRIPT = (
    ALLOW_OOM
    + """
local queues, tasks = {}, {}
for place = 3, #ARGV do
  (place <= 2 + ARGV[2] and queues or tasks)[ARGV[place]] = true
end
local function parts(entry)
  local message, names = unpack(cjson.decode(entry))
  local headers = cjson.decode(message).headers
  if not headers[ARGV[1]] or not tasks[headers.task] or #names == 0 then return end
  for _, name in ipairs(names) do
    if not queues[name] then return end
  end
  return message, names
end
local returned = 0
for _ = 1, redis.call('LLEN', KEYS[1]) do
  local entry = redis.call('RPOP', KEYS[1])
  local valid, message, names = pcall(parts, entry)
  if valid and message then
    for _, name in ipairs(names) do redis.call('LPUSH', name, message) end
    returned = returned + 1
  else
    redis.call('LPUSH', KEYS[1], entry)
  end
end
return returned
"""
)

# KEYS: unacked, unacked_index, owners. ARGV: delivery tag, entry, time, worker id.
RECORD_SCRIPT = (
    ALLOW_OOM
    + """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
"""
)

# Moves messages that have that owner out of what is unacknowledged; replies to each whether it was
# there. KEYS: unacked, unacked_index, owners. ARGV: owner, and for each: delivery tag, LPUSH or
# RPUSH, message, number of lists, lists.
RELEASE_SCRIPT = (
    ALLOW_OOM
    + """
local moved, place = {}, 2
while place <= #ARGV do
  local tag, command, message, lists = unpack(ARGV, place, place + 3)
  local owner, there = redis.call('HGET', KEYS[3], tag) or '', 0
  if ARGV[1] == '*' or ARGV[1] == owner then
    there = redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('HDEL', KEYS[3], tag)
    if there == 1 then
      for list = place + 4, place + 3 + lists do redis.call(command, ARGV[list], message) end
    end
  end
  moved[#moved + 1] = there
  place = place + 4 + lists
end
return moved
"""
)

# The oldest that nobody owns. KEYS: unacked_index, owners. ARGV: latest time, how many at most.
UNOWNED_SCRIPT = """
local tags = {}
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, ARGV[1])) do
  if #tags == tonumber(ARGV[2]) then break end
  if redis.call('HEXISTS', KEYS[2], tag) == 0 then tags[#tags + 1] = tag end
end
return tags
"""

# KEYS: dead letters. ARGV: an entry.
KEEP_SCRIPT = ALLOW_OOM + "redis.call('LPUSH', KEYS[1], ARGV[1])"

logger = getLogger(__name__)

# Calls that failed because Redis was away: name of a method of OwnershipQoS, and its argument.
deferred: list[tuple[str, Any]] = []
os.register_at_fork(after_in_child=deferred.clear)

# Delivery tags of tasks whose process crashed, until they are requeued.
crashed_tags: set[str] = set()


def headers_of(payload: dict[str, Any]) -> dict[str, Any]:
    """The headers of a message, which may have none, or what is none."""
    headers = payload.get("headers")
    return headers if isinstance(headers, dict) else {}


def is_readable(item: bytes) -> bool:
    """Whether that is a message as kombu makes it, as far as kombu relies on it."""
    try:
        properties = loads(item.decode())["properties"]
        to = properties["delivery_info"]
        words = (properties["delivery_tag"], to["exchange"], to["routing_key"])
    except Exception:  # a value such as {"__type__": "uuid"} may raise any
        return False
    return all(isinstance(word, str) for word in words)


def defer(method: str, argument: Any) -> None:
    """Let the next connection to Redis make that call of OwnershipQoS."""
    deferred.append((method, argument))


class Placed(NamedTuple):
    """Where a message goes: a command that pushes, the lists, and the text."""

    command: str
    keys: list[str]
    text: str


class OwnershipQoS(QoS):
    """The unacknowledged tasks of one connection."""

    latest: Any = None

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        OwnershipQoS.latest = self
        while deferred:
            method, argument = deferred[-1]
            getattr(self, method)(argument)
            deferred.pop()

    def _unprefixed(self) -> tuple[Any, list[str]]:
        """A client that does not prefix keys, for scripts, and the full names of the three keys."""
        keys = (self.unacked_key, self.unacked_index_key, OWNERS_KEY)
        prefix = self.channel.global_keyprefix
        return Redis(connection_pool=self.channel.pool), [prefix + key for key in keys]

    # -- taking a task

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record the message as unacknowledged, unless the fetch script has done so."""
        if self.channel.fetched_at:
            self.channel.fetched_at = None
        else:
            try:
                self._record(message, delivery_tag)
            except Exception:
                defer("requeue_unrecorded", message)
                raise
        virtual.QoS.append(self, message, delivery_tag)

    def _record(self, message: Any, tag: str) -> None:
        delivery = message.delivery_info
        entry = dumps([message._raw, delivery["exchange"], delivery["routing_key"]])
        client, keys = self._unprefixed()
        client.eval(RECORD_SCRIPT, len(keys), *keys, tag, entry, time(), worker_id())

    def tags_fetched_at(self, when: float) -> list[Any]:
        """Delivery tags that the fetch script of that time has recorded: one or none."""
        client, keys = self._unprefixed()
        tags: Any = client.zrevrangebyscore(keys[1], when, when)
        return list(tags)

    # -- deferred calls

    def requeue_unrecorded(self, message: Any) -> None:
        """Requeue a message that was taken and could not be recorded."""
        self._record(message, message.delivery_tag)
        self.requeue(message.delivery_tag)

    def requeue_fetched_at(self, when: float) -> None:
        """Requeue what a fetch script recorded whose reply never arrived."""
        for tag in self.tags_fetched_at(when):
            self.requeue(tag)

    def forget(self, tag: Any) -> None:
        """Delete a task that is done from what is unacknowledged."""
        self._remove_from_indices(tag).hdel(OWNERS_KEY, tag).execute()

    def _is_open(self) -> bool:
        """kombu takes a connection apart before it releases its channels."""
        transport = self.channel.connection
        return transport is not None and transport.client is not None

    def call_or_defer(self, method: str, tag: str) -> None:
        """Call the method on this connection, or on the latest if this one is closed; defer it if
        none is open or Redis is away. Either way the tag is free for this channel's prefetch."""
        qos = self if self._is_open() else OwnershipQoS.latest
        try:
            if qos._is_open():
                getattr(qos, method)(tag)
            else:
                defer(method, tag)
        except self.channel.connection_errors:
            defer(method, tag)
        self._quick_ack(tag)

    # -- releasing a task

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge with the next fetch if one is imminent, otherwise at once."""
        if self._is_open() and self.channel.fetch_is_imminent():
            self.channel.pending_acks.append(delivery_tag)
            self._quick_ack(delivery_tag)
        else:
            self.call_or_defer("forget", delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self.call_or_defer("requeue" if requeue else "forget", delivery_tag)

    def restore_unacked_once(self, *_: Any) -> None:
        """When a connection ends, requeue only what does not run."""
        self._on_collect.cancel()
        self.channel.flush_all_acks()
        if not self.channel.do_restore:
            return
        self._flush()
        running = {active.message.delivery_tag for active in state.active_requests}
        for tag in set(self._delivered) - running:
            self.call_or_defer("requeue", tag)
        self._delivered.clear()

    def restore_by_tag(self, tag: Any, *_: Any, **__: Any) -> None:
        self.requeue(tag)

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """By the visibility timeout, requeue only what has no owner: a plain worker took it."""
        client, keys = self._unprefixed()
        overdue = time() - self.visibility_timeout
        tags: Any = client.eval(UNOWNED_SCRIPT, 2, *keys[1:], overdue, RESTORED)
        if tags:
            self.requeue_of(NO_OWNER, tags)

    def requeue(self, tag: Any) -> None:
        """Move an unacknowledged task back to its queue, whoever has it. After too many crashes it
        becomes a dead letter."""
        self.requeue_of(ANY_OWNER, [tag])

    def requeue_of(self, owner: str, tags: Sequence[str], running: Collection[str] = ()) -> None:
        """Requeue those of them that still have that owner: a worker id, or NO_OWNER. What ran when
        that worker died, by the task's id, counts as crashed."""
        dead_letters: dict[str, dict[str, Any]] = {}

        def place(tag: str, payload: dict[str, Any], *to: str) -> Placed:
            if headers_of(payload).get("id") in running:
                crashed_tags.add(tag)
            placed = self._place(tag, payload, *to)
            if placed.keys == [DEAD_LETTERS_KEY]:
                dead_letters[tag] = payload
            return placed

        released = self._release(owner, tags, place)
        crashed_tags.difference_update(tags)
        for tag in dead_letters.keys() & released:
            report_dead_letter(self.channel.message_to_python(dead_letters[tag]))

    def set_aside(self, tag: Any) -> bool:
        """Make a dead letter of a message that the worker cannot take; whether it was recorded."""
        return tag in self._release(ANY_OWNER, [tag], self._place_dead_letter)

    def set_aside_unknown(self, tag: Any) -> None:
        """Make a dead letter of a task whose name the worker does not know."""
        self._release(ANY_OWNER, [tag], self._place_unknown)

    def keep(self, queue: bytes, item: bytes) -> None:
        """Make a dead letter of what was fetched and is not recorded."""
        text, name = (part.decode(errors="surrogateescape") for part in (item, queue))
        entry = dumps([text, [self.channel.global_keyprefix + name], time()])
        try:
            self.add_dead_letter(entry)
        except self.channel.connection_errors:
            defer("add_dead_letter", entry)
            raise

    def add_dead_letter(self, entry: str) -> None:
        """Also when Redis' memory is full."""
        client, _ = self._unprefixed()
        client.eval(KEEP_SCRIPT, 1, self.channel.global_keyprefix + DEAD_LETTERS_KEY, entry)

    def return_known(self, queues: Iterable[str], tasks: Iterable[str]) -> int:
        """Requeue what was set aside because of its name; how many tasks these are."""
        channel = self.channel
        steps = [
            channel._q_for_pri(queue, step) for queue in queues for step in channel.priority_steps
        ]
        names = [channel.global_keyprefix + step for step in steps]
        client, _ = self._unprefixed()
        key = channel.global_keyprefix + DEAD_LETTERS_KEY
        words = (UNKNOWN, len(names), *names, *tasks)
        returned: Any = client.eval(RETURN_SCRIPT, 1, key, *words)
        return int(returned)

    def _release(self, owner: str, tags: Sequence[Any], place: Callable[..., Placed]) -> set[Any]:
        """Move messages from what is unacknowledged to where `place` says, and return the tags of
        those that were there and had that owner."""
        client, keys = self._unprefixed()
        entries: Any = client.hmget(keys[0], tags)
        words: list[Any] = []
        for tag, entry in zip(tags, entries, strict=True):
            placed = self._placed(place, tag, entry) if entry else Placed("", [], "")
            prefixed = [self.channel.global_keyprefix + key for key in placed.keys]
            words += [tag, placed.command, placed.text, len(prefixed), *prefixed]
        moved: Any = client.eval(RELEASE_SCRIPT, len(keys), *keys, owner, *words)
        return {tag for tag, is_moved in zip(tags, moved, strict=True) if is_moved}

    def _placed(self, place: Callable[..., Placed], tag: Any, entry: bytes) -> Placed:
        """Among the dead letters what was recorded and cannot be read."""
        try:
            payload, *to = loads(entry)
        except Exception:  # a value such as {"__type__": "uuid"} may raise any
            return Placed("LPUSH", [DEAD_LETTERS_KEY], self._unreadable(entry))
        return place(tag, payload, *to)

    def _unreadable(self, entry: bytes) -> str:
        """The dead letter of an entry `[message, exchange, routing key]`. What is none has no
        queue, and stays there when others are returned."""
        text = entry.decode(errors="surrogateescape")
        parts = ENTRY.fullmatch(text)
        message, keys = (parts[1], [json.loads(parts[2])]) if parts else (text, [])
        names = [self.channel.global_keyprefix + key for key in keys]
        letter: str = dumps([message, names, time()])
        return letter

    def _place(self, tag: Any, payload: dict[str, Any], *to: str) -> Placed:
        """In its queue again, or among the dead letters."""
        headers = payload["headers"] = headers_of(payload)
        headers["redelivered"] = payload["properties"]["delivery_info"]["redelivered"] = True
        headers.pop(UNKNOWN, None)
        counted = headers.pop(CRASH_COUNT, 0)
        crash_count = (counted if isinstance(counted, int) else 0) + (tag in crashed_tags)
        if crash_count > MAX_REDELIVERIES:
            return self._place_dead_letter(tag, payload, *to)
        if crash_count:
            headers[CRASH_COUNT] = crash_count
        command = "LPUSH" if tag in crashed_tags else "RPUSH"  # LPUSH: last in the queue
        return Placed(command, self._queue_keys(payload, *to), dumps(payload))

    def _place_unknown(self, tag: Any, payload: dict[str, Any], *to: str) -> Placed:
        payload["headers"] = {**headers_of(payload), UNKNOWN: True}
        return self._place_dead_letter(tag, payload, *to)

    def _place_dead_letter(self, _: Any, payload: dict[str, Any], *to: str) -> Placed:
        keys = [self.channel.global_keyprefix + key for key in self._queue_keys(payload, *to)]
        return Placed("LPUSH", [DEAD_LETTERS_KEY], dumps([dumps(payload), keys, time()]))

    def _queue_keys(self, payload: dict[str, Any], exchange: str, routing_key: str) -> list[str]:
        priority = self.channel._get_message_priority(payload, reverse=False)
        queues = self.channel._lookup(exchange, routing_key) or [routing_key]
        return [self.channel._q_for_pri(queue, priority) for queue in queues]


class TaskRaised(Exception):  # it stands for what is no Exception
    """Stands for what a task raised and Celery would raise in the worker itself, or not store: a
    MemoryError, a SystemExit, a KeyboardInterrupt. Its arguments are the class and theirs."""

    def __repr__(self) -> str:
        name, *args = self.args
        return f"{name}({', '.join(map(repr, args))})"


class CrashCounting:
    """Mixin for a task in the worker: counts the crash of the process that ran it."""

    message: Any

    def __init_subclass__(cls, **options: Any) -> None:
        """Celery makes a subclass for each task, with a method of its own to hand it over."""
        super().__init_subclass__(**options)
        if "execute_using_pool" in vars(cls):
            cls.execute_using_pool = _setting_aside(cls.execute_using_pool)  # type: ignore[attr-defined]

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError):
            crashed_tags.add(self.message.delivery_tag)
        if isinstance(error, MemoryError) or not isinstance(error, Exception):
            exc_info.exception = TaskRaised(type(error).__name__, *error.args)
        return super().on_failure(exc_info, *args, **options)  # type: ignore[misc]  # of Request


def _setting_aside(execute: Callable[..., Any]) -> Callable[..., Any]:
    """That method, which makes a dead letter of a task that cannot be handed over, because of its
    time limits or stamps; with any other error its place in the pool would stay taken for ever."""

    @wraps(execute)
    def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return execute(self, *args, **options)
        except (TaskRevokedError, MemoryError):
            raise
        except Exception as error:
            self.message.channel.qos.set_aside(self.message.delivery_tag)
            state.task_ready(self)
            logger.critical(
                "celery-pi: task %s[%s] cannot be handed over, and is set aside; see: celery-pi "
                "dead-letters",
                *(self.name, self.id),
                exc_info=error,
            )
            self.task.backend.mark_as_failure(self.id, InvalidTaskError(repr(error)))
            raise TaskRevokedError(repr(error)) from error

    return wrapped


class Request(CrashCounting, request.Request):
    """Celery's own, counting crashes."""


def crash_counting(kind: Any) -> Any:
    """The class of a task's requests, or its name, so that it counts crashes."""
    return _crash_counting(symbol_by_name(kind))


@cache
def _crash_counting(kind: type) -> type:
    if issubclass(kind, CrashCounting):
        return kind
    return Request if kind is request.Request else type(kind.__name__, (CrashCounting, kind), {})


def report_dead_letter(message: Any) -> None:
    """Log a dead letter, and fail it for whoever awaits its result: its chord, and its errbacks."""
    task, name = message.headers.get("id"), message.headers.get("task")
    reason = f"its process was lost {MAX_REDELIVERIES + 1} times, so it was set aside"
    logger.critical("celery-pi: task %s[%s]: %s; see: celery-pi dead-letters", name, task, reason)
    if isinstance(task, str):
        error, failed = WorkerLostError(reason), request_of(message)
        current_app.backend.mark_as_failure(task, error, request=failed)


def request_of(message: Any) -> Context | None:
    """A task as Celery's backend wants it; None if its message cannot be read."""
    try:
        args, kwargs, embedded = message.payload
    except (ContentDisallowed, DecodeError, TypeError, ValueError):
        return None
    return Context(message.headers, args=args, kwargs=kwargs, delivery_info={}, **embedded)
