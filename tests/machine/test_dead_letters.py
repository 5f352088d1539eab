"""A task that takes its process with it is tried four times, told of, and kept."""

from __future__ import annotations

import json

import pytest

from tests.helpers.harness import APP, in_app, pids, redis, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

NAME = "poison"
REASON = "its process was lost 4 times, so it was set aside"

SEND = f"from observations_nids.tasks import trace; print(trace.delay('{NAME}', 600).id)"
STATE = (
    "from observations_nids.celery import app; r = app.AsyncResult('{}'); print(r.state, r.result)"
)


def ran(pi: VirtualPi) -> int:
    """How often the task has been started."""
    lines = pi.run("sh", "-c", f"cat {APP}/media/{NAME} 2>/dev/null || true").stdout
    return lines.count("start")


def lose_it(pi: VirtualPi, first: int, last: int) -> None:
    """Kill the processes of the worker each time the task runs, from one start to another."""
    for time in range(first, last + 1):
        wait_for("it is started", lambda time=time: ran(pi) == time)
        pi.run("pkill", "-KILL", "-P", pids(pi)["celery-worker"])


def command(pi: VirtualPi, *arguments: str) -> tuple[int, str]:
    done = pi.run("celery-pi", "set-aside", *arguments, check=False)
    return done.returncode, done.stdout


def test_task_that_kills_its_process_is_set_aside_and_kept(pi: VirtualPi) -> None:
    status, listed = command(pi)
    assert (listed, status) == ("", 0)
    worker = pids(pi)["celery-worker"]
    task = in_app(pi, SEND)
    lose_it(pi, 1, 4)
    wait_for("it is set aside", lambda: command(pi)[0] == 1)
    assert f"observations_nids.tasks.trace[{task}]  from celery\n" in command(pi)[1]
    assert ran(pi) == 4
    asked = ("exists", "unacked", "unacked_owner")
    wait_for("nothing is in hand", lambda: redis(pi, *asked) == "0")  # as a tick of Beat's may be
    assert in_app(pi, STATE.format(task)) == f"FAILURE {REASON}"
    said = pi.run("journalctl", "-q", "-o", "cat", "-u", "celery-worker").stdout
    assert f"celery-pi: task observations_nids.tasks.trace[{task}]: {REASON}" in said
    assert pids(pi)["celery-worker"] == worker


def test_it_can_be_put_back_and_is_tried_as_often_again(pi: VirtualPi) -> None:
    assert command(pi, "--return") == (0, "1 put back\n")
    lose_it(pi, 5, 8)
    wait_for("it is set aside", lambda: command(pi)[0] == 1)
    assert ran(pi) == 8
    redis(pi, "del", "set-aside")
    pi.run("rm", f"{APP}/media/{NAME}")


COLOURED = json.dumps({"headers": {"task": "\x1b[31m\nred", "id": "1"}})
HOSTILE = [
    *("no JSON", "[]", '["{}", [], 0]', '["{}", "celery", 0]'),
    '["a message", ["celery", "other-app"], 0]',
    json.dumps([COLOURED, ["unacked_owner"], 1e99]),
    json.dumps([COLOURED, ["other-app"], 0]),
]


def test_entries_of_the_apps_own_making_stay_and_reach_no_other_key(pi: VirtualPi) -> None:
    for entry in HOSTILE:
        redis(pi, "lpush", "set-aside", entry)
    status, told = command(pi, "--return")
    kept = redis(pi, "llen", "set-aside")
    reached = redis(pi, "exists", "other-app", "unacked_owner")
    redis(pi, "del", "set-aside")
    assert (status, kept, reached) == (1, str(len(HOSTILE)), "0")
    assert told.splitlines()[0] == "0 put back"
    assert r"\x1b[31m\nred[1]  from other-app" in told
    assert len(told.splitlines()) == 1 + len(HOSTILE)
