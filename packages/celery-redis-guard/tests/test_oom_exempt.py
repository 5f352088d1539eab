"""Which commands are OOM-exempt."""

from __future__ import annotations

import json

import pytest

from celery_redis_guard import oom_exempt

pytestmark = pytest.mark.fast

NEW = json.dumps({"headers": {"retries": 0}})
RETRY = json.dumps({"headers": {"retries": 1}})
META = b"birds:celery-task-meta-1"

BROKER = [
    ([["LPUSH", "celery", NEW]], False),
    ([["LPUSH", "celery", RETRY]], True),
    ([["LPUSH", "celery", RETRY], ["LPUSH", "celery", NEW]], False),
    ([["LPUSH", "1.reply.celery.pidbox", NEW]], True),
    ([["LPUSH", "1.reply.celery.pidbox", NEW], ["PEXPIRE", "1.reply.celery.pidbox", 9]], True),
    ([["ZREM", "unacked_index", "1"], ["HDEL", "unacked", "1"], ["RPUSH", "celery", NEW]], True),
    ([["ZADD", "unacked_index", 1.5, "1"], ["HSET", "unacked", "1", "..."]], True),
    ([["SADD", "_kombu.binding.celery", "celery"]], True),
    ([["SET", "unacked_mutex", b"1", "PX", 9, "NX"]], True),
]

RESULTS = [
    ([["SETEX", META, 9, "x" * 1024], ["PUBLISH", META, "x"]], "SETEX"),
    ([["SETEX", META, 9, "x" * 1025], ["PUBLISH", META, "x"]], "DEL"),
    ([["SET", META, "x" * 1025], ["PUBLISH", META, "x"]], "DEL"),
    ([["SETEX", b"celery-taskset-meta-1", 9, "x"], ["PUBLISH", b"", "x"]], None),
    ([["ZADD", b"celery-taskset-meta-1.j", 1, "x"], ["ZCOUNT", b"", 0, 1]], "ZADD"),
]


@pytest.mark.parametrize(("commands", "exempt"), BROKER)
def test_all_broker_commands_are_exempt_but_a_new_task(
    commands: list[list[object]], exempt: bool
) -> None:
    assert oom_exempt.exempt_broker_commands(commands) == (commands if exempt else None)


@pytest.mark.parametrize(("commands", "first"), RESULTS)
def test_only_small_results_are_exempt(commands: list[list[object]], first: str | None) -> None:
    exempt = oom_exempt.exempt_result_commands(commands)
    assert (exempt and exempt[0][0]) == first
    assert exempt is None or exempt[1:] == commands[1:]
