"""What the worker does with a task that is on its way while Redis goes away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from kombu.transport import virtual

from celery_redis_guard import ownership
from celery_redis_guard.transport import NotingChannel
from guard_process import last_words

pytestmark = pytest.mark.fast


BROKEN = """
import kombu.transport.redis as kombu
{broken}
from celery_redis_guard import transport
transport.protect()
"""


OPEN = SimpleNamespace(client="a connection")
TAKEN_APART = SimpleNamespace(client=None)


class Channel:
    """A channel as far as its QoS looks at it."""

    noted: float | None = None
    connection: object | None = OPEN
    do_restore = False
    connection_errors = (OperationalError,)
    is_about_to_ask = False

    def __init__(self) -> None:
        self.done: list[str] = []
        self.qos: Any = None

    def asks_next(self) -> bool:
        return self.is_about_to_ask

    def settle_all(self) -> None:
        while self.done:
            self.qos.sooner_or_later("forget", self.done.pop())


Call = tuple[str, object]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What is done with Redis, which is up."""
    done: list[Call] = []
    kind = ownership.KeepingQoS
    monkeypatch.setattr(kind, "_note", lambda *call: done.append(("note", call[2])))
    monkeypatch.setattr(kind, "give_back", lambda _, tag: done.append(("give back", tag)))
    monkeypatch.setattr(kind, "forget", lambda _, tag: done.append(("forget", tag)))
    monkeypatch.setattr(kind, "noted_at", lambda _, when: [f"noted at {when}"])
    ownership.owed.clear()
    return done


def message(tag: str) -> virtual.Message:
    return virtual.Message({"properties": {"delivery_tag": tag, "delivery_info": {}}})


def refuse(*_: object) -> None:
    raise OperationalError("Redis is away")


def test_message_that_cannot_be_noted_is_put_back_by_the_next_channel(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    qos = ownership.KeepingQoS(Channel())
    with monkeypatch.context() as away:
        away.setattr(ownership.KeepingQoS, "_note", refuse)
        with pytest.raises(OperationalError):
            qos.append(message("1"), "1")
        with pytest.raises(OperationalError):
            ownership.KeepingQoS(Channel())
    ownership.KeepingQoS(Channel())
    ownership.KeepingQoS(Channel())
    assert calls == [("note", "1"), ("give back", "1")]


def test_message_that_the_script_has_noted_is_not_noted_again(calls: list[Call]) -> None:
    channel = Channel()
    channel.noted = 7.5
    qos = ownership.KeepingQoS(channel, 1)
    qos.append(message("1"), "1")
    assert calls == []
    assert channel.noted is None
    assert not qos.can_consume()


def test_message_whose_reply_never_came_is_put_back_by_the_next_channel(calls: list[Call]) -> None:
    ownership.owe("take_back", 7.5)
    ownership.KeepingQoS(Channel())
    ownership.KeepingQoS(Channel())
    assert calls == [("give back", "noted at 7.5")]


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("ack", {}, "forget"),
        ("reject", {}, "forget"),
        ("reject", {"requeue": True}, "give back"),
    ],
)
def test_what_redis_cannot_be_told_is_told_it_by_the_next_channel(
    calls: list[Call],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    options: dict[str, bool],
    expected: str,
) -> None:
    qos = ownership.KeepingQoS(Channel(), 1)
    qos.append(message("1"), "1")
    with monkeypatch.context() as away:
        away.setattr(ownership.KeepingQoS, expected.replace(" ", "_"), refuse)
        getattr(qos, method)("1", **options)
    assert qos.can_consume()
    ownership.KeepingQoS(Channel())
    ownership.KeepingQoS(Channel())
    assert calls == [("note", "1"), (expected, "1")]


def test_task_that_is_done_is_left_to_the_next_question(calls: list[Call]) -> None:
    channel = Channel()
    channel.is_about_to_ask = True
    qos = ownership.KeepingQoS(channel, 1)
    qos.append(message("1"), "1")
    calls.clear()
    qos.ack("1")
    assert (calls, channel.done) == ([], ["1"])
    assert qos.can_consume()
    channel.done.clear()


@pytest.mark.parametrize("connection", [OPEN, None])
def test_what_no_question_has_said_is_said_when_the_connection_ends(
    calls: list[Call], connection: object | None
) -> None:
    channel = Channel()
    channel.is_about_to_ask = True
    channel.qos = qos = ownership.KeepingQoS(channel)
    qos.ack("1")
    channel.connection = connection
    qos.restore_unacked_once()
    ownership.KeepingQoS(Channel())
    assert calls == [("forget", "1")]


