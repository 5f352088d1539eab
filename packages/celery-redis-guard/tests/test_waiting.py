"""An idle worker waits for a message without taking it, in each of its lists."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redis_server import redis_server
from test_guarded_worker import Site, guarded, wait_for

pytestmark = pytest.mark.fast

LISTS = ["celery", "celery\x06\x163", "celery\x06\x166", "celery\x06\x169"]
SEND = "print(write.apply_async(('{name}',), priority={priority}).get(timeout=20))"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Redis, str]]:
    with redis_server() as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, server: tuple[Redis, str]) -> Iterator[Site]:
    redis, place = server
    redis.flushall()
    yield Site(tmp_path, redis, guarded(place))
    redis.config_set("maxmemory", 0)
    redis.acl_setuser("default", enabled=True, nopass=True, commands=["+blmove"])


def blocked(redis: Redis) -> int:
    clients: Any = redis.info("clients")
    return int(clients["blocked_clients"])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def assert_idle(pid: int) -> None:
    """A worker that asks again and again would need all of a processor."""
    before = cpu_seconds(pid)
    time.sleep(3)
    assert cpu_seconds(pid) - before < 1


def test_message_of_any_priority_wakes_it_and_it_waits_again(site: Site) -> None:
    with site.worker("one") as worker:
        for priority in (0, 3, 6, 9):
            wait_for(lambda: blocked(site.redis) == len(LISTS))
            name = f"of-{priority}"
            assert site.send(SEND.format(name=name, priority=priority)) == name
        assert_idle(worker.pid)


def test_worker_waits_for_more_lists_than_a_pool_of_kombus_has_connections(
    tmp_path: Path, server: tuple[Redis, str]
) -> None:
    redis, place = server
    redis.flushall()
    queues = "from kombu import Queue\napp.conf.task_queues = [Queue(name) for name in 'abcde']"
    site = Site(tmp_path, redis, f"{guarded(place)}\n{queues}")
    with site.worker("one") as worker:
        wait_for(lambda: blocked(redis) == 5 * len(LISTS))
        assert_idle(worker.pid)


def test_messages_stay_where_they_are_while_it_waits(site: Site) -> None:
    """As they would if the worker were killed before it has fetched what woke it."""
    site.redis.rpush("celery", "first", "second")
    for _ in range(2):
        site.redis.blmove("celery", "celery", 1, "RIGHT", "RIGHT")
    kept: Any = site.redis.lrange("celery", 0, -1)
    assert kept == [b"first", b"second"]


def test_redis_that_is_full_or_forbids_it_is_waited_for_as_kombu_does(site: Site) -> None:
    with site.worker("one") as worker:
        wait_for(lambda: blocked(site.redis) == len(LISTS))
        site.redis.config_set("maxmemory", 1)
        assert_idle(worker.pid)
        site.redis.config_set("maxmemory", 0)
        assert site.send(SEND.format(name="full", priority=3)) == "full"
        site.redis.acl_setuser("default", enabled=True, nopass=True, commands=["-blmove"])
        assert site.send(SEND.format(name="forbidden", priority=3)) == "forbidden"
        assert_idle(worker.pid)
