"""Managed by celery-pi. A worker sees which workers live, and gives back the tasks of the dead.

A worker that lives holds a subscription to a channel of its own name. The kernel closes it with
the worker's last process, or when the machine no longer answers (`tcp-keepalive` of Redis), so a
worker that is merely slow, or stopped, still counts as alive. On each look this one also tells
systemd that it is well, if it is: see `is_well`.
"""

from functools import partial
from logging import getLogger
from time import monotonic

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import connection, consumer, tasks
from kombu.utils.json import loads
from redis import ConnectionPool, Redis
from redis.exceptions import TimeoutError as NoAnswer

from celery_redis_guard.ownership import OWNERS, blamed, me, place
from celery_redis_guard.systemd_notify import notify

INTERVAL = 5  # seconds between two looks
GRACE = 15  # seconds that another machine's worker may be without its connection
DEAF = 20  # seconds without an answer from Redis after which a consumer is stuck
ANSWER = 5  # seconds that Redis may take

logger = getLogger(__name__)


class Lookout(bootsteps.StartStopStep):
    """Starts with each connection to Redis, before the first task is taken."""

    requires = (connection.Connection,)

    def start(self, c):
        self.consumer = c
        self.gone_since = {}
        channel = c.connection.default_channel
        self.prefix = channel.global_keyprefix
        options = {**channel._connparams(), "socket_timeout": ANSWER}
        self.client = Redis(connection_pool=ConnectionPool(**options))
        self.alive = self.client.pubsub()
        self.alive.subscribe(self._channel(me()))
        self.alive.get_message(timeout=ANSWER)
        self.started = monotonic()
        self.look()
        c.timer.call_repeatedly(INTERVAL, self.look)

    def _channel(self, owner):
        return f"{self.prefix}celery-pi.alive.{owner}"

    def stop(self, _):
        if alive := getattr(self, "alive", None):
            alive.close()
            self.client.connection_pool.disconnect()

    def look(self):
        """Give back what dead workers had; tell systemd that all is well with this one."""
        try:
            for owner, tags in self._owned_by_others().items():
                if self._is_dead(owner):
                    self._give_back(owner, tags)
        except NoAnswer:
            logger.warning("celery-pi: Redis has not answered for %d s", ANSWER)
            self.gone_since.clear()
            notify("WATCHDOG=1")  # it is Redis that is not well
            return
        if self.is_well():
            notify("WATCHDOG=1")

    def _owned_by_others(self):
        """Tags by owner, of whom none is this process."""
        found = {}
        for tag, owner in self.client.hgetall(self.prefix + OWNERS).items():
            if owner.decode() != me():
                found.setdefault(owner, []).append(tag.decode())
        return found

    def _is_dead(self, owner):
        name = owner.decode()
        ((_, connected),) = self.client.pubsub_numsub(self._channel(name))
        if connected:
            self.gone_since.pop(name, None)
            return False
        if name.rpartition("/")[0] == place():  # systemd has ended all of it before this began
            return True
        return monotonic() - self.gone_since.setdefault(name, monotonic()) >= GRACE

    def _give_back(self, owner, tags):
        qos = self.consumer.connection.default_channel.qos
        logger.warning(
            "celery-pi: %d tasks go back to their queues: %s has died", len(tags), owner.decode()
        )
        for tag in tags:
            noted = self.client.hget(self.prefix + qos.unacked_key, tag)
            if noted and not loads(noted)[0]["headers"].get("eta"):
                blamed.add(tag)
            qos.give_back(tag, owner)

    def is_well(self):
        """Redis answers the consumer, unless it does not ask for tasks because it has enough."""
        if not getattr(self.consumer, "task_consumer", None):
            return True  # not there yet
        channel = self.consumer.task_consumer.channel
        if not channel.active_queues:
            return True  # paused by `celery control cancel_consumer`
        if not channel.qos.can_consume() and (state.reserved_requests or state.active_requests):
            return True
        return monotonic() - (channel.heard or self.started) < DEAF


def still_trying():
    """While Redis is away, the worker is well that tries to reach it."""
    notify("WATCHDOG=1")
    return _maybe_shutdown()


def ensure_connected(self, conn):
    """As Celery's own, but every second at first, and never less often than every five."""
    often = {"interval_start": 1, "interval_step": 0.25, "interval_max": 5}
    conn.ensure_connection = partial(conn.ensure_connection, **often)
    return _ensure_connected(self, conn)


_maybe_shutdown = consumer.maybe_shutdown
_ensure_connected = consumer.Consumer.ensure_connected


def protect(app):
    """Give each worker of the app a lookout."""
    app.steps["consumer"].add(Lookout)
    tasks.Tasks.requires = (*tasks.Tasks.requires, Lookout)
    consumer.maybe_shutdown = still_trying
    consumer.Consumer.ensure_connected = ensure_connected
