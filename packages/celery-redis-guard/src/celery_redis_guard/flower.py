"""Flower's own Celery app: `celery -A celery_redis_guard.flower flower`.

It connects to the broker and imports nothing of the owner's app. Its login and the broker's
password come from the environment in forms that no character of theirs can break. Flower's table of
pages gets ours before its own.
"""

import asyncio
import base64
import os
import shelve
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import flower.api.tasks
import flower.events
import flower.urls
import flower.views.broker
import flower.views.workers
from celery import Celery
from celery.utils.time import utcoffset
from flower.options import options
from kombu import Queue
from kombu.transport.redis import Channel
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tornado.ioloop import IOLoop
from tornado.web import authenticated, url

from celery_redis_guard.systemd_notify import notify

BROKER = os.environ["CELERY_BROKER_URL"]
STATE = Path(os.environ["FLOWER_DB"])
TIMEOUT = 2  # seconds that Redis may take for the length of a queue
POLL_INTERVAL = 0.1  # seconds


async def queue_lengths(handler: Any) -> list[dict[str, Any]]:
    """Messages that wait in each queue. Flower's own client ignores user and database on a unix
    socket."""
    address = BROKER.replace("redis+socket://", "unix://", 1).replace("?virtual_host=", "?db=", 1)
    prefix = handler.capp.conf.broker_transport_options.get("global_keyprefix", "")
    found = []
    at_once = Retry(NoBackoff(), 0)
    async with Redis.from_url(address, socket_timeout=TIMEOUT, retry=at_once) as client:
        for name in handler.get_active_queue_names():
            lengths = [await client.llen(key) for key in _keys(prefix + name)]
            found.append({"name": name, "messages": sum(lengths)})
    return found


def _keys(queue: str) -> list[str]:
    """kombu keeps a list for each priority, and the default one without a suffix."""
    return [f"{queue}{Channel.sep}{step}" if step else queue for step in Channel.priority_steps]


class BrokerView(flower.views.broker.BrokerView):
    """The broker's page."""

    @authenticated  # type: ignore[untyped-decorator]  # tornado is on the Pi alone
    async def get(self) -> None:
        queues = await queue_lengths(self)
        address = self.capp.connection().as_uri()  # without the password
        self.render("broker.html", broker_url=address, queues=queues)


class GetQueueLengths(flower.api.tasks.GetQueueLengths):
    """The same as JSON."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        self.write({"active_queues": await queue_lengths(self)})


class WorkerView(flower.views.workers.WorkerView):
    """A worker's page: that of Flower 2.0 fails until Flower has inspected that worker."""

    @authenticated  # type: ignore[untyped-decorator]
    async def get(self, name: str) -> None:
        workers, waited = self.application.workers, 0.0
        if "stats" not in workers.get(name, {}):
            self.application.update_workers(workername=name)
        while "stats" not in workers.get(name, {}) and waited < options.inspect_timeout / 1000:
            await asyncio.sleep(POLL_INTERVAL)
            waited += POLL_INTERVAL
        await super().get(name)


class Events(flower.events.Events):
    """What the workers tell, at its time."""

    def on_event(self, event: dict[str, Any]) -> None:
        """Celery has shifted the timestamp by the difference of time zones, though it is UTC: it
        would be hours off where Django's zone is not the Pi's."""
        if "utcoffset" in event and "timestamp" in event:
            event["timestamp"] += (event["utcoffset"] - utcoffset()) * 3600
        super().on_event(event)


class LateEvents:
    """Stands for `Events`, which are made when Flower has read its options."""

    @cached_property
    def made(self) -> Events:
        return Events(
            app,
            IOLoop.current(),
            db=options.db,
            persistent=options.persistent,
            enable_events=options.enable_events,
            state_save_interval=options.state_save_interval,
            max_workers_in_memory=options.max_workers,
            max_tasks_in_memory=options.max_tasks,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)


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


flower.urls.handlers[:0] = [
    url(r"/worker/(.+)", WorkerView),
    url(r"/broker", BrokerView),
    url(r"/api/queues/length", GetQueueLengths),
]
flower.urls.settings["events"] = LateEvents()
# Not FLOWER_BASIC_AUTH, which would be split at each comma of the password.
options.basic_auth = [base64.b64decode(os.environ["CELERY_PI_FLOWER_LOGIN"]).decode()]
move_damaged_state()
IOLoop.current().add_callback(notify, "READY=1")  # called by the loop that serves the pages
app = load()
