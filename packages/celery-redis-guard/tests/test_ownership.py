"""Unacknowledged tasks while Redis goes away: recorded, requeued, acknowledged, or deferred."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from kombu.transport import virtual

from celery_redis_guard import ownership
from celery_redis_guard.transport import AtomicFetchChannel

pytestmark = pytest.mark.fast


OPEN = SimpleNamespace(client="a connection")
TAKEN_APART = SimpleNamespace(client=None)


class Channel:
    """A channel as far as its QoS looks at it."""

    fetched_at: float | None = None
    connection: object | None = OPEN
    do_restore = False
    connection_errors = (OperationalError,)
    is_about_to_fetch = False

    def __init__(self) -> None:
        self.pending_acks: list[str] = []
        self.qos: Any = None

    def fetch_is_imminent(self) -> bool:
        return self.is_about_to_fetch

    def flush_all_acks(self) -> None:
        while self.pending_acks:
            self.qos.call_or_defer("forget", self.pending_acks.pop())


Call = tuple[str, object]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Calls that reach Redis, which is up."""
    done: list[Call] = []
    kind = ownership.OwnershipQoS
    monkeypatch.setattr(kind, "_record", lambda *call: done.append(("record", call[2])))
    monkeypatch.setattr(kind, "requeue", lambda _, tag: done.append(("requeue", tag)))
    monkeypatch.setattr(kind, "forget", lambda _, tag: done.append(("forget", tag)))
    monkeypatch.setattr(kind, "tags_fetched_at", lambda _, when: [f"fetched at {when}"])
    ownership.deferred.clear()
    return done


def message(tag: str) -> virtual.Message:
    return virtual.Message({"properties": {"delivery_tag": tag, "delivery_info": {}}})


def refuse(*_: object) -> None:
    raise OperationalError("Redis is away")


def test_message_that_cannot_be_recorded_is_requeued_by_the_next_connection(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    qos = ownership.OwnershipQoS(Channel())
    with monkeypatch.context() as away:
        away.setattr(ownership.OwnershipQoS, "_record", refuse)
        with pytest.raises(OperationalError):
            qos.append(message("1"), "1")
        with pytest.raises(OperationalError):
            ownership.OwnershipQoS(Channel())
    ownership.OwnershipQoS(Channel())
    ownership.OwnershipQoS(Channel())
    assert calls == [("record", "1"), ("requeue", "1")]


def test_message_that_the_script_recorded_is_not_recorded_again(calls: list[Call]) -> None:
    channel = Channel()
    channel.fetched_at = 7.5
    qos = ownership.OwnershipQoS(channel, 1)
    qos.append(message("1"), "1")
    assert calls == []
    assert channel.fetched_at is None
    assert not qos.can_consume()


def test_message_whose_reply_never_came_is_requeued_by_the_next_connection(
    calls: list[Call],
) -> None:
    ownership.defer("requeue_fetched_at", 7.5)
    ownership.OwnershipQoS(Channel())
    ownership.OwnershipQoS(Channel())
    assert calls == [("requeue", "fetched at 7.5")]


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("ack", {}, "forget"),
        ("reject", {}, "forget"),
        ("reject", {"requeue": True}, "requeue"),
    ],
)
def test_ack_or_reject_without_redis_is_deferred_to_the_next_connection(
    calls: list[Call],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    options: dict[str, bool],
    expected: str,
) -> None:
    qos = ownership.OwnershipQoS(Channel(), 1)
    qos.append(message("1"), "1")
    with monkeypatch.context() as away:
        away.setattr(ownership.OwnershipQoS, expected, refuse)
        getattr(qos, method)("1", **options)
    assert qos.can_consume()
    ownership.OwnershipQoS(Channel())
    ownership.OwnershipQoS(Channel())
    assert calls == [("record", "1"), (expected, "1")]


def test_ack_waits_for_an_imminent_fetch(calls: list[Call]) -> None:
    channel = Channel()
    channel.is_about_to_fetch = True
    qos = ownership.OwnershipQoS(channel, 1)
    qos.append(message("1"), "1")
    calls.clear()
    qos.ack("1")
    assert (calls, channel.pending_acks) == ([], ["1"])
    assert qos.can_consume()
    channel.pending_acks.clear()


