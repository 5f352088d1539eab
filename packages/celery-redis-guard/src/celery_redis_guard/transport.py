"""Atomic fetch: no task is lost between its queue and the worker.

kombu pops a message from its queue, and records it as unacknowledged once it has arrived. If Redis
or the worker is killed in between, or the reply never arrives, the message is gone. Here one script
does both. When no message is there the worker waits for one without taking it (`waiting`).
Acknowledgements are sent with the next fetch, or at once if none is imminent.
"""

from logging import getLogger
from queue import Empty
from time import monotonic, time
from typing import Any
from urllib.parse import unquote, urlsplit

from kombu.transport import redis
from kombu.utils.json import dumps, loads
from redis import Redis, UnixDomainSocketConnection
from redis.exceptions import ConnectionError, ResponseError

from celery_redis_guard import outbox
from celery_redis_guard.chords import GROW_SCRIPT
from celery_redis_guard.identity import worker_id
from celery_redis_guard.oom_exempt import (
    ALLOW_OOM,
    ExemptClient,
    exempt_broker_commands,
    exempting,
)
from celery_redis_guard.ownership import (
    DEAD_LETTERS_KEY,
    OWNERS_KEY,
    OwnershipQoS,
    defer,
    headers_of,
    is_readable,
)
from celery_redis_guard.tcp import with_tcp_options
from celery_redis_guard.waiting import Waiting

# Deletes the acknowledged messages, pops the message that BRPOP would pop, records it as kombu
# does, with its owner, and replies as BRPOP does, but that the message comes with its delivery tag.
# What is no message of kombu's becomes a dead letter, in which each byte beyond ASCII is written as
# Python's "surrogateescape" does; it has no tag.
# KEYS: unacked, unacked_index, owners, dead letters, queues.
# ARGV: time, worker id, acknowledged delivery tags.
FETCH_SCRIPT = (
    ALLOW_OOM
    + r"""
local function text(value)
  assert(type(value) == 'string')
  return value
end
local function entry(message)
  local properties = cjson.decode(message).properties
  local to = properties.delivery_info
  local names = {cjson.encode(text(to.exchange)), cjson.encode(text(to.routing_key))}
  return text(properties.delivery_tag), '[' .. table.concat({message, unpack(names)}, ',') .. ']'
end
local function escape(byte) return string.format('\\udc%02x', byte:byte()) end
for place = 3, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[place])
  redis.call('ZREM', KEYS[2], ARGV[place])
  redis.call('HDEL', KEYS[3], ARGV[place])
end
for place = 5, #KEYS do
  local message = redis.call('RPOP', KEYS[place])
  if message then
    local valid, tag, recorded = pcall(entry, message)
    if not valid then
      local letter = cjson.encode({message, {KEYS[place]}, tonumber(ARGV[1])})
      redis.call('LPUSH', KEYS[4], (letter:gsub('[\128-\255]', escape)))
      return {KEYS[place], {message, ''}}
    end
    redis.call('HSET', KEYS[1], tag, recorded)
    redis.call('ZADD', KEYS[2], ARGV[1], tag)
    redis.call('HSET', KEYS[3], tag, ARGV[2])
    return {KEYS[place], {message, tag}}
  end
end
return false
"""
)


# redis-py refuses them for a unix socket.
TCP_OPTIONS = {"socket_connect_timeout", "socket_keepalive", "socket_keepalive_options"}

logger = getLogger(__name__)


class UnreadableError(Exception):
    """What was fetched is no message of kombu's. `tag` is what it is recorded by: None if BRPOP has
    taken it, and empty if it is a dead letter already."""

    def __init__(self, queue: bytes, item: bytes, tag: str | None) -> None:
        super().__init__(queue, item)
        self.queue, self.item, self.tag = queue, item, tag


class FetchingClient(ExemptClient):
    """Mixin: what is no message never gets to kombu, which would end the worker."""

    fetched: tuple[bytes, bytes] | None = None  # the last queue and message

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[misc]
        if command_name != "BRPOP" or not reply:
            return reply
        queue, item = reply
        tag = None
        if isinstance(item, list):  # by the script
            item, recorded_by = item
            tag = recorded_by.decode(errors="surrogateescape")
        if tag == "" or not is_readable(item):  # JSON is a little more for Redis than for Python
            raise UnreadableError(queue, item, tag)
        self.fetched = queue, item
        return [queue, item]


