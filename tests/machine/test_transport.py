"""A consumer gets what kombu would give it, and no message is lost on its way to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helpers.harness import in_app
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

# Consumes from a Redis of its own, as the services do or as kombu does by itself, and tells what
# it got, and what was noted as unacknowledged meanwhile.
CONSUME = """
import json, os, signal, socket, subprocess, sys, tempfile, threading, time
if "PYTHONHASHSEED" not in os.environ:  # kombu's order of queues is that of a set
    os.execve(sys.executable, sys.orig_argv, {{**os.environ, "PYTHONHASHSEED": "0"}})
sys.path.append("/usr/local/lib/celery-pi/guard")
from kombu import Connection, Queue
from redis import Redis
place = tempfile.mkdtemp()
options = ("--port", "7778", "--dir", place, "--save", "", "--logfile", place + "/log")
server = subprocess.Popen(["redis-server", *options])
redis = Redis(port=7778)

def answers():
    try:
        return redis.ping()
    except Exception:
        time.sleep(0.05)
while not answers():
    pass

def connect(port=7778, prefix="", **options):
    options["global_keyprefix"] = prefix
    place = f"redis://127.0.0.1:{{port}}/0"
    return Connection(place, transport={transport!r}, transport_options=options)

def send(*messages, prefix="", **options):
    with connect(prefix=prefix) as connection:
        for queue, priority, body in messages:
            connection.Producer().publish(body, routing_key=queue, priority=priority)

def consume(*queues, port=7778, prefix="", ack=True, no_ack=False, prefetch=0):
    # What came, and of which kind of error it went wrong, until nothing comes any more.
    got = []
    def receive(body, message):
        entries = redis.hvals(prefix + "unacked")
        noted = [json.loads(entry.decode(errors="replace")) for entry in entries]
        known = [[message._raw, "", message.delivery_info["routing_key"]]] == noted
        got.append([body, known, redis.zcard(prefix + "unacked_index")])
        if ack:
            message.ack()
    while True:
        try:
            with connect(port, prefix) as connection:
                consumer = connection.Consumer(
                    [Queue(name) for name in queues], callbacks=[receive], no_ack=no_ack)
                consumer.qos(prefetch_count=prefetch)
                with consumer:
                    while True:
                        connection.drain_events(timeout=4)
        except TimeoutError:
            return got
        except Exception as error:
            got.append(type(error).__name__)

def proxy(lost):
    # Keeps a reply that has a message in it, once, and cuts the connection.
    def pump(source, target, cuts):
        try:
            while data := source.recv(65536):
                if cuts and not lost and b"delivery_tag" in data:
                    lost.append(data)
                    time.sleep(2)
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
    def serve():
        while True:
            client, _ = listening.accept()
            behind = socket.create_connection(("127.0.0.1", 7778))
            for pair in ((client, behind, False), (behind, client, True)):
                threading.Thread(target=pump, args=pair, daemon=True).start()
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    return listening.getsockname()[1]

def killed():
    # As `consume`, when a consumer was killed to whom a reply was on its way.
    lost = []
    port = proxy(lost)
    if not (child := os.fork()):
        consume("a", port=port)
    while not lost:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with connect() as connection:
        for tag in redis.hkeys("unacked"):
            connection.default_channel.qos.restore_by_tag(tag.decode())
    return consume("a")

def left():
    return {{key.decode(): redis.type(key).decode() for key in redis.keys("*")
            if b"_kombu" not in key}}

MIXED = [(queue, priority, [queue, priority, n])
         for n in range(3) for queue in ("a", "b") for priority in (0, 3, 6, 9)]
told = {{}}
try:
    send(*MIXED)
    told["order"] = consume("a", "b"), left()
    send(*MIXED, prefix="birds:")
    told["prefix"] = consume("a", "b", prefix="birds:"), left()
    send(*MIXED)
    told["prefetch"] = consume("a", ack=False, prefetch=1), left()
    redis.flushall()
    send(*MIXED)
    told["no_ack"] = consume("a", "b", no_ack=True), left()
    send(("a", 0, 1))
    whole = redis.lindex("a", 0)
    nobase64 = json.loads(whole)
    nobase64["body"] = "a"
    redis.lpush("a", b"none", b"{{}}", json.dumps(nobase64))
    redis.lpush("a", whole.replace(b"{{", b'{{"x": "\\xff", ', 1))
    send(("a", 0, 2))
    told["malformed"] = consume("a"), left()
    redis.delete("set-aside")
    send(("a", 0, 1), ("a", 0, 2), ("a", 0, 3))
    told["lost reply"] = consume("a", port=proxy([])), left()
    send(("a", 0, 1), ("a", 0, 2), ("a", 0, 3))
    told["killed"] = killed(), left()
finally:
    server.kill()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def deployed(pi: VirtualPi) -> dict[str, Any]:
    """What a consumer gets that is protected as the services are."""
    told: dict[str, Any] = json.loads(
        in_app(pi, CONSUME.format(transport="celeryredisguard:Transport"), timeout=600)
    )
    return told


@pytest.fixture(scope="module")
def plain(pi: VirtualPi) -> dict[str, Any]:
    """What it gets from kombu alone."""
    told: dict[str, Any] = json.loads(in_app(pi, CONSUME.format(transport="redis"), timeout=600))
    return told


@pytest.mark.parametrize("scenario", ["order", "prefix", "prefetch", "no_ack"])
def test_consumer_gets_and_notes_the_same_as_with_kombu_alone(
    deployed: dict[str, Any], plain: dict[str, Any], scenario: str
) -> None:
    assert deployed[scenario] == plain[scenario]
    assert plain[scenario][0]


def test_what_is_no_message_is_a_dead_letter_and_stops_nobody(
    deployed: dict[str, Any], plain: dict[str, Any]
) -> None:
    got, left = deployed["malformed"]
    assert ([body for body, *_ in got], left) == ([1, 2], {"set-aside": "list"})
    assert any(isinstance(each, str) for each in plain["malformed"][0])  # kombu raises


@pytest.mark.parametrize("scenario", ["lost reply", "killed"])
def test_message_that_never_arrives_is_received_after_all(
    deployed: dict[str, Any], plain: dict[str, Any], scenario: str
) -> None:
    """kombu alone loses it, by the same measure."""
    assert received(deployed[scenario]) == ({1, 2, 3}, {})
    assert received(plain[scenario]) == ({2, 3}, {})


def received(told: list[Any]) -> tuple[set[int], dict[str, str]]:
    got, left = told
    return {event[0] for event in got if isinstance(event, list)}, left
