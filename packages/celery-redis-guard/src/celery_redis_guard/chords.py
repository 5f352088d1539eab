"""Chords, chains and callbacks: what a task leaves is kept in one step.

Celery sends what follows a task, keeps its result, counts it in its chord, and sends the chord's
body, each in a step of its own. A task that is killed between two of them comes again, and is
dropped if its result is there already: its chord waits for ever. Here one script does all of it, so
a result that is a success says that nothing is left to do. The task that completes a chord needs
two scripts, because the body's message is made of all the results: the first counts it, the second
keeps its result and pushes the body, once, whoever comes to it.
"""

from collections.abc import Callable
from time import sleep
from typing import Any

from celery import states
from celery.backends.redis import RedisBackend
from celery.canvas import maybe_signature
from celery.exceptions import BackendStoreError, ChordError
from celery.result import GroupResult, allow_join_result
from celery.utils.log import get_logger
from redis.exceptions import OutOfMemoryError

from celery_redis_guard import outbox
from celery_redis_guard.oom_exempt import ALLOW_OOM, MAX_RESULT_BYTES

# Keeps a result, unless a success is there, and pushes messages. A kept value that is no JSON (the
# app has changed its serializer) is no success of ours. If the value itself is there already, all
# was done, and the script is repeated because its reply was lost.
KEEP = """
local function keep(key, value, expires)
  if value == '' then return true end
  local kept = redis.call('GET', key)
  if kept == value then return false end
  local valid, meta = pcall(cjson.decode, kept or '{}')
  if valid and meta.status == 'SUCCESS' then return true end
  if expires == '0' then redis.call('SET', key, value)
  else redis.call('SETEX', key, expires, value) end
  redis.call('PUBLISH', key, value)
  return true
end
local function push(first, last)
  for place = first, last, 2 do redis.call('LPUSH', ARGV[place], ARGV[place + 1]) end
end
"""

# KEYS: result. ARGV: its value, or nothing; seconds that it is kept; queues and their messages.
STORE_SCRIPT = KEEP + "if keep(KEYS[1], ARGV[1], ARGV[2]) then push(3, #ARGV) end"

# Counts a task in its chord, once. If that completes the chord it replies what all have returned,
# and leaves the rest to FINISH_SCRIPT. A task that comes again after the body was sent is not
# counted: it would begin the chord anew.
# KEYS: result; results of the chord, its growth, size and members, the mark that it is done.
# ARGV: as above; then name, place and part of the member, and 1 if it was delivered before.
COUNT_SCRIPT = (
    KEEP
    + """
local function keep_and_push()
  if keep(KEYS[1], ARGV[1], ARGV[2]) then push(7, #ARGV) end
  return {}
end
local size = redis.call('GET', KEYS[4])
if not size and ARGV[6] == '1' and redis.call('GET', KEYS[6]) then return keep_and_push() end
if redis.call('SADD', KEYS[5], ARGV[3] .. ':' .. ARGV[4]) == 1 then
  redis.call('ZADD', KEYS[2], ARGV[4], ARGV[5])
end
if ARGV[2] ~= '0' then
  for place = 2, 5 do redis.call('EXPIRE', KEYS[place], ARGV[2]) end
end
local growth = redis.call('GET', KEYS[3]) or 0
if not size or redis.call('ZCOUNT', KEYS[2], '-inf', '+inf') < size + growth then
  return keep_and_push()
end
return redis.call('ZRANGE', KEYS[2], 0, -1)
"""
)

# Ends a chord: keeps the result of the task that completed it, and pushes the body, or whatever the
# chord ends in, unless another has done so.
# KEYS: as above. ARGV: as STORE_SCRIPT; seconds of the mark; number of words for queues that
# are pushed in any case, those, and those of the chord.
FINISH_SCRIPT = (
    ALLOW_OOM
    + KEEP
    + """
local last = 4 + ARGV[4]
if keep(KEYS[1], ARGV[1], ARGV[2]) then push(5, last) end
if redis.call('EXISTS', KEYS[4]) == 0 then return end
push(last + 1, #ARGV)
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('SET', KEYS[6], 'done', 'EX', ARGV[3])
"""
)

# Sends a task by which a chord grows, once. KEYS: members, growth. ARGV: task, queue, message.
GROW_SCRIPT = (
    ALLOW_OOM
    + """
if redis.call('SADD', KEYS[1], 'grown:' .. ARGV[1]) == 0 then return end
redis.call('INCRBY', KEYS[2], 1)
redis.call('LPUSH', ARGV[2], ARGV[3])
"""
)

DONE_SECONDS = 86400  # that a chord's end is remembered, for a member that comes again

logger = get_logger(__name__)


