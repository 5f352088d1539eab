"""Configuration that a worker needs to lose no task, forced upon the owner's app.

What the app sets itself stays where it is safe; `app_validation` judges the result.
"""

import os
from typing import Any

from celery import Celery
from celery.app.utils import Settings

from celery_redis_guard import mode

# Whatever the app sets. A task is acknowledged when it is done, is requeued when the process that
# ran it is killed, and is not run again when it has a result already. Each process prefetches one
# task, so none waits behind a long one.
ALWAYS = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_deduplicate_successful_tasks": True,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,  # a worker that gives up ends its running tasks
    # It would end the worker, and not only its tasks.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
}

# By Celery's own classes, this one would drop a chord's header that comes again after its result
# and before it was counted: the body would never run. Without it, a task may be run twice.
ONLY_GUARDED = "worker_deduplicate_successful_tasks"

# Unless the app has said otherwise, which `app_validation` refuses.
REPLACED: dict[str, tuple[set[str | None], str]] = {
    "broker_transport": ({None, "redis", "rediss"}, "celeryredisguard:Transport"),
    "worker_pool": ({"prefork", "processes"}, "celeryredisguard:TaskPool"),
    "worker_consumer": ({"celery.worker.consumer:Consumer"}, "celeryredisguard:Consumer"),
}

# The consumer of a plain worker, by Celery's version, where Celery's own ends when Redis restarts.
PLAIN_CONSUMERS = {"5.7.0": "celery_redis_guard.celery_5_7_0:Consumer"}

# What a worker takes from its command line, or from variables such as CELERY_WORKER_POOL: its
# attribute, and the setting that is used instead.
WORKER_OPTIONS = {
    "pool_cls": "worker_pool",
    "consumer_cls": "worker_consumer",
    "prefetch_multiplier": "worker_prefetch_multiplier",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
}

# A worker and Beat wait for Redis longer than a site does: when its disk is slow for two seconds,
# they would reconnect, a plain worker would put back the tasks that it runs, a result or a count of
# a chord would be lost, and Beat would send twice. Shorter ones of the app are for its site alone.
SHORTEST_TIMEOUT = 20  # seconds
CONNECTION_TIMEOUTS = {"socket_timeout", "socket_connect_timeout"}
PATIENT = {"redis_socket_timeout": 120.0, "redis_socket_connect_timeout": None}  # Celery's own

MARGIN = 300  # seconds, for an acknowledgement, or for a task to start when its countdown is over
MIN_VISIBILITY_TIMEOUT = 3600  # seconds; kombu's own default
SOFT_LIMIT_LEAD = 60  # seconds between the soft time limit, for clean-up, and the hard one


class ForcedSettings(Settings):
    """An app's settings, of which some are forced.

    Those have one value for whoever reads them, whether the app states them as attributes, by their
    old names or with a prefix (`namespace`), now or later, and whatever the environment says.
    """

    def __init__(self, settings: Settings) -> None:
        # The same mappings: whoever holds the other object sees what is set in this one.
        self.__dict__.update(vars(settings), forced={})

    def force(self, settings: dict[str, Any]) -> None:
        self.forced.update(settings)

    def stated(self, key: str) -> Any:
        """What the app itself says, or Celery's default."""
        return super().__getitem__(key)

    def __getitem__(self, key: str) -> Any:
        return self.forced[key] if key in self.forced else super().__getitem__(key)

    # Celery looks for these in the environment first.

    @property
    def broker_url(self) -> Any:
        return self.forced.get("broker_url") or super().broker_url

    @property
    def broker_read_url(self) -> Any:
        return self.forced.get("broker_url") or super().broker_read_url

    @property
    def broker_write_url(self) -> Any:
        return self.forced.get("broker_url") or super().broker_write_url

    @property
    def result_backend(self) -> Any:
        return self.forced.get("result_backend") or super().result_backend

    def without_defaults(self) -> Settings:
        """For `celery inspect conf` and `celery report`."""
        return Settings({}, [self.forced, *super().without_defaults().maps])


