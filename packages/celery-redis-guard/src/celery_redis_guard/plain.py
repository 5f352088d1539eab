"""What a plain worker and a plain Beat need to run as services, by Celery's public parts alone.

systemd and `celery-pi status` hear from a plain worker what they hear from a guarded one. None of
the guard's classes may be imported here: with versions that nobody has tried, that could fail.
"""

import os
from typing import Any

from celery import beat, bootsteps
from celery.worker.consumer import tasks
from redis import Redis

from celery_redis_guard.beat import acquire_lock
from celery_redis_guard.identity import CHANNEL, worker_id
from celery_redis_guard.systemd_notify import notify

INTERVAL = 5  # seconds between two pings of systemd's watchdog
SOCKET_TIMEOUT = 5  # seconds that Redis may take for a reply
RECONNECTING = 3600  # seconds without a ping that systemd allows while there is no connection


class PlainLivenessStep(bootsteps.StartStopStep):
    """Starts with each connection to Redis: announces this worker, and pings the watchdog.

    Celery may wait half a minute between two tries to connect, and runs no timer meanwhile.
    """

    requires = (tasks.Tasks,)

    def start(self, c: Any) -> None:
        url = c.app.conf.broker_url.replace("redis+socket", "unix", 1).partition("?")[0]
        self.client = Redis.from_url(url, socket_timeout=SOCKET_TIMEOUT)
        self.subscription = self.client.pubsub()  # type: ignore[no-untyped-call]
        self.subscription.subscribe(os.environ.get("CELERY_KEY_PREFIX", "") + CHANNEL + worker_id())
        self.subscription.get_message(timeout=SOCKET_TIMEOUT)
        _allow_silence(int(os.environ.get("WATCHDOG_USEC", 0)))
        c.timer.call_repeatedly(INTERVAL, notify, ("WATCHDOG=1",))

    def stop(self, c: Any) -> None:
        """After a lost connection. A worker that shuts down lives until its pool has ended."""
        if c.blueprint.state == bootsteps.RUN:
            _allow_silence(RECONNECTING * 10**6)
            self.shutdown(c)

    def shutdown(self, _: Any) -> None:
        self.subscription.close()
        self.client.connection_pool.disconnect()


def _allow_silence(microseconds: int) -> None:
    """Set systemd's watchdog to that, from now on, if this process has one."""
    if microseconds and "WATCHDOG_USEC" in os.environ:
        notify(f"WATCHDOG_USEC={microseconds}\nWATCHDOG=1")


class PlainScheduler(beat.PersistentScheduler):
    """Celery's own; its file has another format than the guard's, which is left as it is."""

    def __init__(self, *args: Any, schedule_filename: str, **options: Any) -> None:
        acquire_lock()
        super().__init__(*args, schedule_filename=f"{schedule_filename}.plain", **options)
