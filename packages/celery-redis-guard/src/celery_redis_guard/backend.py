"""The result backend: results are stored atomically, and a task's process waits for Redis.

What a task leaves to be done, such as its part in a chord, is in `chords`.

Atomic store: Celery reads the stored result, lest a success be overwritten, and writes its own in a
second round trip; another worker may succeed between the two. Here one script does both. For a task
of a millisecond the round trips are most of the work: docs/benchmarks.md.

Retry policy: Celery fails a task whose state cannot be stored, even one that has not begun, because
the read that precedes the write is not retried. Here the process retries until Redis is back. A
worker that shuts down waits for its processes, and systemd starts Redis only after the worker has
stopped (it is ordered after Redis), so during a shutdown the wait is bounded: the process then
exits, and its task is requeued like that of any lost process.
"""

import os
from collections.abc import Callable
from logging import getLogger
from mmap import mmap
from time import monotonic
from typing import Any

from celery import current_app
from redis.exceptions import OutOfMemoryError

from celery_redis_guard import outbox
from celery_redis_guard.chords import STORE_SCRIPT, OneStepBackend
from celery_redis_guard.forced_defaults import force
from celery_redis_guard.oom_exempt import exempt_result_commands, exempting
from celery_redis_guard.tcp import with_tcp_options

# Of a task that is sent, one a second. celery 5.7 takes "for ever" for five.
PUBLISH_RETRIES = 1_000_000
SHUTDOWN_TIMEOUT = 10  # seconds that a shutdown waits for Redis; Celery's own retries add up to 20

logger = getLogger(__name__)
_is_shutting_down = mmap(-1, 1)  # memory that the worker shares with its processes


class Backend(OneStepBackend):
    """Named by a URL: `result_backend = "celeryredisguard.Backend+redis://..."`."""

    supports_result_compression = False  # STORE_SCRIPT reads results

    def _create_client(self, **parameters: Any) -> Any:
        if "host" in parameters:
            parameters = with_tcp_options(parameters)
        return exempting(super()._create_client(**parameters), exempt_result_commands)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **options: Any,
    ) -> Any:
        """Store in one script, or as Celery does when Redis' memory is full, because those writes
        are OOM-exempt. Raises BackendStoreError for a value too large for Redis."""
        given = {"result": result, "state": state, "traceback": traceback, "request": request}
        value = self.encoded(task_id, given)
        script = (STORE_SCRIPT, 1, self.get_key_for_task(task_id), value, int(self.expires or 0))
        try:
            self.ensure(self.client.eval, script)
        except OutOfMemoryError:
            return super()._store_result(task_id, **given, **options)
        return result


# -- retry policy


def begin_shutdown(**_: object) -> None:
    """Bound the wait for Redis; called in the worker, holds for all of its processes."""
    _is_shutting_down[0] = 1


def retry_until_redis_returns(**_: object) -> None:
    """Let this pool process retry every second to reach Redis, if its results are kept there."""
    app = current_app
    if not isinstance(app.backend, Backend):
        return
    app.backend.always_retry = True
    app.backend.max_sleep_between_retries_ms = 1000
    policy = RetryPolicy(app.backend.exception_safe_to_retry)
    app.backend.exception_safe_to_retry = policy
    publishing = {
        "max_retries": PUBLISH_RETRIES,
        "interval_max": 1,
        "errback": lambda error, _: policy.end_when_shutting_down(error),
    }
    force(app, {"task_publish_retry_policy": publishing})  # whatever a site says of its sends


def hold_what_follows(task: Any, **_: object) -> None:
    """On task_prerun."""
    if isinstance(task.backend, Backend):
        outbox.begin(task.request, task.backend.place)


class RetryPolicy:
    """Whether an error is retried. Ends the process when a shutdown has waited long enough."""

    def __init__(self, is_retryable: Callable[[Exception], bool]) -> None:
        self.is_retryable = is_retryable
        self.shutdown_seen_at: float | None = None

    def __call__(self, error: Exception) -> bool:
        # MISCONF: Redis refuses writes while it cannot persist to its disk.
        if not self.is_retryable(error) and not str(error).startswith("MISCONF"):
            return False
        self.end_when_shutting_down(error)
        return True

    def end_when_shutting_down(self, error: Exception) -> None:
        if not _is_shutting_down[0]:
            return
        self.shutdown_seen_at = self.shutdown_seen_at or monotonic()
        if monotonic() - self.shutdown_seen_at >= SHUTDOWN_TIMEOUT:
            logger.error("celery-pi: the worker stops and Redis is away: %s", error)
            os._exit(os.EX_TEMPFAIL)
