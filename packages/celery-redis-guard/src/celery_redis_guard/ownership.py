"""Managed by celery-pi. What a worker has taken and not yet acknowledged is its own until it ends.

kombu gives a task to another worker when it is older than the visibility timeout, or when the
connection to Redis is lost, even if it still runs; and a killed worker's tasks only then. Here
Redis holds beside each unacknowledged task whose it is, so that `lookout.py` gives back at once
what a dead worker had, and nobody takes what a living one has. What cannot be told Redis while it
is away is told with the next connection.
"""

import os
import sys
from functools import cache
from logging import getLogger
from pathlib import Path
from time import time
from uuid import uuid4

from celery import current_app
from celery.exceptions import WorkerLostError
from celery.worker import request, state
from kombu.transport import virtual
from kombu.utils.json import dumps, loads
from redis import Redis

from celery_redis_guard.oom_exempt import ALLOW_OOM

try:
    from kombu.transport.redis import QoS
except ImportError as error:
    sys.exit(f"celery-pi: no safe way for tasks to the worker in these packages: {error}")

OWNERS = "unacked_owner"
ANYBODY = object()
SET_ASIDE = "set-aside"
LOST = "x-celery-pi-lost"  # header: how often the task's process has been lost
REDELIVERIES = 3  # then a task is set aside: it would take its process with it for ever

NOTE = (
    ALLOW_OOM
    + """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
"""
)

logger = getLogger(__name__)

# What went wrong with Redis: name of a method of KeepingQoS, and what to call it with.
owed = []
os.register_at_fork(after_in_child=owed.clear)

# Tags of tasks whose process was lost, until they have been given back.
blamed = set()


@cache
def place():
    """What only one worker at a time can be: a unit of this machine, or else a process."""
    machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    return f"{machine}/{os.environ.get('CELERY_PI_UNIT') or uuid4().hex}"


@cache
def me():
    """Name of this process among all that ever take tasks."""
    return f"{place()}/{uuid4().hex}"


def owe(what, subject):
    """Remember what the next connection to Redis is to put right."""
    owed.append((what, subject))


