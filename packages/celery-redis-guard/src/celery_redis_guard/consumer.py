"""The worker's consumer: which workers live, which tasks crash, and events in batches.

Celery sends a task's events in the turn of its event loop in which they arise: up to three messages
for each task, which the worker writes, Redis forwards and Flower reads. Here the events of
FLUSH_INTERVAL are sent together, in messages of at most Celery's own buffer limit: see
docs/decisions/worker.md.
"""

from logging import getLogger
from time import monotonic
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker import consumer
from celery.worker.consumer.consumer import CONNECTION_ERROR
from celery.worker.state import maybe_shutdown
from kombu.common import ignore_errors

from celery_redis_guard import begun
from celery_redis_guard.identity import worker_id
from celery_redis_guard.liveness import LivenessStep
from celery_redis_guard.ownership import crash_counting
from celery_redis_guard.revoked import RevokedStep
from celery_redis_guard.systemd_notify import notify

FLUSH_INTERVAL = 0.2  # seconds
RECONNECT = {"interval_start": 1, "interval_step": 0.25, "interval_max": 5}  # seconds

logger = getLogger(__name__)


class Consumer(consumer.Consumer):
    """Named by `worker_consumer`."""

    class Blueprint(consumer.Consumer.Blueprint):
        """Celery's own steps, and ours."""

        default_steps = (*consumer.Consumer.Blueprint.default_steps, LivenessStep, RevokedStep)

    flush_due_at = 0.0  # by the monotonic clock; a time and no flag: a reconnect drops the timers

    def update_strategies(self) -> None:
        """Let each task's request count crashes, whatever class the task is of."""
        for task in self.app.tasks.values():
            task.Request = crash_counting(task.Request)
        super().update_strategies()

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Keep it, for a worker that knows it. As with Celery it fails for whoever awaits it."""
        message.channel.qos.set_aside_unknown(message.delivery_tag)
        logger.critical(
            "celery-pi: task %s[%s] is unknown to this worker and set aside, until one starts that "
            "knows it; see: celery-pi dead-letters",
            *(message.headers.get("task"), message.headers.get("id")),
        )
        super().on_unknown_task(body, message, exc)

    # -- messages that are no tasks: Celery discards them

    def on_unknown_message(self, body: Any, message: Any) -> None:
        message.channel.qos.set_aside(message.delivery_tag)
        super().on_unknown_message(body, message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._set_aside(message, exc)
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._set_aside(message, exc)
        super().on_decode_error(message, exc)

    def _set_aside(self, message: Any, error: Exception) -> None:
        """Make a dead letter of it; it fails for whoever awaits it."""
        message.channel.qos.set_aside(message.delivery_tag)
        task = message.headers.get("id")
        if isinstance(task, str):
            self.app.backend.mark_as_failure(task, InvalidTaskError(repr(error)))

    # -- a worker that reconnects is healthy

    def ensure_connected(self, conn: Any) -> Any:
        """Connect with our intervals; Celery's own, with 2 s to 30, then finds it connected."""

        def report(error: Exception, interval: float) -> None:
            logger.error(CONNECTION_ERROR, conn.as_uri(), error, f"Trying again in {interval} s")

        conn.ensure_connection(report, callback=_ping, **RECONNECT)
        return super().ensure_connected(conn)

    def on_close(self) -> None:
        """Also called after each connection that was lost."""
        notify("WATCHDOG=1")
        super().on_close()

    # -- events

    def on_send_event_buffered(self) -> None:
        """Flush in a while, unless that is scheduled."""
        now = monotonic()
        if self.hub and now >= self.flush_due_at:
            self.flush_due_at = now + FLUSH_INTERVAL
            self.hub.call_later(FLUSH_INTERVAL, self._flush_events)

    def shutdown(self) -> None:
        """Send what is still buffered, because the event loop, which would, has ended.

        A consumer is shut down after the pool, so these are also the events of the tasks for which
        a warm shutdown has waited (`celery/worker/worker.py`, `WorkController.on_stopped`).
        """
        if self.event_dispatcher and self.event_dispatcher.enabled:
            ignore_errors(self, self.event_dispatcher.flush)  # Redis may be away
        super().shutdown()
        begun.forget(worker_id())


def _ping() -> None:
    """Before each try to connect."""
    notify("WATCHDOG=1")
    maybe_shutdown()
