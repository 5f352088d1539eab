"""Flower's own Celery app: `celery -A celery_redis_guard.flower flower`.

It connects to the broker and imports nothing of the owner's app. Its login and the broker's
password come from the environment in forms that no character of theirs can break.
"""

import asyncio
import base64
import os
import shelve
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

import flower.urls
import flower.utils.broker
import flower.views.workers
from celery import Celery
from celery.events import EventReceiver
from flower.options import options
from kombu import Queue
from redis import Redis
from tornado.ioloop import IOLoop
from tornado.web import authenticated

from celery_redis_guard.systemd_notify import notify

BROKER = os.environ["CELERY_BROKER_URL"]
STATE = Path(os.environ["FLOWER_DB"])


class RedisSocket(flower.utils.broker.RedisBase):
    """The broker page's client: Flower's own ignores user and database on a unix socket."""

    def __init__(self, broker_url: str, *args: Any, **options: Any) -> None:
        super().__init__(broker_url, *args, **options)
        address = broker_url.replace("redis+socket://", "unix://", 1)
        self.redis = Redis.from_url(address.replace("?virtual_host=", "?db=", 1))


class WorkerView(flower.views.workers.WorkerView):
    """A worker's page: Flower's own fails until Flower has inspected that worker."""

    @authenticated  # type: ignore[untyped-decorator]  # tornado is on the Pi alone
    async def get(self, name: str) -> None:
        if "stats" not in self.application.workers.get(name, {}):
            await asyncio.wait(self.application.update_workers(workername=name))
        await super().get(name)


def load() -> Celery:
    """An app that can inspect the broker, and nothing more."""
    prefix = os.environ.get("CELERY_KEY_PREFIX", "")
    prefixed = {"global_keyprefix": prefix} if prefix else {}
    app = Celery("flower", broker=BROKER, backend=BROKER)
    app.conf.update(
        broker_transport_options=prefixed,
        result_backend_transport_options=prefixed,
        # What the broker page shows while no worker answers.
        task_queues=[Queue(name) for name in os.environ["CELERY_PI_QUEUES"].split(",")],
    )
    return app


def move_damaged_state() -> None:
    """Rename a state file that cannot be read, as after a power cut: Flower would not start."""
    try:
        with shelve.open(str(STATE)) as state:
            state.get("events")
    except Exception as error:  # unpickling damaged data can raise any
        for path in STATE.parent.glob(f"{STATE.name}*"):
            if not path.name.endswith(".damaged"):
                path.replace(f"{path}.damaged")
        print(f"celery-pi: set the damaged state aside: {error!r}", file=sys.stderr)


# Celery shifts the timestamps of events by the difference of time zones, though they are UTC:
# Flower would show them hours off where Django's zone is not the Pi's.
EventReceiver.event_from_message = partialmethod(EventReceiver.event_from_message, localize=False)
flower.utils.broker.RedisSocket = RedisSocket
for route in flower.urls.handlers:
    if getattr(route, "name", None) == "worker":
        route.handler_class = WorkerView
# Not FLOWER_BASIC_AUTH, which would be split at each comma of the password.
options.basic_auth = [base64.b64decode(os.environ["CELERY_PI_FLOWER_LOGIN"]).decode()]
move_damaged_state()
IOLoop.current().add_callback(notify, "READY=1")  # called by the loop that serves the pages
app = load()
