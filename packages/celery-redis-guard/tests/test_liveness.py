"""Which workers count as dead, and when this one is healthy."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from celery_redis_guard import identity, liveness

pytestmark = pytest.mark.fast

UNIT = "celery-worker.service"


class Clock:
    """Seconds that a test lets pass."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> ModuleType:
    """The module as the worker imports it, in the unit that runs it."""
    monkeypatch.setenv("CELERY_PI_UNIT", UNIT)
    for cached in (identity.slot_id, identity.worker_id):
        cached.cache_clear()
    monkeypatch.setattr(liveness, "monotonic", clock)
    return liveness


@pytest.fixture
def step(module: ModuleType, clock: Clock) -> Any:
    """One that has just connected."""
    made = module.LivenessStep.__new__(module.LivenessStep)
    made.prefix, made.missing_since, made.reaping = "", {}, {}
    made.started_at = clock.now
    return made


def connected(step: Any, *counts: int) -> None:
    """Redis replies with these numbers of subscribers to the owner, then always with the last."""
    replies = list(counts)
    last = counts[-1]
    numbers = SimpleNamespace(
        pubsub_numsub=lambda channel: [(channel, replies.pop(0) if replies else last)]
    )
    step.client = numbers


OTHER = "other-machine/celery-worker.service/1"


def test_earlier_worker_of_the_same_unit_is_dead_at_once(module: ModuleType, step: Any) -> None:
    connected(step, 0)
    assert step._is_dead(f"{module.slot_id()}/1")


def test_earlier_worker_of_the_same_unit_lives_while_a_process_of_it_does(
    module: ModuleType, step: Any
) -> None:
    connected(step, 1)
    assert not step._is_dead(f"{module.slot_id()}/1")


def test_worker_without_a_unit_has_a_slot_of_its_own(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CELERY_PI_UNIT")
    places = []
    for _ in range(2):
        module.slot_id.cache_clear()
        places.append(module.slot_id())
    assert len(set(places)) == 2


def test_other_worker_is_dead_when_it_has_been_away_for_a_while(
    module: ModuleType, step: Any, clock: Clock
) -> None:
    connected(step, 0)
    assert not step._is_dead(OTHER)
    clock.now += module.GRACE - 1
    assert not step._is_dead(OTHER)
    clock.now += 1
    assert step._is_dead(OTHER)


def test_other_worker_that_comes_back_in_time_is_not(
    module: ModuleType, step: Any, clock: Clock
) -> None:
    connected(step, 0, 1, 0)
    assert not step._is_dead(OTHER)
    clock.now += module.GRACE - 1
    assert not step._is_dead(OTHER)
    clock.now += module.GRACE - 1
    assert not step._is_dead(OTHER)


def consumer(
    heard: float | None = None, queues: bool = True, can_consume: bool = True
) -> SimpleNamespace:
    qos = SimpleNamespace(can_consume=lambda: can_consume)
    channel = SimpleNamespace(
        qos=qos, last_reply_at=heard, active_queues={"celery"} if queues else set()
    )
    return SimpleNamespace(task_consumer=SimpleNamespace(channel=channel))


@pytest.mark.parametrize(
    ("given", "tasks", "well"),
    [
        ({}, 0, False),
        ({"heard": 999.0}, 0, False),
        ({"heard": 1015.0}, 0, True),
        ({"queues": False}, 0, True),
        ({"can_consume": False}, 2, True),
        ({"can_consume": False}, 0, False),
        ({"can_consume": False, "heard": 1015.0}, 0, True),
    ],
    ids=["never heard", "not lately", "heard", "paused", "busy", "full of nothing", "full, heard"],
)
def test_worker_is_healthy_that_gets_replies_or_needs_none(
    module: ModuleType,
    step: Any,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    tasks: int,
    well: bool,
) -> None:
    monkeypatch.setattr(module.state, "reserved_requests", set(range(tasks)))
    step.consumer = consumer(**given)
    clock.now += module.STUCK_AFTER
    assert step.is_healthy() is well


def test_worker_stays_healthy_while_redis_does_not_reply(
    module: ModuleType, step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(module, "notify", sent.append)

    def stall(*_: object) -> None:
        raise module.RedisTimeoutError

    step.client = SimpleNamespace(eval=stall)
    step.missing_since = {"other": 1.0}
    step.check()
    assert sent == ["WATCHDOG=1"]
    assert step.missing_since == {}


# -- what a dead worker had


class DeadOwner:
    """Redis with the tasks of one dead worker, of which a batch takes a while to requeue."""

    def __init__(self, step: Any, clock: Clock, tasks: int, seconds: float) -> None:
        self.left = {f"tag-{number}": OTHER for number in range(tasks)}
        self.clock, self.seconds = clock, seconds
        self.turns: list[Any] = []
        qos = SimpleNamespace(requeue_of=self.requeue_of)
        connection = SimpleNamespace(default_channel=SimpleNamespace(qos=qos))
        timer = SimpleNamespace(call_after=lambda delay, what: self.turns.append((delay, what)))
        step.consumer = SimpleNamespace(connection=connection, timer=timer)
        step.client = SimpleNamespace(
            eval=lambda *_: {owner.encode() for owner in self.left.values()},
            hscan_iter=lambda *_, **__: [
                (tag.encode(), owner.encode()) for tag, owner in self.left.items()
            ],
            pubsub_numsub=lambda channel: [(channel, 0)],
        )
        step.missing_since[OTHER] = clock.now - liveness.GRACE

    def requeue_of(self, owner: str, tags: list[str], _: object) -> None:
        for tag in tags:
            assert self.left.pop(tag) == owner
        self.clock.now += self.seconds


def test_tasks_of_a_dead_worker_are_requeued_in_turns_with_the_watchdog_between(
    module: ModuleType, step: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tens of thousands would take longer than systemd waits, and the event loop waits as well."""
    pings: list[float] = []
    monkeypatch.setattr(module, "notify", lambda _: pings.append(clock.now))
    dead = DeadOwner(step, clock, tasks=50_000, seconds=0.02)
    longest = 0.0
    step.check()
    while dead.turns:
        assert len(dead.turns) == 1
        delay, go_on = dead.turns.pop()
        clock.now += delay
        began_at = clock.now
        go_on()
        longest = max(longest, clock.now - began_at)
        step.check()  # as it is called each five seconds
    assert not dead.left
    assert longest <= module.TURN + 0.02
    gaps = [after - before for before, after in zip([1000.0, *pings], pings, strict=False)]
    assert max(gaps) <= 3 * module.TURN


def test_a_batch_that_takes_longer_than_a_turn_is_requeued_all_the_same(
    module: ModuleType, step: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "notify", lambda _: None)
    dead = DeadOwner(step, clock, tasks=2 * module.BATCH, seconds=2 * module.TURN)
    step.check()
    assert len(dead.left) == module.BATCH
    dead.turns.pop()[1]()
    assert not dead.left
