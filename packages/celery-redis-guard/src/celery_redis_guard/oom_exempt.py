"""Managed by celery-pi. A worker goes on when Redis' memory is full.

Redis then refuses every write that could need memory. For a new task that is right: its sender
gets the error. But the worker's own notes are refused too: it loses the message that it has
just taken from a queue, ends, and cannot start again, so the queue is never drained. Here a
refused write is repeated by a script that Redis lets go beyond its limit, if it writes down what
Redis has accepted before or what an accepted task came to. That is bounded: a message is
in a queue or in `unacked`, and a result takes the place of its task.
"""

import functools
import sys
from importlib.metadata import version
from json import loads
from logging import getLogger

try:
    from celery.backends.redis import RedisBackend
    from kombu.transport.redis import Channel
    from redis import Redis
    from redis.exceptions import ExecAbortError, OutOfMemoryError
except ImportError as error:
    sys.exit(f"celery-pi: no protection against a full Redis in these packages: {error}")

# Redis 7.0 and later know the flag.
ALLOW_OOM = "#!lua flags=allow-oom\n"

# Runs commands, each given as the number of its words and the words, and returns their replies.
# A message that somebody else has taken out of `unacked` meanwhile is not put back twice.
RUN = """
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

# Bytes of the largest result that is kept beyond the limit: about what its task's message took.
LARGEST_RESULT = 1024

logger = getLogger(__name__)


def owed_to_broker(commands):
    """The commands, or none if one of them is a new task."""
    words = {command[0] for command in commands}
    if words.isdisjoint({"LPUSH", "RPUSH"}) or "HDEL" in words:  # with HDEL, out of `unacked`
        return commands
    messages = [command for command in commands if command[0] in {"LPUSH", "RPUSH"}]
    return commands if all(map(_is_answer, messages)) else None


def _is_answer(command):
    """Whether the message is a retry of a task that runs, or a reply to `celery inspect`."""
    _, queue, message = command
    if queue.endswith(".pidbox") and ".reply." in queue:
        return True
    return bool(loads(message)["headers"].get("retries"))


def owed_to_results(commands):
    """The commands, with a large result only announced to who waits for it, and not kept.

    None if they begin something new, such as a chord, or are a script, which is tried as commands.
    """
    word, key, *_, value = commands[0]
    if word == "EVAL":
        return None
    if word not in {"SET", "SETEX"}:
        return commands
    if RedisBackend.task_keyprefix.encode() not in key:
        return None
    if len(value) <= LARGEST_RESULT:
        return commands
    logger.warning("Redis is full: a result of %d bytes is not kept (%s)", len(value), key.decode())
    return [("DEL", key), *commands[1:]]


def _beyond_the_limit(client, commands):
    """Replies to the commands, which may be refused for another reason only."""
    words = [word for command in commands for word in (len(command), *command)]
    # A plain client, because the commands have their key prefix already.
    plain = Redis(connection_pool=client.connection_pool)
    return plain.register_script(ALLOW_OOM + RUN)(args=words)


class _Client:
    """Repeats a write that Redis refuses for lack of memory."""

    def execute_command(self, *args, **options):
        try:
            return super().execute_command(*args, **options)
        except OutOfMemoryError:
            prefixed = getattr(self, "_prefix_args", list)  # kombu's, with `global_keyprefix`
            commands = self.owed([prefixed(args)])
            if commands is None:
                raise
            return _beyond_the_limit(self, commands)[0]

    def pipeline(self, *args, **options):
        return _protected(super().pipeline(*args, **options), _Pipeline, self.owed)

    def register_script(self, script):
        # kombu has scripts for its bindings since 5.7; a script cannot be run by another.
        return super().register_script(ALLOW_OOM + script)


class _Pipeline:
    """Repeats a transaction; what is none may have been done in part."""

    def execute(self, raise_on_error=True):
        commands = [args for args, _ in self.command_stack]
        try:
            return super().execute(raise_on_error)
        except (OutOfMemoryError, ExecAbortError) as error:
            # The latter when memory has become full between the transaction's first word and last.
            if isinstance(error, ExecAbortError) and "OOM" not in str(error):
                raise
            commands = self.owed(commands) if self.transaction else None
            if commands is None:
                raise
            return _beyond_the_limit(self, commands)


def _protected(client, behaviour, owed):
    client.__class__ = _mixed(behaviour, type(client))
    client.owed = owed
    return client


@functools.cache
def _mixed(behaviour, kind):
    return type(kind.__name__, (behaviour, kind), {})


def protect():
    """Protect every client that kombu and Celery make; the app's own clients are not touched."""
    for owner, owed in ((Channel, owed_to_broker), (RedisBackend, owed_to_results)):
        create = getattr(owner, "_create_client", None)
        if create is None:
            package = owner.__module__.partition(".")[0]
            sys.exit(
                f"celery-pi: {package} {version(package)} has no {owner.__name__}._create_client, "
                "by which its worker is protected against a full Redis"
            )
        owner._create_client = _wrapped(create, owed)


def _wrapped(create, owed):
    @functools.wraps(create)
    def protected(self, *args, **options):
        return _protected(create(self, *args, **options), _Client, owed)

    return protected
