"""Atomic fetch: no task is lost between its queue and the worker.

kombu pops a message from its queue, and records it as unacknowledged once it has arrived. If Redis
or the worker is killed in between, or the reply never arrives, the message is gone. Here one script
does both. Only when no message waits does the worker block on BRPOP as kombu does: what can be lost
then was published in that moment. Acknowledgements are sent with the next fetch, or at once if none
is imminent.
"""

from queue import Empty
from time import monotonic, time
from typing import Any
from urllib.parse import unquote, urlsplit

from kombu.transport import redis
from redis import UnixDomainSocketConnection

from celery_redis_guard.identity import worker_id
from celery_redis_guard.oom_exempt import ALLOW_OOM, exempt_broker_commands, exempting
from celery_redis_guard.ownership import OWNERS_KEY, OwnershipQoS, defer

# Deletes the acknowledged messages, pops the message that BRPOP would pop, records it as kombu
# does, with its owner, and replies as BRPOP does. A message that kombu could not record stays in
# its queue.
# KEYS: unacked, unacked_index, owners, queues. ARGV: time, worker id, acknowledged delivery tags.
FETCH_SCRIPT = (
    ALLOW_OOM
    + """
local function quoted(value) return cjson.encode(value .. '') end
local function entry(message)
  local properties = cjson.decode(message).properties
  local to = properties.delivery_info
  local words = {message, quoted(to.exchange), quoted(to.routing_key)}
  return properties.delivery_tag .. '', '[' .. table.concat(words, ',') .. ']'
end
for place = 3, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[place])
  redis.call('ZREM', KEYS[2], ARGV[place])
  redis.call('HDEL', KEYS[3], ARGV[place])
end
for place = 4, #KEYS do
  local message = redis.call('RPOP', KEYS[place])
  if message then
    local valid, tag, recorded = pcall(entry, message)
    if not valid then
      redis.call('RPUSH', KEYS[place], message)
      return false
    end
    redis.call('HSET', KEYS[1], tag, recorded)
    redis.call('ZADD', KEYS[2], ARGV[1], tag)
    redis.call('HSET', KEYS[3], tag, ARGV[2])
    return {KEYS[place], message}
  end
end
return false
"""
)

# redis-py refuses them for a unix socket.
TCP_OPTIONS = {"socket_connect_timeout", "socket_keepalive", "socket_keepalive_options"}


class AtomicFetchChannel(redis.Channel):
    """Sends the fetch script first, and kombu's BRPOP only if that finds no message."""

    QoS = OwnershipQoS
    script_sent_at: float | None = None  # time of the script whose reply has not been read
    fetched_at: float | None = None  # that time, while its reply is read until the message arrives
    last_reply_at: float | None = None  # by the monotonic clock

    def __init__(self, *args: Any, **options: Any) -> None:
        self.no_ack_queues: set[str] = set()
        self.pending_acks: list[str] = []  # delivery tags for the next fetch
        self.acks_in_flight: list[str] = []  # delivery tags of the fetch that has no reply yet
        super().__init__(*args, **options)

    # -- connections

    def _create_client(self, asynchronous: bool = False) -> Any:
        return exempting(super()._create_client(asynchronous), exempt_broker_commands)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """What the URL names. kombu has no unix socket in a URL that names no transport: here it is
        the host, `%2Frun%2Fredis.sock`."""
        client = self.connection.client
        url = urlsplit(client.hostname)
        if url.scheme not in {"redis", "rediss"}:
            raise ValueError("broker_url must begin with redis:// or rediss://")
        if url.scheme == "rediss" and not client.ssl:
            raise ValueError("for rediss, Celery needs broker_use_ssl")
        socket = unquote(url.netloc.rpartition("@")[2])  # `hostname` would be in lower case
        database = int(url.path.strip("/") or 0)
        if not socket.startswith("/"):
            host, port = url.hostname or "127.0.0.1", url.port or self.connection.default_port
            return {**super()._connparams(asynchronous), "host": host, "port": port, "db": database}
        self.connection_class = UnixDomainSocketConnection
        parameters = {**super()._connparams(asynchronous), "path": socket, "db": database}
        return {key: value for key, value in parameters.items() if key not in TCP_OPTIONS}

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
        """At the end of the channel, send again also what is in flight."""
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
        self.script_sent_at = None
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues or not self.no_ack_queues.isdisjoint(queues):
            super()._brpop_start(*args, **options)
            return
        keys = [self.unacked_key, self.unacked_index_key, OWNERS_KEY]
        keys += [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        keys = [self.global_keyprefix + key for key in keys]
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()  # kombu 5.7 drops a connection whose reply is overdue
        self.script_sent_at = time()
        self.acks_in_flight, self.pending_acks = self.acks_in_flight + self.pending_acks, []
        words = [len(keys), *keys, self.script_sent_at, worker_id(), *self.acks_in_flight]
        self._in_poll.send_command("EVAL", FETCH_SCRIPT, *words)

    def _brpop_read(self, **options: Any) -> Any:
        self.script_sent_at, self.fetched_at = None, self.script_sent_at
        self.last_reply_at = monotonic()
        acks, self.acks_in_flight = self.acks_in_flight, []
        try:
            return super()._brpop_read(**options)
        except Empty:
            if self.fetched_at and not self._closing:
                super()._brpop_start()
            raise
        except self.connection_errors:
            self._defer_acks(acks)
            if self.fetched_at:
                defer("requeue_fetched_at", self.fetched_at)
            if self._closing:
                # kombu reads the due reply before it closes; an error would end the close there,
                # and the unacknowledged tasks would never be requeued.
                raise Empty from None
            raise
        except Exception:
            self._defer_acks(acks)
            if self.fetched_at:
                # The script read the message and Python cannot: requeued, it would loop for ever.
                for tag in self.qos.tags_fetched_at(self.fetched_at):
                    self.qos.forget(tag)
            raise
        finally:
            self.fetched_at = None

    def _defer_acks(self, tags: list[str]) -> None:
        """Leave to the next connection what Redis may not have received."""
        for tag in tags:
            defer("forget", tag)


class AckFlushingPoller(redis.MultiChannelPoller):
    """Fetches in each turn of the event loop, then sends the acknowledgements that are left."""

    is_looping = False

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
