"""Maintenance mode: while it is on, a worker that starts consumes no queue.

The flag is the page that the site shows meanwhile: a file, so it survives every restart. The
command that creates it restarts the worker, which finishes the running tasks and requeues those
that wait for their countdown.
"""

from logging import getLogger
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps
from celery.worker.consumer import tasks

PAGE = Path("/var/lib/celery-pi/maintenance/page.html")
INTERVAL = 1  # seconds between two checks

logger = getLogger(__name__)


class MaintenanceStep(bootsteps.StartStopStep):
    """Starts with each connection to Redis, after the consumer was made and before it consumes."""

    requires = (tasks.Tasks,)

    def start(self, c: Any) -> None:
        if PAGE.exists():
            # Not Celery's own cancel_task_queue: a reconnect would not know of these queues.
            self.queues = [queue.name for queue in c.task_consumer.queues]
            for name in self.queues:
                c.task_consumer.cancel_by_queue(name)
            logger.warning("celery-pi: maintenance is on: no task is taken")
            self.timer = c.timer.call_repeatedly(INTERVAL, self.check, (c,))

    def check(self, c: Any) -> None:
        """Consume once maintenance is over."""
        if not PAGE.exists():
            self.timer.cancel()
            logger.warning("celery-pi: maintenance is over")
            for name in self.queues:
                c.add_task_queue(name)


def install(app: Celery) -> None:
    """Let each worker of the app check the flag."""
    app.steps["consumer"].add(MaintenanceStep)
