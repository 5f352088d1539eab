"""Task events of one interval are sent together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery_redis_guard import event_batching

pytestmark = pytest.mark.fast


class Consumer:
    """A consumer as far as events are sent by it; its clock stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.timers: list[float] = []
        self.hub: Any = SimpleNamespace(call_later=self._call_later)
        self._flush_events = object()
        monkeypatch.setattr(event_batching, "monotonic", lambda: self.now)

    def _call_later(self, seconds: float, what: object) -> None:
        assert what is self._flush_events
        self.timers.append(self.now + seconds)


def test_events_of_an_interval_are_flushed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer(monkeypatch)
    for _ in range(3):
        event_batching.schedule_flush(consumer)
    assert consumer.timers == [100 + event_batching.FLUSH_INTERVAL]


def test_next_events_are_flushed_though_a_reconnect_dropped_the_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it is when the connection to Redis was lost."""
    consumer = Consumer(monkeypatch)
    event_batching.schedule_flush(consumer)
    consumer.now += event_batching.FLUSH_INTERVAL
    event_batching.schedule_flush(consumer)
    event_batching.schedule_flush(consumer)
    assert len(consumer.timers) == 2


def test_consumer_without_an_event_loop_schedules_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer(monkeypatch)
    consumer.hub = None
    event_batching.schedule_flush(consumer)
    assert consumer.timers == []
