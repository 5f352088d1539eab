"""Task events, which Flower reads, are sent in batches.

Celery sends a task's events in the turn of its event loop in which they arise: up to three messages
for each task, which the worker writes, Redis forwards and Flower reads. Here the events of
FLUSH_INTERVAL are sent together, in messages of at most Celery's own buffer limit: see
docs/decisions/worker.md.
"""

from time import monotonic
from typing import Any

from celery import Celery, bootsteps
from celery.worker.consumer import Consumer
from celery.worker.consumer.events import Events
from kombu.common import ignore_errors

FLUSH_INTERVAL = 0.2  # seconds


def schedule_flush(self: Any) -> None:
    """Replaces Consumer.on_send_event_buffered: flush in a while, unless that is scheduled."""
    now = monotonic()
    # By time and not by a flag: a reconnect drops the timers of the event loop.
    if self.hub and now >= getattr(self, "flush_due_at", now):
        self.flush_due_at = now + FLUSH_INTERVAL
        self.hub.call_later(FLUSH_INTERVAL, self._flush_events)


class FlushStep(bootsteps.StartStopStep):
    """Sends what is still buffered when a worker ends: its event loop, which would, has ended.

    A consumer is shut down after the pool, so these are also the events of the tasks for which a
    warm shutdown has waited (`celery/worker/worker.py`, `WorkController.on_stopped`).
    """

    requires = (Events,)  # so this one is shut down before the dispatcher is closed

    def shutdown(self, c: Any) -> None:
        if c.event_dispatcher and c.event_dispatcher.enabled:
            ignore_errors(c, c.event_dispatcher.flush)  # Redis may be away


def install(app: Celery) -> None:
    """Batch the events of every worker of the app."""
    app.steps["consumer"].add(FlushStep)
    Consumer.on_send_event_buffered = schedule_flush
