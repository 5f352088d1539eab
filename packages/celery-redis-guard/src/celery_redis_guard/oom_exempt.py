"""OOM-exempt writes: a worker goes on when Redis' memory is full.

Above `maxmemory` Redis refuses every write that could need memory. For a new task that is right:
its sender gets the error. But the worker's own bookkeeping is refused too: it loses the message
that it has just taken from a queue, ends, and cannot start again, so the queue is never drained.
Here a refused write is repeated by a script with the flag `allow-oom`, if it records what Redis has
accepted before, or the outcome of an accepted task. The excess is bounded: a message is in a queue
or in `unacked`, and a result takes the place of its task.
"""

import functools
from collections.abc import Callable, Sequence
from json import loads
from logging import getLogger
from typing import Any

from celery.backends.redis import RedisBackend
from redis import Redis
from redis.exceptions import ExecAbortError, OutOfMemoryError

Command = Sequence[Any]  # its name and arguments
Exempt = Callable[[Sequence[Command]], Sequence[Command] | None]

# Since Redis 7.0.
ALLOW_OOM = "#!lua flags=allow-oom\n"

# Runs commands, each given as its length and its words, and returns their replies. A message that
# another worker has taken out of `unacked` meanwhile is not requeued twice.
RUN_SCRIPT = """
local replies, at = {}, 1
while at < #ARGV do
  local last = at + ARGV[at]
  local reply = redis.call(unpack(ARGV, at + 1, last))
  replies[#replies + 1] = reply
  if ARGV[at + 1] == 'HDEL' and reply == 0 then break end
  at = last + 1
end
return replies
"""

# Bytes of the largest result that is stored beyond the limit: about what its task's message took.
MAX_RESULT_BYTES = 1024

logger = getLogger(__name__)


def exempt_broker_commands(commands: Sequence[Command]) -> Sequence[Command] | None:
    """The commands, or None if one of them publishes a new task."""
    names = {command[0] for command in commands}
    # With HDEL, the push moves a message out of `unacked`.
    if names.isdisjoint({"LPUSH", "RPUSH"}) or "HDEL" in names:
        return commands
    pushes = [command for command in commands if command[0] in {"LPUSH", "RPUSH"}]
    return commands if all(map(_is_retry_or_reply, pushes)) else None


def _is_retry_or_reply(push: Command) -> bool:
    """Whether the message is a retry of a running task, or a reply to `celery inspect`."""
    _, queue, message = push
    if queue.endswith(".pidbox") and ".reply." in queue:
        return True
    return bool(loads(message)["headers"].get("retries"))


def exempt_result_commands(commands: Sequence[Command]) -> Sequence[Command] | None:
    """The commands; a large result is announced to its subscribers and not stored.

    None if they begin something new, such as a chord, or are a script: the backend repeats its
    store as plain commands.
    """
    name, key, *_, value = commands[0]
    if name == "EVAL":
        return None
    if name not in {"SET", "SETEX"}:
        return commands
    if RedisBackend.task_keyprefix.encode() not in key:
        return None
    if len(value) <= MAX_RESULT_BYTES:
        return commands
    logger.warning("Redis is full: a result of %d bytes is not kept (%s)", len(value), key.decode())
    return [("DEL", key), *commands[1:]]


def _run_exempt(client: Any, commands: Sequence[Command]) -> list[Any]:
    """Replies to the commands, which fail for any other reason than memory as they would."""
    words = [word for command in commands for word in (len(command), *command)]
    # A plain client, because the commands have their key prefix already.
    plain = Redis(connection_pool=client.connection_pool)
    replies: list[Any] = plain.register_script(ALLOW_OOM + RUN_SCRIPT)(args=words)
    return replies


class ExemptClient:
    """Mixin: repeats a command that Redis refuses for lack of memory."""

    exempt: Exempt

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[misc]  # of Redis
        except OutOfMemoryError:
            prefixed = getattr(self, "_prefix_args", list)  # kombu's, with `global_keyprefix`
            commands = self.exempt([prefixed(args)])
            if commands is None:
                raise
            return _run_exempt(self, commands)[0]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        made = super().pipeline(*args, **options)  # type: ignore[misc]  # of Redis
        return _with_mixin(made, _ExemptPipeline, self.exempt)

    def register_script(self, script: str) -> Any:
        # kombu 5.7 has scripts for its bindings; a script cannot be run by another.
        return super().register_script(ALLOW_OOM + script)  # type: ignore[misc]  # of Redis


class _ExemptPipeline:
    """Mixin: repeats a transaction; a pipeline that is none may have been applied in part."""

    exempt: Exempt
    command_stack: list[tuple[Command, Any]]
    transaction: bool

    def execute(self, raise_on_error: bool = True) -> Any:
        queued: list[Command] = [args for args, _ in self.command_stack]
        try:
            return super().execute(raise_on_error)  # type: ignore[misc]  # of Pipeline
        except (OutOfMemoryError, ExecAbortError) as error:
            # The latter when memory became full between MULTI and EXEC.
            if isinstance(error, ExecAbortError) and "OOM" not in str(error):
                raise
            commands = self.exempt(queued) if self.transaction else None
            if commands is None:
                raise
            return _run_exempt(self, commands)


def _with_mixin(client: Any, mixin: type, exempt: Exempt) -> Any:
    client.__class__ = _mixed(mixin, client.__class__)
    client.exempt = exempt
    return client


@functools.cache
def _mixed(mixin: type, kind: type) -> type:
    return type(kind.__name__, (mixin, kind), {})


def exempting(client: Any, exempt: Exempt, mixin: type[ExemptClient] = ExemptClient) -> Any:
    """That client of redis-py, which from now on repeats what `exempt` allows."""
    return _with_mixin(client, mixin, exempt)
