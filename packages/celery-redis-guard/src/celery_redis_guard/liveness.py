"""Liveness: workers see which workers live, and a dead worker's tasks are requeued.

A live worker holds a subscription to a channel of its own name. The kernel closes it with the
worker's last process, or Redis does when the machine no longer answers (its `tcp-keepalive`), so a
worker that is merely slow, or stopped by a signal, still counts as alive. Each check also pings
systemd's watchdog while this worker is healthy: see `is_healthy`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import tasks
from redis import ConnectionPool, Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_redis_guard import begun
from celery_redis_guard.identity import CHANNEL, slot_id, worker_id
from celery_redis_guard.ownership import OWNERS_KEY
from celery_redis_guard.systemd_notify import notify

INTERVAL = 5  # seconds between two checks
GRACE = 15  # seconds that a worker on another machine may be without its connection
STUCK_AFTER = 20  # seconds without a reply from Redis after which a consumer is stuck
SOCKET_TIMEOUT = 5  # seconds that Redis may take for a reply
OVERDUE = 10  # seconds after which a reply that is due within one never comes
BATCH = 100  # tasks that are requeued by one script
TURN = 0.05  # seconds in which batches begin, and then those in which the event loop is free

# Each owner once. KEYS: owners.
OWNERS_SCRIPT = """
local seen, owners = {}, {}
for _, owner in ipairs(redis.call('HVALS', KEYS[1])) do
  if not seen[owner] then
    seen[owner] = true
    owners[#owners + 1] = owner
  end
end
return owners
"""

logger = getLogger(__name__)


class LivenessStep(bootsteps.StartStopStep):
    """Announces this worker and reaps dead ones; starts with each connection to Redis, before the
    first task is taken: the event loop, which consumes, is always the last step."""

    requires = (tasks.Tasks,)

    def start(self, c: Any) -> None:
        self.consumer = c
        self.missing_since: dict[str, float] = {}
        self.reaping: dict[str, Iterator[int]] = {}  # batches of dead workers
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
        """Requeue what dead workers had; ping the watchdog if this worker is healthy."""
        dead: dict[str, Iterator[int]] = {}
        with self._patience():
            for owner in self._owners():
                if owner != worker_id() and owner not in self.reaping and self._is_dead(owner):
                    dead[owner] = self._requeue(owner)
            self._ping()
        is_under_way = bool(self.reaping)
        self.reaping.update(dead)
        if dead and not is_under_way:
            self.go_on()

    def go_on(self) -> None:
        """Requeue for a while, leave the event loop alone for as long, and go on: a dead worker may
        have had tens of thousands of tasks."""
        deadline = monotonic() + TURN
        with self._patience():
            for owner, batches in list(self.reaping.items()):
                while monotonic() < deadline:
                    if next(batches, None) is None:
                        del self.reaping[owner]
                        break
            self._ping()
        if self.reaping:
            self.consumer.timer.call_after(TURN, self.go_on)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """While Redis does not reply, it is unhealthy, and not this worker."""
        try:
            yield
        except RedisTimeoutError:
            logger.warning("celery-pi: Redis has not answered for %d s", SOCKET_TIMEOUT)
            self.missing_since.clear()
            self.reaping.clear()
            notify("WATCHDOG=1")

    def _ping(self) -> None:
        """Redis has just replied: tell systemd that this worker is healthy, or connect it anew."""
        if self.is_healthy():
            notify("WATCHDOG=1")
        consumer = getattr(self.consumer, "task_consumer", None)
        if consumer and self._silence(consumer.channel) > OVERDUE:
            consumer.channel.require_open()

    def _owners(self) -> list[str]:
        """Who has unacknowledged tasks."""
        found: Any = self.client.eval(OWNERS_SCRIPT, 1, self.prefix + OWNERS_KEY)
        return [owner.decode() for owner in found]

    def _is_dead(self, name: str) -> bool:
        subscribers: Any = self.client.pubsub_numsub(self._channel(name))
        ((_, count),) = subscribers
        if count:
            self.missing_since.pop(name, None)
            return False
        if name.rpartition("/")[0] == slot_id():  # systemd ended all of it before this one began
            return True
        return monotonic() - self.missing_since.setdefault(name, monotonic()) >= GRACE

    def _requeue(self, owner: str) -> Iterator[int]:
        """Requeue the owner's tasks; yields after each batch how many it had."""
        done, batch = 0, []
        for tag, name in self.client.hscan_iter(self.prefix + OWNERS_KEY, count=BATCH):
            if name.decode() == owner:
                batch.append(tag.decode())
            if len(batch) == BATCH:
                done += self._requeue_batch(owner, batch)
                yield len(batch)
                batch = []
        if batch:
            done += self._requeue_batch(owner, batch)
            yield len(batch)
        begun.forget(owner)
        logger.warning("celery-pi: %d tasks go back to their queues: %s has died", done, owner)

    def _requeue_batch(self, owner: str, tags: list[str]) -> int:
        qos = self.consumer.connection.default_channel.qos
        qos.requeue_of(owner, tags, begun.of(owner))
        return len(tags)

    def is_healthy(self) -> bool:
        """Whether Redis replies to the consumer, or the consumer has no reason to ask it."""
        if not getattr(self.consumer, "task_consumer", None):
            return True  # not created yet
        channel = self.consumer.task_consumer.channel
        if not channel.active_queues:
            return True  # by `celery control cancel_consumer`, or in maintenance mode
        if not channel.qos.can_consume() and (state.reserved_requests or state.active_requests):
            return True  # it holds as many tasks as it may
        return self._silence(channel) < STUCK_AFTER

    def _silence(self, channel: Any) -> float:
        """Seconds since Redis has last replied to the consumer."""
        last_reply_at: float = channel.last_reply_at or self.started_at
        return monotonic() - last_reply_at
