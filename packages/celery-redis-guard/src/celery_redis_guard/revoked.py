"""Revoked tasks stay revoked: a worker that starts knows what was revoked before.

Celery keeps revocations in the memory of the workers that were there, or in a file of one of them.
A task with a countdown is given back when its worker stops, and its successor would run it. Here
each revocation is kept in Redis for as long as the task can still come, and a worker reads them
before it takes its first task, and again after each reconnect.
"""

from collections.abc import Iterable
from functools import wraps
from time import time
from typing import Any

from celery import bootsteps
from celery.utils.functional import maybe_list
from celery.worker import control, state
from celery.worker.consumer import tasks
from redis import Redis

from celery_redis_guard.oom_exempt import ALLOW_OOM

REVOKED_KEY = "celery-pi.revoked"  # sorted set: task id, by the time at which it is forgotten
STAMPS_KEY = "celery-pi.revoked-stamps"  # the same of HEADER=STAMP

# Seconds that a task may wait in its queue, beside its countdown, for which the visibility timeout
# stands.
LONGEST_QUEUE = 7 * 86400

# KEYS: sorted set. ARGV: time, time at which the members are forgotten, members.
KEEP_SCRIPT = (
    ALLOW_OOM
    + """
for _, past in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])) do
  redis.call('ZREM', KEYS[1], past)
end
for place = 3, #ARGV do redis.call('ZADD', KEYS[1], ARGV[2], ARGV[place]) end
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2] - ARGV[1]))
"""
)


class RevokedStep(bootsteps.StartStopStep):
    """Reads what is revoked; starts with each connection to Redis, before a task is taken."""

    requires = (tasks.Tasks,)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        for command in (control.revoke, control.terminate, control.revoke_by_stamped_headers):
            _register(command)

    def start(self, c: Any) -> None:
        state.revoked.update(_kept(c, REVOKED_KEY))
        for entry in _kept(c, STAMPS_KEY):
            header, _, stamp = entry.partition("=")
            stamps = maybe_list(state.revoked_stamps.get(header)) or []
            if stamp not in stamps:
                state.revoked_stamps[header] = [*stamps, stamp]


def _register(command: Any) -> None:
    """Let Celery's command be kept, too, in the worker of this process."""
    meta = control.Panel.meta[command.__name__]
    fields = {name: getattr(meta, name) for name in ("args", "signature", "variadic")}

    @wraps(command)
    def kept_command(panel: Any, **options: Any) -> Any:
        reply = command(panel, **options)
        if "headers" in options:
            _keep(panel.consumer, STAMPS_KEY, _entries(options["headers"]))
        else:
            _keep(panel.consumer, REVOKED_KEY, maybe_list(options["task_id"]) or [])
        return reply

    control.control_command(name=command.__name__, **fields)(kept_command)


def _entries(headers: Any) -> list[str]:
    """Of what Celery takes: HEADER=STAMP, or a stamp or several by header."""
    if isinstance(headers, list):
        return headers
    return [f"{name}={stamp}" for name, stamps in headers.items() for stamp in maybe_list(stamps)]


def _client(consumer: Any, key: str) -> tuple[Any, Any, str]:
    channel = consumer.connection.default_channel
    return channel, Redis(connection_pool=channel.pool), channel.global_keyprefix + key


def _keep(consumer: Any, key: str, members: Iterable[str]) -> None:
    channel, client, key = _client(consumer, key)
    until = time() + channel.visibility_timeout + LONGEST_QUEUE
    client.eval(KEEP_SCRIPT, 1, key, time(), until, *members)


def _kept(consumer: Any, key: str) -> list[str]:
    _, client, key = _client(consumer, key)
    members: Any = client.zrangebyscore(key, time(), "+inf")
    return [member.decode() for member in members]
