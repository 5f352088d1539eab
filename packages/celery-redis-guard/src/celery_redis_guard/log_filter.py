"""At INFO the worker does not log that a task was received and that it succeeded.

Those two lines are a fifth of the work of a task that takes a millisecond, and most of what a quiet
Pi writes to its card. Failures, retries, rejections, dead letters and what the tasks themselves log
are written. At DEBUG both lines are there.
"""

from logging import DEBUG, NOTSET, WARNING, getLogger

received_logger = getLogger("celery.worker.strategy")
trace_logger = getLogger("celery.app.trace")


def silence_task_lines(loglevel: int, **_: object) -> None:
    """On after_setup_logger. Each process asks the loggers for their level once, as it starts."""
    if loglevel > DEBUG:
        received_logger.setLevel(WARNING)
        trace_logger.setLevel(WARNING)


def restore_trace_logger(**_: object) -> None:
    """On worker_process_init: the same logger logs retries and the like, which are wanted."""
    trace_logger.setLevel(NOTSET)