class OneStepBackend(RedisBackend):
    """Keeps the result of a task, counts it and sends what follows in one step."""

    @property
    def place(self) -> outbox.Place:
        return outbox.place_of(self.client.connection_pool)

    def until_redis_returns(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """The call's reply; it is repeated as Celery repeats the store of a result."""
        while True:
            try:
                return call(*arguments)
            except Exception as error:
                if not self.always_retry or not self.exception_safe_to_retry(error):
                    raise
                sleep(self.max_sleep_between_retries_ms / 1000)

    def encoded(self, task_id: str, given: dict[str, Any]) -> Any:
        """A task's result as it is kept. Raises BackendStoreError if it is too large for Redis."""
        value = self.encode({**self._get_result_meta(**given), "task_id": task_id})
        if len(value) > self._MAX_STR_VALUE_SIZE:
            state = given["state"]
            raise BackendStoreError("value too large for Redis", state=state, task_id=task_id)
        return value

    # -- a task that is done

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        held = outbox.end(task_id)
        is_kept = store_result and (request is None or not request.ignore_result)
        in_chord = bool(request and request.chord and request.group and request.id)
        if not held and not in_chord:
            if is_kept:
                self.store_result(task_id, result, state, request=request)
            return
        value = ""
        if is_kept:
            given = {"state": state, "traceback": None, "request": request}
            value = self.encoded(task_id, {"result": self.encode_result(result, state), **given})
        if in_chord:
            self._count(request, state, result, value, held)
        else:
            self._store(task_id, value, held)

    def _store(self, task_id: str, value: Any, held: outbox.Held) -> None:
        """Keep the result and push what was held, also beyond the limit of Redis' memory: it takes
        the place of the task."""
        words = [value, int(self.expires or 0), *_words(held)]
        key = self.get_key_for_task(task_id)
        self.until_redis_returns(self.client.eval, ALLOW_OOM + STORE_SCRIPT, 1, key, *words)

    # -- a part of a chord

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        """A part that has failed or was revoked: its result is kept already."""
        if request.group and request.id:
            self._count(request, state, result, "", [])

    def add_to_chord(self, group_id: str, result: Any) -> None:
        """Celery sends the task after this: if the process is killed before, nothing has grown."""
        _, size, _, members, _ = (key.decode() for key in self._chord_keys(group_id))
        outbox.grow(outbox.Growth(self.place, members, size, result.id))

    def _count(self, request: Any, state: str, result: Any, value: Any, held: outbox.Held) -> None:
        keys = [self.get_key_for_task(request.id), *self._chord_keys(request.group)]
        stored = [value, int(self.expires or 0)]
        part = self.encode([1, request.id, state, self.encode_result(result, state)])
        place = "+inf" if request.group_index is None else request.group_index
        again = int(bool((request.delivery_info or {}).get("redelivered")))
        words = [*stored, request.id, place, part, again, *_words(held)]
        try:
            parts = self.until_redis_returns(self.client.eval, COUNT_SCRIPT, 6, *keys, *words)
        except OutOfMemoryError:
            if len(part) > MAX_RESULT_BYTES:
                raise
            script = ALLOW_OOM + COUNT_SCRIPT
            parts = self.until_redis_returns(self.client.eval, script, 6, *keys, *words)
        if not parts:
            return
        callback = maybe_signature(request.chord, app=self.app)
        with outbox.holding_all(self.place) as following:
            self._end_chord(request.group, callback, parts)
        words = [*stored, DONE_SECONDS, 2 * len(held), *_words(held), *_words(following)]
        self.until_redis_returns(self.client.eval, FINISH_SCRIPT, 6, *keys, *words)

    def _chord_keys(self, group_id: str) -> list[Any]:
        """Celery's own names: a worker without this class may count in the same chord."""
        return [self.get_key_for_group(group_id, end) for end in (".j", ".t", ".s", ".d", ".c")]

    def _end_chord(self, group_id: str, callback: Any, parts: list[Any]) -> None:
        """Send the chord's body, or, as Celery does, let it fail."""
        try:
            results = self._results(group_id, parts)
        except ChordError as error:
            logger.exception("Chord %r raised: %r", group_id, error)
            self.chord_error_from_stack(callback, error)
            return
        try:
            callback.delay(results)
        except Exception as error:
            logger.exception("Chord callback for %r raised: %r", group_id, error)
            self.chord_error_from_stack(callback, ChordError(f"Callback error: {error!r}"))

    def _results(self, group_id: str, parts: list[Any]) -> list[Any]:
        """What the body gets. Raises ChordError if a part has failed."""
        values = [self._unpack_chord_result(part, self.decode) for part in parts]
        nested = self.until_redis_returns(
            lambda: GroupResult.restore(group_id, backend=self, app=self.app)
        )
        if nested is None:
            return values
        ids = (self.decode(part)[1] for part in parts)
        return self._nested(nested, dict(zip(ids, values, strict=True)))

    def _nested(self, group: GroupResult, values: dict[str, Any]) -> list[Any]:
        """The values in the order and depth of the chord's header."""
        return [
            self._nested(child, values)
            if isinstance(child, GroupResult)
            else values[child.id]
            if child.id in values
            else self._awaited(child)
            for child in group.results
        ]

    def _awaited(self, child: Any) -> Any:
        """Of a part that is counted under another name, such as a task that was replaced."""
        with allow_join_result():
            try:
                return child.get(timeout=self.app.conf.result_chord_join_timeout)
            except Exception as error:
                raise ChordError(f"Dependency {child.id} raised {error!r}") from error


def _words(messages: outbox.Held) -> list[str]:
    return [word for message in messages for word in message]
