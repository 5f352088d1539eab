"""Something is killed at some steps of a canvas: nothing is lost, hangs or runs twice in vain.

All of the steps: `kill_at_every_step.py`, and docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kill_at_every_step import BEFORE, PROCESS, REDIS, WORKER, Driver, driver

pytestmark = pytest.mark.fast

TAKEN = ("worker: BLMOVE celery", 1)
COUNTED = "process: count celery-task-meta-*"
STORED = ("process: store celery-task-meta-*", 1)
FINISHED = ("process: finish celery-task-meta-*", 1)
BEGUN = ("process: begin of a task", 1)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Driver]:
    with driver() as made:
        yield made


@pytest.mark.parametrize(
    ("canvas", "killed", "step"),
    [
        ("single task", WORKER, TAKEN),
        ("single task", REDIS, TAKEN),
        ("chain", PROCESS, STORED),
        ("chain", REDIS, STORED),
        ("chain", BEFORE, STORED),
        ("chord", PROCESS, (COUNTED, 1)),
        ("chord", WORKER, (COUNTED, 1)),
        ("chord", PROCESS, FINISHED),
        ("chord", REDIS, FINISHED),
        ("chord", BEFORE, (COUNTED, 2)),
        ("chord, a header that is replaced", PROCESS, FINISHED),
        ("chord, a failure in its header", REDIS, (COUNTED, 2)),
        ("nested chord", PROCESS, FINISHED),
        ("chord that grows", REDIS, BEGUN),
    ],
)
def test_canvas_ends_and_each_task_is_done_once(
    guarded: Driver, canvas: str, killed: str, step: tuple[str, int]
) -> None:
    outcome = guarded.run(canvas, killed, step)
    assert outcome, f"there was no such step: {guarded.seen}"
    assert (outcome.lost, outcome.hung, outcome.twice) == (0, False, 0)


def test_task_that_completes_a_chord_runs_again_if_its_result_was_not_kept(guarded: Driver) -> None:
    """The chord's body runs once."""
    outcome = guarded.run("chord", PROCESS, (COUNTED, 2))
    assert outcome
    assert (outcome.lost, outcome.hung, outcome.twice) == (0, False, 1)


@pytest.mark.parametrize(
    ("killed", "step"),
    [
        (PROCESS, ("process: EXEC SETEX celery-task-meta-*", 1)),
        (WORKER, ("worker: BRPOP celery", 1)),
    ],
)
def test_plain_celery_with_the_same_settings_hangs(killed: str, step: tuple[str, int]) -> None:
    """The control."""
    with driver(is_control=True) as plain:
        outcome = plain.run("chord", killed, step)
        assert outcome, f"there was no such step: {plain.seen}"
        assert outcome.hung
