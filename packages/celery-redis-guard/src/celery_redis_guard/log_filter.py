"""Managed by celery-pi. At INFO the worker does not write that a task came and ended well.

Those two lines of Celery's are a fifth of the work of a task that takes a millisecond, and most of
what a quiet Pi writes to its card. What fails, is retried, refused or set aside is written, and so
is what the tasks themselves log. At DEBUG both lines are there.
"""

from logging import DEBUG, NOTSET, WARNING, getLogger

arrivals = getLogger("celery.worker.strategy")
ends = getLogger("celery.app.trace")


def leave_out(loglevel, **_):
    """Said when logging is set up; each process asks a logger once, as it gets ready."""
    if loglevel > DEBUG:
        arrivals.setLevel(WARNING)
        ends.setLevel(WARNING)


def tell_the_rest(**_):
    """Said when a process is ready: its other lines, such as of a retry, are of the same logger."""
    ends.setLevel(NOTSET)
