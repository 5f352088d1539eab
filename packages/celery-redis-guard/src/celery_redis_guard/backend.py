"""Managed by celery-pi. What became of a task is written in one trip to Redis.

Celery asks for the result that is there, lest a success be overwritten, and writes its own in a
second trip; another worker may have succeeded between the two. Here a script does both. For a task
that takes a millisecond the trips are most of the work: docs/benchmarks.md.
"""

import sys
from importlib.metadata import version

try:
    from celery.backends.redis import RedisBackend
    from celery.exceptions import BackendStoreError
    from redis.exceptions import OutOfMemoryError
except ImportError as error:
    sys.exit(f"celery-pi: no quick way for results in these packages: {error}")

# What is there and is no JSON, because the app has changed its format, is no success of ours.
KEEP = """
local kept = redis.call('GET', KEYS[1])
local valid, meta = pcall(cjson.decode, kept or '{}')
if valid and meta.status == 'SUCCESS' then return 0 end
if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1])
else redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"""

# What Celery has, and is used or replaced here.
USED = (
    *("_store_result", "_get_result_meta", "get_key_for_task", "encode", "ensure"),
    "_MAX_STR_VALUE_SIZE",
)

in_two_trips = RedisBackend._store_result


def in_one_trip(self, task_id, result, state, traceback=None, request=None, **options):
    """As Celery's own; which is what tries when Redis has no memory left."""
    told = {"result": result, "state": state, "traceback": traceback, "request": request}
    meta = {**self._get_result_meta(**told), "task_id": task_id}
    value = self.encode(meta)
    if len(value) > self._MAX_STR_VALUE_SIZE:
        raise BackendStoreError("value too large for Redis", state=state, task_id=task_id)
    keep = (KEEP, 1, self.get_key_for_task(task_id), value, int(self.expires or 0))
    try:
        self.ensure(self.client.eval, keep)
    except OutOfMemoryError:
        return in_two_trips(self, task_id, **told, **options)
    return result


def protect():
    """Let every result go this way."""
    for name in USED:
        if not hasattr(RedisBackend, name):
            sys.exit(
                f"celery-pi: celery {version('celery')} has no RedisBackend.{name}, "
                "by which a result is written in one trip"
            )
    RedisBackend._store_result = in_one_trip
