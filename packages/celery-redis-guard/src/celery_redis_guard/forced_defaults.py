"""Configuration that a worker needs to lose no task, set in the owner's app.

What the app sets itself stays where it is safe; `app_validation` judges the result.
"""

import os
from typing import Any

# Whatever the app sets. A task is acknowledged when it is done, is requeued when the process that
# ran it is killed, and is not run again when it has a result already. Each process prefetches one
# task, so none waits behind a long one.
ALWAYS = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_deduplicate_successful_tasks": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,  # a worker that gives up ends its running tasks
    # It would end the worker, and not only its tasks.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
}

MARGIN = 300  # seconds, for an acknowledgement, or for a task to start when its countdown is over
MIN_VISIBILITY_TIMEOUT = 3600  # seconds; kombu's own default
SOFT_LIMIT_LEAD = 60  # seconds between the soft time limit, for clean-up, and the hard one


def time_limit() -> int:
    """The longest, in seconds, that a task may run."""
    return int(os.environ["CELERY_PI_TIME_LIMIT"])


def apply(conf: Any) -> None:
    """Set what the app lacks. A process that only sends tasks gets no time limits."""
    conf.update(ALWAYS)
    if "CELERY_PI_TIME_LIMIT" not in os.environ:
        return
    has_limit = conf.task_time_limit or conf.task_soft_time_limit
    if not has_limit and time_limit() > SOFT_LIMIT_LEAD:
        conf.task_soft_time_limit = time_limit() - SOFT_LIMIT_LEAD
    conf.task_time_limit = conf.task_time_limit or time_limit()
    options = conf.broker_transport_options
    visibility = max(options.get("visibility_timeout", 0), min_visibility_timeout())
    conf.broker_transport_options = {**options, "visibility_timeout": visibility}


def keep_prefetch_count_when_autoscaling(conf: Any, options: dict[str, Any], **_: object) -> None:
    """Otherwise a worker that autoscales keeps, after a reconnect, the prefetch count of the few
    processes it had at that moment."""
    if options.get("autoscale"):
        conf.worker_enable_prefetch_count_reduction = False


def min_visibility_timeout() -> int:
    """Seconds for which no other worker may be given a task that this one holds."""
    countdown = int(os.environ["CELERY_PI_LONGEST_COUNTDOWN"])
    return max(MIN_VISIBILITY_TIMEOUT, time_limit() + MARGIN, countdown + MARGIN)
