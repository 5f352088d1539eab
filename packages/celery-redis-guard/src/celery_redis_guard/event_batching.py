"""Task events, which Flower reads, are sent in batches.

Celery sends a task's events in the turn of its event loop in which they arise: up to three messages
for each task, which the worker writes, Redis forwards and Flower reads. Here the events of
FLUSH_INTERVAL are sent together, in messages of at most Celery's own buffer limit: docs/worker.md.
"""

from time import monotonic
from typing import Any

from celery.worker.consumer import Consumer

FLUSH_INTERVAL = 0.2  # seconds


def schedule_flush(self: Any) -> None:
    """Replaces Consumer.on_send_event_buffered: flush in a while, unless that is scheduled."""
    now = monotonic()
    # By time and not by a flag: a reconnect drops the timers of the event loop.
    if self.hub and now >= getattr(self, "flush_due_at", now):
        self.flush_due_at = now + FLUSH_INTERVAL
        self.hub.call_later(FLUSH_INTERVAL, self._flush_events)


def install() -> None:
    """Batch the events of every worker of this process."""
    Consumer.on_send_event_buffered = schedule_flush
