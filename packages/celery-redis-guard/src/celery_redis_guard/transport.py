"""Managed by celery-pi. No task is lost on its way from its queue to the worker.

kombu takes a task out of its queue, and notes it as unacknowledged when it has arrived. If Redis
or the worker is killed in between, or the reply never comes, nobody has the task. Here a script
does both in one step. Only when no task waits, the worker blocks as kombu does: what can be lost
then has been sent in that moment.
"""

import sys
from importlib.metadata import version
from queue import Empty
from time import monotonic, time

from celery_redis_guard.oom_exempt import ALLOW_OOM
from celery_redis_guard.ownership import OWNERS, KeepingQoS, me, owe

try:
    from kombu.transport import redis
    from kombu.transport.redis import Channel, MultiChannelPoller, QoS, Transport
except ImportError as error:
    sys.exit(f"celery-pi: no safe way for tasks to the worker in these packages: {error}")

# Forgets what is done, takes the message that BRPOP would take, notes it as kombu does, and replies
# as BRPOP does. A message about which kombu could note nothing stays where it is.
TAKE = (
    ALLOW_OOM
    + """
local function quoted(value) return cjson.encode(value .. '') end
local function note(message)
  local properties = cjson.decode(message).properties
  local to = properties.delivery_info
  local noted = {message, quoted(to.exchange), quoted(to.routing_key)}
  return properties.delivery_tag .. '', '[' .. table.concat(noted, ',') .. ']'
end
for place = 3, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[place])
  redis.call('ZREM', KEYS[2], ARGV[place])
  redis.call('HDEL', KEYS[3], ARGV[place])
end
for place = 4, #KEYS do
  local message = redis.call('RPOP', KEYS[place])
  if message then
    local valid, tag, noted = pcall(note, message)
    if not valid then
      redis.call('RPUSH', KEYS[place], message)
      return false
    end
    redis.call('HSET', KEYS[1], tag, noted)
    redis.call('ZADD', KEYS[2], ARGV[1], tag)
    redis.call('HSET', KEYS[3], tag, ARGV[2])
    return {KEYS[place], message}
  end
end
return false
"""
)

# What kombu has, and is used or replaced here.
USED = {
    Channel: ("_brpop_start", "_brpop_read", "_q_for_pri", "basic_consume", "active_queues"),
    QoS: ("append", "ack", "reject", "restore_by_tag", "restore_visible", "_remove_from_indices"),
    MultiChannelPoller: ("on_poll_start",),
    Transport: ("Channel",),
}


class NotingChannel(Channel):
    """Sends the script first, and what kombu sends only if that finds nothing."""

    QoS = KeepingQoS
    sent = None  # when the script was sent to which no reply has been read
    noted = None  # that time, while its reply is read and until the message has arrived
    heard = None  # when Redis last answered, by the monotonic clock

    def __init__(self, *args, **options):
        self.unacknowledged = set()  # queues of consumers that never acknowledge
        self.done = []  # tags that the next question is to say are done
        self.told = []  # tags of which the question has said so that is not answered yet
        super().__init__(*args, **options)

    # -- what is done

    def asks_next(self):
        """Whether the event loop is about to ask for a task, and can say with that what is done:
        in this turn, or in the next if the script is still to answer."""
        is_blocked = self._in_poll and not self.sent
        if not self.connection.cycle.is_looping or is_blocked or self._closing:
            return False
        queues = self.active_queues
        return bool(queues) and self.unacknowledged.isdisjoint(queues)

    def settle(self):
        """Say by itself what no question has said, nor will when the script has answered."""
        if not self.sent:
            self._say_what_is_done()

    def settle_all(self):
        """At its end, say also what a question has said that nobody has answered."""
        self.done, self.told = self.done + self.told, []
        self._say_what_is_done()

    def _say_what_is_done(self):
        while self.done:
            self.qos.sooner_or_later("forget", self.done.pop())

    # -- what is next

    def basic_consume(self, queue, no_ack=False, *args, **options):
        note = self.ack_emulation and not no_ack
        (self.unacknowledged.discard if note else self.unacknowledged.add)(queue)
        return super().basic_consume(queue, no_ack, *args, **options)

    def _brpop_start(self, *args, **options):
        self.sent = None
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues or not self.unacknowledged.isdisjoint(queues):
            super()._brpop_start(*args, **options)
            return
        keys = [self.unacked_key, self.unacked_index_key, OWNERS]
        keys += [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        keys = [self.global_keyprefix + key for key in keys]
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()  # kombu 5.7 drops a connection whose reply is overdue
        self.sent = time()
        self.told, self.done = self.told + self.done, []
        self._in_poll.send_command("EVAL", TAKE, len(keys), *keys, self.sent, me(), *self.told)

    def _brpop_read(self, **options):
        self.sent, self.noted, self.heard = None, self.sent, monotonic()
        told, self.told = self.told, []
        try:
            return super()._brpop_read(**options)
        except Empty:
            if self.noted and not self._closing:
                super()._brpop_start()
            raise
        except self.connection_errors:
            self._owe(told)
            if self.noted:
                owe("take_back", self.noted)
            if self._closing:
                # kombu reads what is due before it closes; by an error it would leave it at that,
                # and what is in hand would never go back.
                raise Empty from None
            raise
        except Exception:
            self._owe(told)
            # Python reads no message where the script has read one: it would come back for ever.
            for tag in self.qos.noted_at(self.noted) if self.noted else ():
                self.qos.forget(tag)
            raise
        finally:
            self.noted = None

    def _owe(self, told):
        """What was said in vain, perhaps, is said by the next connection."""
        for tag in told:
            owe("forget", tag)


class NotingPoller(MultiChannelPoller):
    """Asks for tasks in each turn of the event loop, and then says what no question has said."""

    is_looping = False

    def on_poll_init(self, poller):
        self.is_looping = True
        return super().on_poll_init(poller)

    def on_poll_start(self):
        super().on_poll_start()
        for channel in self._channels:
            channel.settle()


def protect():
    """Let every connection that kombu makes hand over in one step."""
    for owner, names in USED.items():
        for name in names:
            if not hasattr(owner, name):
                sys.exit(
                    f"celery-pi: kombu {version('kombu')} has no {owner.__name__}.{name}, "
                    "by which no task is lost on its way to the worker"
                )
    Transport.Channel = NotingChannel
    redis.MultiChannelPoller = NotingPoller  # by which name each transport makes its own
