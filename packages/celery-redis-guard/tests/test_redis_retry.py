"""How long a pool process retries while Redis is away."""

from __future__ import annotations

import os
import signal
from mmap import mmap
from types import ModuleType
from typing import Any

import pytest

from celery_redis_guard import backend

pytestmark = pytest.mark.fast

AWAY = ConnectionError("Connection refused")


class Ended(BaseException):
    """The process would have ended."""


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module in a process of a worker that works."""
    module = backend
    monkeypatch.setattr(module, "_is_shutting_down", bytearray(1))

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    return module


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch, away: ModuleType) -> Any:
    """Lets so many seconds pass."""
    clock = [100.0]
    monkeypatch.setattr(away, "monotonic", lambda: clock[0])

    def let_pass(seconds: float) -> None:
        clock[0] += seconds

    return let_pass


@pytest.fixture
def again(away: ModuleType) -> Any:
    """Whether a process tries again that has met an error."""
    return away.RetryPolicy(lambda error: isinstance(error, ConnectionError))


def test_process_retries_for_as_long_as_redis_is_away(again: Any, seconds: Any) -> None:
    assert again(AWAY)
    seconds(86400)
    assert again(AWAY)


def test_process_of_a_worker_that_shuts_down_gives_up_after_ten_seconds(
    away: ModuleType, again: Any, seconds: Any
) -> None:
    assert again(AWAY)
    seconds(60)
    away.begin_shutdown()
    assert again(AWAY)
    seconds(9.9)
    assert again(AWAY)
    seconds(0.1)
    with pytest.raises(Ended, match="75"):
        again(AWAY)


def test_redis_that_cannot_write_to_its_disk_is_waited_for(again: Any) -> None:
    assert again(RuntimeError("MISCONF Redis is configured to save"))


def test_any_other_error_is_not_retried_and_ends_nothing(
    away: ModuleType, again: Any, seconds: Any
) -> None:
    away.begin_shutdown()
    for _ in range(2):
        assert not again(RuntimeError("WRONGTYPE"))
        seconds(60)


def test_shutdown_reaches_processes_that_were_forked_before(away: ModuleType) -> None:
    shared = mmap(-1, 1)
    child = os.fork()
    if not child:
        signal.alarm(10)
        while not shared[0]:
            pass
        os.kill(os.getpid(), 9)
    vars(away)["_is_shutting_down"] = shared
    away.begin_shutdown()
    assert os.waitpid(child, 0)[1] == 9
