"""What Flower hears of tasks goes together with what else happens in that moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery_redis_guard import event_batching
from guard_process import last_words

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


def test_events_of_a_moment_are_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer(monkeypatch)
    for _ in range(3):
        event_batching.gather(consumer)
    assert consumer.timers == [100 + event_batching.MOMENT]


def test_next_events_are_sent_though_the_last_timer_was_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it is when the connection to Redis was lost."""
    consumer = Consumer(monkeypatch)
    event_batching.gather(consumer)
    consumer.now += event_batching.MOMENT
    event_batching.gather(consumer)
    event_batching.gather(consumer)
    assert len(consumer.timers) == 2


def test_consumer_without_an_event_loop_gathers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer(monkeypatch)
    consumer.hub = None
    event_batching.gather(consumer)
    assert consumer.timers == []


def test_another_celery_ends_the_process_in_one_sentence() -> None:
    said = last_words(
        "from celery.worker.consumer import Consumer; del Consumer._flush_events;"
        "from celery_redis_guard import event_batching; event_batching.protect()"
    )
    assert "celery 5.5.3 has no Consumer._flush_events, by which" in said
