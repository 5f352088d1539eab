"""What Flower hears of tasks goes together with what else happens in that moment."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.library import LIBRARY, last_words

pytestmark = pytest.mark.fast


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(LIBRARY))
    return import_module("gathered_events")


class Consumer:
    """A consumer as far as events are sent by it; its clock stands still."""

    def __init__(self, events: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.timers: list[float] = []
        self.hub: Any = SimpleNamespace(call_later=self._call_later)
        self._flush_events = object()
        monkeypatch.setattr(events, "monotonic", lambda: self.now)

    def _call_later(self, seconds: float, what: object) -> None:
        assert what is self._flush_events
        self.timers.append(self.now + seconds)


def test_events_of_a_moment_are_sent_once(
    events: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = Consumer(events, monkeypatch)
    for _ in range(3):
        events.gather(consumer)
    assert consumer.timers == [100 + events.MOMENT]


def test_next_events_are_sent_though_the_last_timer_was_forgotten(
    events: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is when the connection to Redis was lost."""
    consumer = Consumer(events, monkeypatch)
    events.gather(consumer)
    consumer.now += events.MOMENT
    events.gather(consumer)
    events.gather(consumer)
    assert len(consumer.timers) == 2


def test_consumer_without_an_event_loop_gathers_nothing(
    events: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = Consumer(events, monkeypatch)
    consumer.hub = None
    events.gather(consumer)
    assert consumer.timers == []


def test_another_celery_ends_the_process_in_one_sentence() -> None:
    said = last_words(
        "from celery.worker.consumer import Consumer; del Consumer._flush_events;"
        "import gathered_events; gathered_events.protect()"
    )
    assert "celery 5.5.3 has no Consumer._flush_events, by which" in said
