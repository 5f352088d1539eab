"""Maintenance mode: a worker that takes nothing, and goes on when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from celery_redis_guard import maintenance

pytestmark = pytest.mark.fast


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "maintenance/page.html"


def add(x: int, y: int) -> int:
    return x + y


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, page: Path) -> Iterator[Celery]:
    """An app with its broker in memory, whose workers look for the page."""
    monkeypatch.setattr(maintenance, "PAGE", page)
    monkeypatch.setattr(maintenance, "INTERVAL", 0.1)
    app = Celery("test", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_default_queue = "celery"
    maintenance.install(app)
    app.task(name="add")(add)
    yield app
    app.close()


def comes(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_worker_that_is_started_in_maintenance_takes_nothing_until_it_is_over(
    app: Celery, page: Path
) -> None:
    page.parent.mkdir()
    page.touch()
    with start_worker(app, perform_ping_check=False, pool="threads", shutdown_timeout=30):
        waiting = [app.send_task("add", (1, number)) for number in range(3)]
        assert not comes(waiting[0].ready, 1)
        page.unlink()
        assert comes(lambda: all(result.ready() for result in waiting), 20)
        assert [result.get(timeout=5) for result in waiting] == [1, 2, 3]


def test_worker_begins_at_once_without_maintenance(app: Celery) -> None:
    with start_worker(app, perform_ping_check=False, pool="threads", shutdown_timeout=30):
        assert app.send_task("add", (1, 2)).get(timeout=20) == 3
