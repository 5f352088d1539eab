"""Managed by celery-pi. A task's process waits for Redis until it can say what became of the task.

Celery would fail the task, even one that has not begun: a result is written only after one has
been read, and the reading is not tried again. A worker that stops waits for its processes, and
systemd does not start Redis before the worker has stopped, which is ordered behind it: so the
wait has an end then. The process gives up, and its task stays the worker's, as that of any process
that is lost; it goes back to its queue when the worker is started again.
"""

import os
from logging import getLogger
from mmap import mmap
from time import monotonic

from celery import current_app

PATIENCE = 10  # seconds that a stop may wait for Redis; Celery's own tries last up to 20 more
LOST = 75  # EX_TEMPFAIL of sysexits.h: what a process ends with that has given up

logger = getLogger(__name__)
_is_stopping = mmap(-1, 1)  # memory that the worker shares with its processes


def wait_no_longer():
    """Said by the worker, for all its processes."""
    _is_stopping[0] = 1


def wait_for_it(**_):
    """Let this process try each second to reach Redis."""
    backend = current_app.backend
    backend.always_retry = True
    backend.max_sleep_between_retries_ms = 1000
    backend.exception_safe_to_retry = Patience(backend.exception_safe_to_retry)


class Patience:
    """Whether to try again after that error; ends the process that has tried for long enough."""

    def __init__(self, known):
        self.known = known
        self.since = None  # when it was first seen that the worker stops

    def __call__(self, error):
        # With this word Redis refuses to write while it cannot on its disk.
        if not self.known(error) and not str(error).startswith("MISCONF"):
            return False
        if _is_stopping[0]:
            self.since = self.since or monotonic()
            if monotonic() - self.since >= PATIENCE:
                logger.error("celery-pi: the worker stops and Redis is away: %s", error)
                os._exit(LOST)
        return True
