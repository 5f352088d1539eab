"""The consumer: events of one interval are sent together, and each task's crashes are counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery.worker import request

from celery_redis_guard import consumer, ownership

pytestmark = pytest.mark.fast


# -- events


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A consumer as far as events are sent by it; its clock stands still."""
    made = consumer.Consumer.__new__(consumer.Consumer)
    made.now, made.timers = 100.0, []

    def call_later(seconds: float, what: object) -> None:
        assert what == made._flush_events
        made.timers.append(made.now + seconds)

    made.hub = SimpleNamespace(call_later=call_later)
    monkeypatch.setattr(consumer, "monotonic", lambda: made.now)
    return made


def test_events_of_an_interval_are_flushed_once(made: Any) -> None:
    for _ in range(3):
        made.on_send_event_buffered()
    assert made.timers == [100 + consumer.FLUSH_INTERVAL]


def test_next_events_are_flushed_though_a_reconnect_dropped_the_timer(made: Any) -> None:
    """As it is when the connection to Redis was lost."""
    made.on_send_event_buffered()
    made.now += consumer.FLUSH_INTERVAL
    made.on_send_event_buffered()
    made.on_send_event_buffered()
    assert len(made.timers) == 2


def test_consumer_without_an_event_loop_schedules_nothing(made: Any) -> None:
    made.hub = None
    made.on_send_event_buffered()
    assert made.timers == []


# -- crashes


class SitesRequest(request.Request):  # type: ignore[misc]  # of celery
    """One that a site has made for itself."""


def test_crashes_are_counted_of_every_task_and_a_sites_own_request_stays(made: Any) -> None:
    """Also of a task whose class is none of the app's."""
    app = Celery("site", set_as_current=False)

    def work() -> None:
        pass

    app.task(name="plain")(work)
    app.task(name="based", base=Task)(work)
    app.task(name="own", Request=SitesRequest)(work)
    made.app, made.strategies, made.hostname = app, {}, "host"
    for task in app.tasks.values():
        task.start_strategy = lambda *_: None
    made.update_strategies()
    made.update_strategies()
    kinds = {name: app.tasks[name].Request for name in ("plain", "based", "own")}
    assert kinds["plain"] is kinds["based"] is ownership.Request
    assert issubclass(kinds["own"], SitesRequest)
    assert issubclass(kinds["own"], ownership.CrashCounting)
    assert Celery("other", set_as_current=False).Task.Request == "celery.worker.request:Request"


# -- reconnecting


def test_worker_that_reconnects_is_patient_and_tells_systemd_that_it_is_healthy(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(consumer, "notify", told.append)
    asked: list[dict[str, Any]] = []

    def ensure_connection(*_: object, **options: Any) -> str:
        asked.append(options)
        options["callback"]()
        return "connected"

    conf = SimpleNamespace(broker_connection_retry_on_startup=True)
    conf.broker_connection_max_retries = None
    made.app = SimpleNamespace(conf=conf)
    assert made.ensure_connected(SimpleNamespace(ensure_connection=ensure_connection)) == (
        "connected"
    )
    assert (asked[0]["interval_start"], asked[0]["interval_max"]) == (1, 5)
    assert told == ["WATCHDOG=1"]