@pytest.mark.parametrize("connection", [OPEN, None])
def test_pending_acks_are_sent_when_the_connection_ends(
    calls: list[Call], connection: object | None
) -> None:
    channel = Channel()
    channel.is_about_to_fetch = True
    channel.qos = qos = ownership.OwnershipQoS(channel)
    qos.ack("1")
    channel.connection = connection
    qos.restore_unacked_once()
    ownership.OwnershipQoS(Channel())
    assert calls == [("forget", "1")]


@pytest.mark.parametrize("connection", [None, TAKEN_APART])
def test_task_of_a_lost_connection_is_acknowledged_by_the_latest(
    monkeypatch: pytest.MonkeyPatch, connection: object | None
) -> None:
    used: list[object] = []
    monkeypatch.setattr(ownership.OwnershipQoS, "forget", lambda self, _: used.append(self))
    lost = ownership.OwnershipQoS(Channel())
    lost.channel.connection = connection
    current = ownership.OwnershipQoS(Channel())
    lost.ack("1")
    assert used == [current]


def test_reject_without_an_open_connection_is_deferred(calls: list[Call]) -> None:
    """As at the end of a worker, whose channels are closed one after another."""
    first, last = ownership.OwnershipQoS(Channel()), ownership.OwnershipQoS(Channel())
    first.channel.connection = last.channel.connection = None
    first.reject("1", requeue=True)
    assert calls == []
    ownership.OwnershipQoS(Channel())
    assert calls == [("requeue", "1")]


def test_lost_connection_requeues_only_tasks_that_do_not_run(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    qos = ownership.OwnershipQoS(Channel())
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
    assert calls == [("requeue", "waits")]


def test_acks_in_flight_are_sent_again_at_the_end(calls: list[Call]) -> None:
    channel = in_event_loop(pending_acks=["2"], acks_in_flight=["1"], script_sent_at=1.0)
    channel.qos = ownership.OwnershipQoS(channel)
    channel.qos.restore_unacked_once()
    assert sorted(calls) == [("forget", "1"), ("forget", "2")]
    assert (channel.pending_acks, channel.acks_in_flight) == ([], [])


def in_event_loop(**values: object) -> Any:
    """A channel of ours in the event loop, as far as acknowledgements need it."""
    kind = AtomicFetchChannel
    connection = SimpleNamespace(client="a connection", cycle=SimpleNamespace(is_looping=True))
    channel = SimpleNamespace(connection=connection, connection_errors=(OperationalError,))
    channel.active_queues, channel.no_ack_queues, channel.do_restore = ["celery"], set(), False
    channel.script_sent_at, channel._in_poll, channel._closing = None, None, False
    vars(channel).update(values)
    for name in ("fetch_is_imminent", "flush_acks", "flush_all_acks", "_send_pending_acks"):
        setattr(channel, name, getattr(kind, name).__get__(channel))
    return channel


BLOCKED = {"_in_poll": "a connection", "script_sent_at": None}
REPLY_IS_DUE = {"_in_poll": "a connection", "script_sent_at": 1.0}


@pytest.mark.parametrize(
    ("state", "imminent"),
    [
        ({}, True),
        (REPLY_IS_DUE, True),
        (BLOCKED, False),
        ({"_closing": True}, False),
        ({"active_queues": []}, False),
        ({"no_ack_queues": {"celery"}}, False),
    ],
)
def test_fetch_is_imminent_in_the_event_loop_unless_it_is_blocked(
    state: dict[str, object], imminent: bool
) -> None:
    assert in_event_loop(**state).fetch_is_imminent() is imminent
    outside = SimpleNamespace(cycle=SimpleNamespace(is_looping=False))
    assert not in_event_loop(**state, connection=outside).fetch_is_imminent()


@pytest.mark.parametrize(("state", "sent"), [({}, ["1"]), (REPLY_IS_DUE, []), (BLOCKED, ["1"])])
def test_pending_acks_are_flushed_in_the_same_turn_unless_a_reply_is_due(
    calls: list[Call], state: dict[str, object], sent: list[str]
) -> None:
    channel = in_event_loop(pending_acks=["1"], acks_in_flight=[], **state)
    channel.qos = ownership.OwnershipQoS(channel)
    channel.flush_acks()
    assert calls == [("forget", tag) for tag in sent]
    channel.pending_acks.clear()