class AtomicFetchChannel(redis.Channel):
    """Sends the fetch script, and waits if that finds no message."""

    QoS = OwnershipQoS
    script_sent_at: float | None = None  # time of the script whose reply has not been read
    fetched_at: float | None = None  # that time, while its reply is read until the message arrives
    last_reply_at: float | None = None  # by the monotonic clock
    waiting: Waiting | None = None
    _brpop_sent_at: float | None = None  # kombu 5.7 drops a connection whose reply is overdue
    is_waiting = False  # whether the next message is to be waited for before it is fetched

    def __init__(self, *args: Any, **options: Any) -> None:
        self.no_ack_queues: set[str] = set()
        self.pending_acks: list[str] = []  # delivery tags for the next fetch
        self.acks_in_flight: list[str] = []  # delivery tags of the fetch that has no reply yet
        self.queue_keys: list[str] = []  # lists in which the last fetch looked
        super().__init__(*args, **options)

    # -- connections

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)
        return exempting(client, exempt_broker_commands, FetchingClient)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """What the URL names. kombu has no unix socket in a URL that names no transport: here it is
        the host, `%2Frun%2Fredis.sock`."""
        client = self.connection.client
        url = urlsplit(client.hostname)
        if url.scheme not in {"redis", "rediss"}:
            raise ValueError("broker_url must begin with redis:// or rediss://")
        if url.scheme == "rediss" and not client.ssl:
            raise ValueError("for rediss, Celery needs broker_use_ssl")
        path = unquote(url.netloc.rpartition("@")[2])  # `hostname` would be in lower case
        database = int(url.path.strip("/") or 0)
        if not path.startswith("/"):
            host, port = url.hostname or "127.0.0.1", url.port or self.connection.default_port
            parameters = {**super()._connparams(asynchronous), "host": host, "port": port}
            return with_tcp_options({**parameters, "db": database})
        self.connection_class = UnixDomainSocketConnection
        parameters = {**super()._connparams(asynchronous), "path": path, "db": database}
        return {key: value for key, value in parameters.items() if key not in TCP_OPTIONS}

    # -- sending

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        """Send it, unless it is to wait for the result of the task that it follows."""
        held = outbox.current((message["headers"] or {}).get("id"), self.pool)
        growth = outbox.growth(self.pool)
        if held is None and growth is None:
            super()._put(queue, message, **options)
            return
        priority = self._get_message_priority(message, reverse=False)
        key = self.global_keyprefix + self._q_for_pri(queue, priority)
        if held is not None:
            held.append((key, dumps(message)))
        elif growth is not None:
            words = (growth.members, growth.size, growth.task_id, key, dumps(message))
            Redis(connection_pool=self.pool).eval(GROW_SCRIPT, 2, *words)
            outbox.grow(None)

    def require_open(self) -> None:
        """Raise a connection error if a reply is due of which nothing has arrived. To be called
        when Redis has just replied to somebody else: so this connection is half open."""
        if self.is_waiting and self.waiting:
            if not self.waiting.has_reply():
                self._stop_waiting()
                raise ConnectionError("Redis answers, but not to what waits for a task")
            return
        connection = self._in_poll
        if connection and not connection.can_read(0):
            connection.disconnect()  # a close of the channel would wait for the reply
            raise ConnectionError("Redis answers, but not to the consumer")

    # -- acknowledgements

    def fetch_is_imminent(self) -> bool:
        """Whether the event loop fetches in this turn, or, if a reply is due, in the next."""
        is_blocked = self._in_poll and not self.script_sent_at
        if not self.connection.cycle.is_looping or is_blocked or self._closing:
            return False
        queues = self.active_queues
        return bool(queues) and self.no_ack_queues.isdisjoint(queues)

    def flush_acks(self) -> None:
        """Send what no fetch has sent, unless a script's reply is due, after which one will."""
        if not self.script_sent_at:
            self._send_pending_acks()

    def flush_all_acks(self) -> None:
        """At the end of the channel, send again also what is in flight, and requeue what a script
        may have fetched whose reply nobody will read."""
        if self.script_sent_at:
            defer("requeue_fetched_at", self.script_sent_at)
            self.script_sent_at = None
        self.pending_acks, self.acks_in_flight = self.pending_acks + self.acks_in_flight, []
        self._send_pending_acks()

    def _send_pending_acks(self) -> None:
        while self.pending_acks:
            self.qos.call_or_defer("forget", self.pending_acks.pop())

    # -- fetching

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **options: Any) -> Any:
        is_acked = self.ack_emulation and not no_ack
        (self.no_ack_queues.discard if is_acked else self.no_ack_queues.add)(queue)
        return super().basic_consume(queue, no_ack, *args, **options)

    def _brpop_start(self, *args: Any, **options: Any) -> None:
        self.script_sent_at, self.is_waiting = None, False
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues or not self.no_ack_queues.isdisjoint(queues):
            super()._brpop_start(*args, **options)
            return
        names = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        self.queue_keys = [self.global_keyprefix + name for name in names]
        keys = [self.unacked_key, self.unacked_index_key, OWNERS_KEY, DEAD_LETTERS_KEY]
        keys = [self.global_keyprefix + key for key in keys] + self.queue_keys
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self.script_sent_at = time()
        self.acks_in_flight, self.pending_acks = self.acks_in_flight + self.pending_acks, []
        words = [len(keys), *keys, self.script_sent_at, worker_id(), *self.acks_in_flight]
        self._in_poll.send_command("EVAL", FETCH_SCRIPT, *words)

    def _brpop_read(self, **options: Any) -> Any:
        self.script_sent_at, self.fetched_at = None, self.script_sent_at
        self.last_reply_at = monotonic()
        acks, self.acks_in_flight = self.acks_in_flight, []
        self.client.fetched = None
        try:
            return super()._brpop_read(**options)
        except UnreadableError as error:
            self._report_unreadable(error)
            return None
        except Empty:
            if self.fetched_at and not self._closing:
                self._wait()
            raise
        except self.connection_errors as error:
            if self.client.fetched and isinstance(error, KeyError):  # one of them for kombu 5.7
                return self._set_aside(error)
            self._defer_acks(acks)
            if self.fetched_at:
                defer("requeue_fetched_at", self.fetched_at)
            if self._closing:
                # kombu reads the due reply before it closes; an error would end the close there,
                # and the unacknowledged tasks would never be requeued.
                raise Empty from None
            raise
        except MemoryError:
            raise  # it says nothing of the message
        except Exception as error:
            if self.client.fetched:
                return self._set_aside(error)
            self._defer_acks(acks)
            raise
        finally:
            self.fetched_at = None

    # -- waiting

    def _wait(self) -> None:
        """Fetch no more until a message is there. Without an event loop, BRPOP takes it."""
        if not self.connection.cycle.is_looping:
            super()._brpop_start()
            return
        if self.waiting is None:
            self.waiting = Waiting(self._connparams())
            self.connection.cycle.waiting[self.waiting.fileno()] = self
        self.waiting.start(self.queue_keys)
        self.is_waiting = True
        self._in_poll = self.client.connection  # kombu then fetches nothing
        self._brpop_sent_at = None  # and no reply is due there

    def on_wake(self) -> None:
        """A message is there, or none has come for a second."""
        waiting = self.waiting
        assert waiting is not None
        self.last_reply_at = monotonic()
        try:
            found, missing = waiting.read()
        except ResponseError:
            found, missing = [], []
            if self.is_waiting:
                self.is_waiting = False
                super()._brpop_start()
        except self.connection_errors:
            is_fetching = self.script_sent_at is not None
            self._stop_waiting()
            if is_fetching:  # the error comes there too, and what was fetched is requeued
                return
            raise
        if not self.is_waiting:
            return
        if found:
            self.is_waiting, self._in_poll = False, None
        else:
            waiting.start(name for name in missing if name in self.queue_keys)

    def _stop_waiting(self) -> None:
        if self.waiting is not None:
            self.connection.cycle.waiting.pop(self.waiting.fileno(), None)
            self.waiting.close()
            self.waiting = None
        if self.is_waiting:
            self.is_waiting, self._in_poll = False, None

    def close(self) -> None:
        self._stop_waiting()
        super().close()

    def _report_unreadable(self, error: UnreadableError) -> None:
        """Log it, and make a dead letter of it unless the script has done so."""
        logger.critical(
            "celery-pi: what came from the queue %s is no task, and is set aside; see: celery-pi "
            "dead-letters",
            error.queue.decode(errors="backslashreplace"),
        )
        if error.tag != "":
            self.qos.keep(error.queue, error.item)
        if error.tag:
            self.qos.forget(error.tag)

    def _set_aside(self, error: Exception) -> None:
        """Make a dead letter of a message that Celery cannot take: requeued, it would loop."""
        queue, item = self.client.fetched
        payload = loads(item.decode())
        logger.critical(
            "celery-pi: a message that no worker can take is set aside; see: celery-pi "
            "dead-letters: %r",
            headers_of(payload),
            exc_info=error,
        )
        if not self.qos.set_aside(payload["properties"]["delivery_tag"]):
            self.qos.keep(queue, item)  # BRPOP has taken it, and it is not recorded yet

    def _defer_acks(self, tags: list[str]) -> None:
        """Leave to the next connection what Redis may not have received."""
        for tag in tags:
            defer("forget", tag)


class AckFlushingPoller(redis.MultiChannelPoller):
    """Fetches in each turn of the event loop, then sends the acknowledgements that are left."""

    is_looping = False

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[int, AtomicFetchChannel] = {}  # by file descriptor

    @property
    def fds(self) -> dict[int, Any]:
        return {**super().fds, **self.waiting}

    def on_readable(self, fileno: int) -> Any:
        if channel := self.waiting.get(fileno):
            return channel.on_wake()
        return super().on_readable(fileno)

    def on_poll_init(self, poller: Any) -> Any:
        self.is_looping = True
        return super().on_poll_init(poller)

    def on_poll_start(self) -> None:
        super().on_poll_start()
        for channel in self._channels:
            channel.flush_acks()


class Transport(redis.Transport):
    """Named by `broker_transport`."""

    Channel = AtomicFetchChannel
    can_parse_url = True  # kombu leaves it whole, so that TLS is not forgotten

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cycle = AckFlushingPoller()  # kombu's names no class to override
