"""Managed by celery-pi. What a worker needs to lose no task, set in the owner's app.

What the app says itself stays where it is safe; `invariants` judges what it ends up as.
"""

import os

# Whatever the app says. A task is acknowledged when it is done, goes back to its queue when the
# process that ran it is killed, and is not run again when it has a result already. One is taken
# from the queue for each process, so none waits behind a long one.
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

MARGIN = 300  # seconds, for a task to be acknowledged, or taken up when its time has come
SHORTEST_VISIBILITY = 3600  # kombu's own
SOFT = 60  # seconds before its end in which a task may tidy up


def limit():
    """The longest, in seconds, that a task may run."""
    return int(os.environ["CELERY_PI_TIME_LIMIT"])


def make_safe(conf):
    """Set what the app lacks. Whoever only sends tasks is given no limits."""
    conf.update(ALWAYS)
    if "CELERY_PI_TIME_LIMIT" not in os.environ:
        return
    if not conf.task_time_limit and not conf.task_soft_time_limit and limit() > SOFT:
        conf.task_soft_time_limit = limit() - SOFT
    conf.task_time_limit = conf.task_time_limit or limit()
    options = conf.broker_transport_options
    visibility = max(options.get("visibility_timeout", 0), shortest_visibility())
    conf.broker_transport_options = {**options, "visibility_timeout": visibility}


def let_it_scale(conf, options, **_):
    """After a restart of Redis a worker that scales would go on with as few as it then had."""
    if options.get("autoscale"):
        conf.worker_enable_prefetch_count_reduction = False


def shortest_visibility():
    """Seconds for which nobody else may be given a task that this worker holds."""
    countdown = int(os.environ["CELERY_PI_LONGEST_COUNTDOWN"])
    return max(SHORTEST_VISIBILITY, limit() + MARGIN, countdown + MARGIN)
