"""Managed by celery-pi. While maintenance is on, a worker that is started takes no task.

The sign is the page that the site shows meanwhile: a file, so it outlives every restart. The
command that puts it there starts the worker again, which finishes what runs, and gives back what
waits for its time.
"""

from logging import getLogger
from pathlib import Path

from celery import bootsteps
from celery.worker.consumer import tasks

PAGE = Path("/var/lib/celery-pi/maintenance/page.html")
INTERVAL = 1  # seconds between two looks

logger = getLogger(__name__)


class Pause(bootsteps.StartStopStep):
    """Starts with each connection to Redis, after the consumer was made and before it consumes."""

    requires = (tasks.Tasks,)

    def start(self, c):
        if PAGE.exists():
            # Not by Celery's own cancel_task_queue: the next connection would not know of them.
            self.queues = [queue.name for queue in c.task_consumer.queues]
            for name in self.queues:
                c.task_consumer.cancel_by_queue(name)
            logger.warning("celery-pi: maintenance is on: no task is taken")
            self.entry = c.timer.call_repeatedly(INTERVAL, self.look, (c,))

    def look(self, c):
        """Begin, once maintenance is over."""
        if not PAGE.exists():
            self.entry.cancel()
            logger.warning("celery-pi: maintenance is over")
            for name in self.queues:
                c.add_task_queue(name)


def protect(app):
    """Let each worker of the app look for the sign."""
    app.steps["consumer"].add(Pause)
