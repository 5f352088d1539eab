"""Managed by celery-pi. What Flower hears of tasks is gathered for a moment.

Celery sends a task's events in the turn of its event loop in which they arise: up to three messages
for each task, which the worker writes, Redis hands on and Flower reads. Here those of a moment go
together, at most as many in a message as Celery's own limit allows: docs/worker.md.
"""

import sys
from importlib.metadata import version
from time import monotonic

try:
    from celery.worker.consumer import Consumer
except ImportError as error:
    sys.exit(f"celery-pi: no way to gather events in these packages: {error}")

MOMENT = 0.2  # seconds by which Flower hears later

# What Celery has, and is used or replaced here.
USED = ("on_send_event_buffered", "_flush_events")


def gather(self):
    """Have what is buffered sent in a moment, unless that is due already."""
    now = monotonic()
    # By the clock: what was due is forgotten when the connection is made anew.
    if self.hub and now >= getattr(self, "events_due", now):
        self.events_due = now + MOMENT
        self.hub.call_later(MOMENT, self._flush_events)


def protect():
    """Let every worker's events go this way."""
    for name in USED:
        if not hasattr(Consumer, name):
            sys.exit(
                f"celery-pi: celery {version('celery')} has no Consumer.{name}, "
                "by which events are gathered"
            )
    Consumer.on_send_event_buffered = gather