def force(app: Celery, settings: dict[str, Any]) -> None:
    """Force these settings upon the app."""
    app.conf.finalize()
    if not isinstance(app.conf, ForcedSettings):
        app.conf = ForcedSettings(app.conf)
    app.conf.force(settings)


def always() -> dict[str, Any]:
    """What is forced whatever the app sets: in a plain app, one setting less."""
    guarded = mode.current().guarded
    return {key: value for key, value in ALWAYS.items() if guarded or key != ONLY_GUARDED}


def rebind(sender: Celery, **_: object) -> None:
    """On the app's on_after_finalize: force what a task took from the settings before, because the
    app has used it, or only its name, while it was imported. What its own options say stays."""
    for task in sender.tasks.values():
        own = list(vars(type(task)))
        if "__bound__" not in own:  # the first attribute that Celery sets, after those of the task
            continue
        bound = own[own.index("__bound__") :]
        for attribute, key in task.from_config:
            if key in always() and attribute in bound:
                setattr(type(task), attribute, ALWAYS[key])


def time_limit() -> int:
    """The longest, in seconds, that a task may run."""
    return int(os.environ["CELERY_PI_TIME_LIMIT"])


def apply(app: Celery) -> None:
    """Force what the app lacks. A process that only sends tasks gets no time limits."""
    conf = app.conf
    force(app, always())
    if mode.current().guarded:
        force(app, {key: ours for key, (old, ours) in REPLACED.items() if conf[key] in old})
    elif conf.worker_consumer in REPLACED["worker_consumer"][0]:
        own = conf.worker_consumer
        force(app, {"worker_consumer": PLAIN_CONSUMERS.get(mode.installed().celery, own)})
    force(app, _patient(conf))
    if "CELERY_PI_TIME_LIMIT" not in os.environ:
        return
    hard, soft = conf.task_time_limit, conf.task_soft_time_limit
    if not (hard or soft) and time_limit() > SOFT_LIMIT_LEAD:
        soft = time_limit() - SOFT_LIMIT_LEAD
    options = app.conf.broker_transport_options
    visibility = max(options.get("visibility_timeout", 0), min_visibility_timeout())
    limits = {"task_time_limit": hard or time_limit(), "task_soft_time_limit": soft}
    options = {**options, "visibility_timeout": visibility}
    force(app, {**limits, "broker_transport_options": options})


def _patient(conf: Settings) -> dict[str, Any]:
    """What takes the place of timeouts and retries that are meant for a site's sends."""
    broker, results = conf.broker_transport_options, conf.result_backend_transport_options
    hasty = {key for key in CONNECTION_TIMEOUTS & {*broker} if _is_hasty(broker[key])}
    return {
        "broker_transport_options": {key: broker[key] for key in broker if key not in hasty},
        "result_backend_transport_options": {
            key: results[key] for key in results if key != "retry_policy"
        },
        **{key: patient for key, patient in PATIENT.items() if _is_hasty(conf[key])},
    }


def _is_hasty(timeout: float | None) -> bool:
    return timeout is not None and timeout < SHORTEST_TIMEOUT


def keep_prefetch_count_when_autoscaling(conf: Any, options: dict[str, Any], **_: object) -> None:
    """Otherwise a worker that autoscales keeps, after a reconnect, the prefetch count of the few
    processes it had at that moment."""
    if options.get("autoscale"):
        conf.force({"worker_enable_prefetch_count_reduction": False})


def force_worker_options(sender: Any, **_: object) -> None:
    """On worker_init: what is forced also wins over options of the command line."""
    for attribute, key in WORKER_OPTIONS.items():
        setattr(sender, attribute, sender.app.conf[key])


def min_visibility_timeout() -> int:
    """Seconds for which no other worker may be given a task that this one holds."""
    countdown = int(os.environ["CELERY_PI_LONGEST_COUNTDOWN"])
    return max(MIN_VISIBILITY_TIMEOUT, time_limit() + MARGIN, countdown + MARGIN)