@pytest.mark.parametrize("connection", [None, TAKEN_APART])
def test_task_of_a_lost_connection_is_acknowledged_by_the_next(
    monkeypatch: pytest.MonkeyPatch, connection: object | None
) -> None:
    used: list[object] = []
    monkeypatch.setattr(ownership.KeepingQoS, "forget", lambda self, _: used.append(self))
    lost = ownership.KeepingQoS(Channel())
    lost.channel.connection = connection
    current = ownership.KeepingQoS(Channel())
    lost.ack("1")
    assert used == [current]


def test_what_no_connection_is_left_for_is_told_redis_by_the_next(calls: list[Call]) -> None:
    """As at the end of a worker, whose channels are closed one after another."""
    first, last = ownership.KeepingQoS(Channel()), ownership.KeepingQoS(Channel())
    first.channel.connection = last.channel.connection = None
    first.reject("1", requeue=True)
    assert calls == []
    ownership.KeepingQoS(Channel())
    assert calls == [("give back", "1")]


def test_lost_connection_gives_back_what_does_not_run(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    qos = ownership.KeepingQoS(Channel())
    qos.channel.do_restore = True
    messages = {tag: message(tag) for tag in ("runs", "waits", "done")}
    for tag, taken in messages.items():
        qos.append(taken, tag)
    qos.ack("done")
    runs = SimpleNamespace(message=messages["runs"])
    monkeypatch.setattr(ownership.state, "active_requests", [runs])
    calls.clear()
    qos.restore_unacked_once()
    qos.restore_unacked_once()
    assert calls == [("give back", "waits")]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("del kombu.Channel._brpop_read", "kombu 5.5.4 has no Channel._brpop_read, by which"),
        ("del kombu.QoS.restore_by_tag", "kombu 5.5.4 has no QoS.restore_by_tag, by which"),
        ("del kombu.QoS", "cannot import name 'QoS'"),
    ],
)
def test_another_kombu_ends_the_process_in_one_sentence(broken: str, said: str) -> None:
    assert said in last_words(BROKEN.format(broken=broken))


def test_what_an_unanswered_question_has_said_is_said_again_at_the_end(calls: list[Call]) -> None:
    channel = noting(done=["2"], told=["1"], sent=1.0)
    channel.qos = ownership.KeepingQoS(channel)
    channel.qos.restore_unacked_once()
    assert sorted(calls) == [("forget", "1"), ("forget", "2")]
    assert (channel.done, channel.told) == ([], [])


def noting(**values: object) -> Any:
    """A channel of ours in the event loop, as far as it tells Redis what is done."""
    kind = NotingChannel
    connection = SimpleNamespace(client="a connection", cycle=SimpleNamespace(is_looping=True))
    channel = SimpleNamespace(connection=connection, connection_errors=(OperationalError,))
    channel.active_queues, channel.unacknowledged, channel.do_restore = ["celery"], set(), False
    channel.sent, channel._in_poll, channel._closing = None, None, False
    vars(channel).update(values)
    for name in ("asks_next", "settle", "settle_all", "_say_what_is_done"):
        setattr(channel, name, getattr(kind, name).__get__(channel))
    return channel


BLOCKED = {"_in_poll": "a connection", "sent": None}
ANSWER_IS_NEAR = {"_in_poll": "a connection", "sent": 1.0}


@pytest.mark.parametrize(
    ("state", "asks"),
    [
        ({}, True),
        (ANSWER_IS_NEAR, True),
        (BLOCKED, False),
        ({"_closing": True}, False),
        ({"active_queues": []}, False),
        ({"unacknowledged": {"celery"}}, False),
    ],
)
def test_what_is_done_waits_only_for_a_question_that_is_near(
    state: dict[str, object], asks: bool
) -> None:
    assert noting(**state).asks_next() is asks
    outside = SimpleNamespace(cycle=SimpleNamespace(is_looping=False))
    assert not noting(**state, connection=outside).asks_next()


@pytest.mark.parametrize(("state", "said"), [({}, ["1"]), (ANSWER_IS_NEAR, []), (BLOCKED, ["1"])])
def test_what_no_question_will_say_is_said_in_the_same_turn(
    calls: list[Call], state: dict[str, object], said: list[str]
) -> None:
    channel = noting(done=["1"], told=[], **state)
    channel.qos = ownership.KeepingQoS(channel)
    channel.settle()
    assert calls == [("forget", tag) for tag in said]
    channel.done.clear()