class KeepingQoS(QoS):
    """The tasks in hand of one connection."""

    newest = None

    def __init__(self, channel, prefetch_count=0):
        super().__init__(channel, prefetch_count)
        KeepingQoS.newest = self
        while owed:
            what, subject = owed[-1]
            getattr(self, what)(subject)
            owed.pop()

    def plain(self):
        """A client of Redis that leaves the names of keys as they are, and those names."""
        keys = (self.unacked_key, self.unacked_index_key, OWNERS)
        prefix = self.channel.global_keyprefix
        return Redis(connection_pool=self.channel.pool), [prefix + key for key in keys]

    # -- taking

    def append(self, message, delivery_tag):
        if self.channel.noted:
            self.channel.noted = None
        else:
            try:
                self._note(message, delivery_tag)
            except Exception:
                owe("put_back", message)
                raise
        virtual.QoS.append(self, message, delivery_tag)

    def _note(self, message, tag):
        delivery = message.delivery_info
        noted = dumps([message._raw, delivery["exchange"], delivery["routing_key"]])
        client, keys = self.plain()
        client.eval(NOTE, len(keys), *keys, tag, noted, time(), me())

    def noted_at(self, when):
        """Tags that the script of that time has noted: one or none."""
        with self.channel.conn_or_acquire() as client:
            return client.zrevrangebyscore(self.unacked_index_key, when, when)

    # -- putting right

    def put_back(self, message):
        """A message in hand that could not be noted goes back to its queue."""
        self._note(message, message.delivery_tag)
        self.give_back(message.delivery_tag)

    def take_back(self, when):
        """So does what a script noted whose reply never came."""
        for tag in self.noted_at(when):
            self.give_back(tag)

    def forget(self, tag):
        """Take a task that is done out of what Redis notes."""
        self._remove_from_indices(tag).hdel(OWNERS, tag).execute()

    def _is_open(self):
        """kombu takes a connection apart before it lets go of its channels."""
        transport = self.channel.connection
        return transport is not None and transport.client is not None

    def sooner_or_later(self, what, tag):
        """By this connection, or if it is closed by a newer one, if there is one."""
        qos = self if self._is_open() else KeepingQoS.newest
        try:
            if qos._is_open():
                getattr(qos, what)(tag)
            else:
                owe(what, tag)
        except self.channel.connection_errors:
            owe(what, tag)
        self._quick_ack(tag)

    # -- giving away

    def ack(self, delivery_tag):
        if self._is_open() and self.channel.asks_next():
            self.channel.done.append(delivery_tag)
            self._quick_ack(delivery_tag)
        else:
            self.sooner_or_later("forget", delivery_tag)

    def reject(self, delivery_tag, requeue=False):
        what = "give_back" if requeue else "forget"
        self.sooner_or_later(what, delivery_tag)

    def restore_unacked_once(self, *_):
        """When a connection ends, only what does not run goes back."""
        self._on_collect.cancel()
        self.channel.settle_all()
        if not self.channel.do_restore:
            return
        self._flush()
        running = {active.message.delivery_tag for active in state.active_requests}
        for tag in set(self._delivered) - running:
            self.sooner_or_later("give_back", tag)
        self._delivered.clear()

    def restore_by_tag(self, tag, *_, **__):
        self.give_back(tag)

    def restore_visible(self, *_, **__):
        """By its age goes back only what has no owner: a worker without this module took it."""
        overdue = time() - self.visibility_timeout
        with self.channel.conn_or_acquire() as client:
            for tag in client.zrevrangebyscore(self.unacked_index_key, overdue, 0):
                if client.hget(OWNERS, tag) is None:
                    self.give_back(tag, owner=None)

    def give_back(self, tag, owner=ANYBODY):
        """Put a noted task back to its queue, unless it is no longer that owner's."""

        def transaction(pipe):
            whose = pipe.hget(OWNERS, tag)
            noted = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            if owner not in (ANYBODY, whose):
                return None
            self._remove_from_indices(tag, pipe)
            headers = self._push(pipe, tag, *loads(noted)) if noted else None
            pipe.hdel(OWNERS, tag)  # last: before a push, HDEL of nothing means that it is done
            return headers

        watched = (self.unacked_key, OWNERS)
        with self.channel.conn_or_acquire() as client:
            set_aside = client.transaction(transaction, *watched, value_from_callable=True)
        blamed.discard(tag)
        if set_aside:
            report(set_aside)

    def _push(self, pipe, tag, payload, exchange, routing_key):
        """Send the message on; its headers, if it is set aside."""
        headers = payload["headers"]
        headers["redelivered"] = payload["properties"]["delivery_info"]["redelivered"] = True
        lost = headers.pop(LOST, 0) + (tag in blamed)
        priority = self.channel._get_message_priority(payload, reverse=False)
        queues = self.channel._lookup(exchange, routing_key) or [routing_key]
        keys = [self.channel._q_for_pri(queue, priority) for queue in queues]
        if lost > REDELIVERIES:
            to = [self.channel.global_keyprefix + key for key in keys]
            pipe.lpush(SET_ASIDE, dumps([dumps(payload), to, time()]))
            return headers
        if lost:
            headers[LOST] = lost
        push = pipe.lpush if tag in blamed else pipe.rpush  # lpush: behind all that wait
        for key in keys:
            push(key, dumps(payload))
        return None


class Request(request.Request):
    """A task in the worker, which is blamed for the loss of the process that ran it."""

    def on_failure(self, exc_info, *args, **options):
        error = exc_info.exception
        if isinstance(getattr(error, "exc", error), WorkerLostError):
            blamed.add(self.message.delivery_tag)
        return super().on_failure(exc_info, *args, **options)


def report(headers):
    """Tell the journal and who waits for the task that it has been set aside."""
    task, name = headers.get("id"), headers.get("task")
    said = f"its process was lost {REDELIVERIES + 1} times, so it was set aside"
    logger.critical("celery-pi: task %s[%s]: %s; see: celery-pi set-aside", name, task, said)
    current_app.backend.mark_as_failure(task, WorkerLostError(said))
