"""Ownership: a task that a worker has taken and not acknowledged stays with it until it dies.

kombu gives a task to another worker when it is older than the visibility timeout, or when the
connection to Redis is lost, even while it runs; and a killed worker's tasks only then. Here a hash
in Redis records the owner of each unacknowledged task: `liveness` requeues at once what a dead
worker had, and nobody takes what a live one has. What cannot be written while Redis is away is
deferred to the next connection.
"""

import os
from collections.abc import Callable, Iterable
from functools import cache
from logging import getLogger
from time import time
from typing import Any

from celery import current_app
from celery.exceptions import WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.worker import request, state
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
MAX_REDELIVERIES = 3  # then the task is a dead letter: it would crash its process for ever
ANY_OWNER = object()

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

logger = getLogger(__name__)

# Calls that failed because Redis was away: name of a method of OwnershipQoS, and its argument.
deferred: list[tuple[str, Any]] = []
os.register_at_fork(after_in_child=deferred.clear)

# Delivery tags of tasks whose process crashed, until they are requeued.
crashed_tags: set[str] = set()


def defer(method: str, argument: Any) -> None:
    """Let the next connection to Redis make that call of OwnershipQoS."""
    deferred.append((method, argument))


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
        """A client that does not prefix keys, and the full names of the three keys: which commands
        kombu prefixes differs by version, and it never does so in scripts."""
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
        client, (_, index, _) = self._unprefixed()
        tags: Any = client.zrevrangebyscore(index, when, when)
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
        overdue = time() - self.visibility_timeout
        client, [_unacked, index, owners] = self._unprefixed()
        tags: Any = client.zrevrangebyscore(index, overdue, 0)
        for tag in tags:
            if client.hget(owners, tag) is None:
                self.requeue(tag, owner=None)

    def requeue(self, tag: Any, owner: object = ANY_OWNER) -> None:
        """Move an unacknowledged task back to its queue, if it still has that owner: a worker id in
        bytes, or None for a task without one. After too many crashes it becomes a dead letter."""
        dead_letter = self._release(tag, owner, self._push)
        crashed_tags.discard(tag)
        if dead_letter:
            report_dead_letter(dead_letter)

    def set_aside(self, tag: Any) -> None:
        """Make a dead letter of a task whose name the worker does not know."""
        self._release(tag, ANY_OWNER, self._push_unknown)

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

    def _release(self, tag: Any, owner: object, push: Callable[..., Any]) -> Any:
        """What `push` returns, which gets the message in the transaction that releases it."""

        def transaction(pipe: Any) -> Any:
            current_owner = pipe.hget(OWNERS_KEY, tag)
            entry = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            if owner not in (ANY_OWNER, current_owner):
                return None
            self._remove_from_indices(tag, pipe)
            pushed = push(pipe, tag, *loads(entry)) if entry else None
            # Last: an HDEL of nothing before a push would say that the task is done (oom_exempt).
            pipe.hdel(OWNERS_KEY, tag)
            return pushed

        watched = (self.unacked_key, OWNERS_KEY)
        with self.channel.conn_or_acquire() as client:
            return client.transaction(transaction, *watched, value_from_callable=True)

    def _push(
        self, pipe: Any, tag: Any, payload: dict[str, Any], exchange: str, routing_key: str
    ) -> dict[str, Any] | None:
        """Queue the message again, or make it a dead letter and return its headers."""
        headers: dict[str, Any] = payload["headers"]
        headers["redelivered"] = payload["properties"]["delivery_info"]["redelivered"] = True
        headers.pop(UNKNOWN, None)
        crash_count = headers.pop(CRASH_COUNT, 0) + (tag in crashed_tags)
        keys = self._queue_keys(payload, exchange, routing_key)
        if crash_count > MAX_REDELIVERIES:
            self._push_dead_letter(pipe, payload, keys)
            return headers
        if crash_count:
            headers[CRASH_COUNT] = crash_count
        push = pipe.lpush if tag in crashed_tags else pipe.rpush  # lpush: last in the queue
        for key in keys:
            push(key, dumps(payload))
        return None

    def _push_unknown(
        self, pipe: Any, _: Any, payload: dict[str, Any], exchange: str, routing_key: str
    ) -> None:
        payload["headers"][UNKNOWN] = True
        self._push_dead_letter(pipe, payload, self._queue_keys(payload, exchange, routing_key))

    def _push_dead_letter(self, pipe: Any, payload: dict[str, Any], keys: list[str]) -> None:
        prefixed = [self.channel.global_keyprefix + key for key in keys]
        pipe.lpush(DEAD_LETTERS_KEY, dumps([dumps(payload), prefixed, time()]))

    def _queue_keys(self, payload: dict[str, Any], exchange: str, routing_key: str) -> list[str]:
        priority = self.channel._get_message_priority(payload, reverse=False)
        queues = self.channel._lookup(exchange, routing_key) or [routing_key]
        return [self.channel._q_for_pri(queue, priority) for queue in queues]


class TaskMemoryError(Exception):
    """Stands for a task's MemoryError, which Celery would raise in the worker itself and end it."""

    def __repr__(self) -> str:
        return f"MemoryError{self.args!r}"


class CrashCounting:
    """Mixin for a task in the worker: counts the crash of the process that ran it."""

    message: Any

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        error = exc_info.exception
        error = getattr(error, "exc", error)
        if isinstance(error, WorkerLostError):
            crashed_tags.add(self.message.delivery_tag)
        if isinstance(error, MemoryError):
            exc_info.exception = TaskMemoryError(*error.args)
        return super().on_failure(exc_info, *args, **options)  # type: ignore[misc]  # of Request


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


def report_dead_letter(headers: dict[str, Any]) -> None:
    """Log a dead letter, and fail it for whoever awaits its result."""
    task, name = headers.get("id"), headers.get("task")
    reason = f"its process was lost {MAX_REDELIVERIES + 1} times, so it was set aside"
    logger.critical("celery-pi: task %s[%s]: %s; see: celery-pi dead-letters", name, task, reason)
    current_app.backend.mark_as_failure(task, WorkerLostError(reason))
