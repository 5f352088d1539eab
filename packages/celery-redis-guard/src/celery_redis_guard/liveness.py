"""Liveness: workers see which workers live, and a dead worker's tasks are requeued.

A live worker holds a subscription to a channel of its own name. The kernel closes it with the
worker's last process, or Redis does when the machine no longer answers (its `tcp-keepalive`), so a
worker that is merely slow, or stopped by a signal, still counts as alive. Each check also pings
systemd's watchdog while this worker is healthy: see `is_healthy`.
"""

from logging import getLogger
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import tasks
from kombu.utils.json import loads
from redis import ConnectionPool, Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_redis_guard.identity import CHANNEL, slot_id, worker_id
from celery_redis_guard.ownership import OWNERS_KEY, crashed_tags
from celery_redis_guard.systemd_notify import notify

INTERVAL = 5  # seconds between two checks
GRACE = 15  # seconds that a worker on another machine may be without its connection
STUCK_AFTER = 20  # seconds without a reply from Redis after which a consumer is stuck
SOCKET_TIMEOUT = 5  # seconds that Redis may take for a reply
REQUEUE_TIME = 1  # seconds of one check for requeueing, which the event loop has to wait for

logger = getLogger(__name__)


class LivenessStep(bootsteps.StartStopStep):
    """Announces this worker and reaps dead ones; starts with each connection to Redis, before the
    first task is taken: the event loop, which consumes, is always the last step."""

    requires = (tasks.Tasks,)

    def start(self, c: Any) -> None:
        self.consumer = c
        self.missing_since: dict[str, float] = {}
        channel = c.connection.default_channel
        self.prefix = channel.global_keyprefix
        options = {**channel._connparams(), "socket_timeout": SOCKET_TIMEOUT}
        self.client = Redis(connection_pool=ConnectionPool(**options))
        self.subscription = self.client.pubsub()  # type: ignore[no-untyped-call]
        self.subscription.subscribe(self._channel(worker_id()))
        self.subscription.get_message(timeout=SOCKET_TIMEOUT)
        self.started_at = monotonic()
        self.return_known(c)
        self.check()
        c.timer.call_repeatedly(INTERVAL, self.check)

    def return_known(self, c: Any) -> None:
        """Requeue what an earlier worker has set aside because it did not know the task."""
        queues = [queue.name for queue in c.task_consumer.queues]
        if returned := c.connection.default_channel.qos.return_known(queues, c.app.tasks):
            logger.warning("celery-pi: %d tasks, unknown before, go back to their queues", returned)

    def _channel(self, owner: str) -> str:
        return f"{self.prefix}{CHANNEL}{owner}"

    def stop(self, c: Any) -> None:
        """After a lost connection. A worker that shuts down lives until its pool has ended, which
        comes after this: see `shutdown`."""
        if c.blueprint.state == bootsteps.RUN:
            self.shutdown(c)

    def shutdown(self, _: Any) -> None:
        if subscription := getattr(self, "subscription", None):
            subscription.close()
            self.client.connection_pool.disconnect()

    def check(self) -> None:
        """Requeue what dead workers had; ping the watchdog if this worker is healthy.

        A dead worker may have had tens of thousands of countdowns. The next check, which follows at
        once, goes on with those for which `REQUEUE_TIME` was too short.
        """
        deadline = monotonic() + REQUEUE_TIME
        try:
            for owner, tags in self._tags_of_others().items():
                if self._is_dead(owner) and not self._requeue(owner, tags, deadline):
                    self.consumer.timer.call_after(0, self.check)
                    break
        except RedisTimeoutError:
            logger.warning("celery-pi: Redis has not answered for %d s", SOCKET_TIMEOUT)
            self.missing_since.clear()
            notify("WATCHDOG=1")  # Redis is unhealthy, not this worker
            return
        if self.is_healthy():
            notify("WATCHDOG=1")

    def _tags_of_others(self) -> dict[bytes, list[str]]:
        """Delivery tags by owner, for every owner but this process."""
        found: dict[bytes, list[str]] = {}
        owners: Any = self.client.hgetall(self.prefix + OWNERS_KEY)
        for tag, owner in owners.items():
            if owner.decode() != worker_id():
                found.setdefault(owner, []).append(tag.decode())
        return found

    def _is_dead(self, owner: bytes) -> bool:
        name = owner.decode()
        subscribers: Any = self.client.pubsub_numsub(self._channel(name))
        ((_, count),) = subscribers
        if count:
            self.missing_since.pop(name, None)
            return False
        if name.rpartition("/")[0] == slot_id():  # systemd ended all of it before this one began
            return True
        return monotonic() - self.missing_since.setdefault(name, monotonic()) >= GRACE

    def _requeue(self, owner: bytes, tags: list[str], deadline: float) -> bool:
        """Requeue at least one of the owner's tasks; whether all of them were by the deadline."""
        qos = self.consumer.connection.default_channel.qos
        done = 0
        for tag in tags:
            entry: Any = self.client.hget(self.prefix + qos.unacked_key, tag)
            if entry and not loads(entry)[0]["headers"].get("eta"):
                crashed_tags.add(tag)
            qos.requeue(tag, owner)
            done += 1
            if monotonic() >= deadline:
                break
        logger.warning(
            "celery-pi: %d tasks go back to their queues: %s has died", done, owner.decode()
        )
        return done == len(tags)

    def is_healthy(self) -> bool:
        """Whether Redis replies to the consumer, or the consumer has no reason to ask it."""
        if not getattr(self.consumer, "task_consumer", None):
            return True  # not created yet
        channel = self.consumer.task_consumer.channel
        if not channel.active_queues:
            return True  # by `celery control cancel_consumer`, or in maintenance mode
        if not channel.qos.can_consume() and (state.reserved_requests or state.active_requests):
            return True  # it holds as many tasks as it may
        last_reply_at: float = channel.last_reply_at or self.started_at
        return monotonic() - last_reply_at < STUCK_AFTER
