"""Results of tasks, as the worker's processes write them."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from tests.helpers.harness import APP, in_app, redis
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

DAY = 24 * 3600
IN_WORKERS_APP = f"""
import os, sys
lines = (line.rstrip().split("=", 1) for line in open("{APP}/.env") if line[:6] == "CELERY")
os.environ.update({{name: value.strip("'\\"") for name, value in lines}})
os.environ["CELERY_PI_APP"] = "observations_nids"
sys.path[:0] = ["{APP}", "/usr/local/lib/celery-pi/guard"]
from celery_redis_guard.app import app
"""


def store(pi: VirtualPi, task: str, *states: str) -> None:
    """Write a result of each state, one after the other: its place among them."""
    code = f"[app.backend.store_result('{task}', n, s) for n, s in enumerate({states!r})]"
    in_app(pi, IN_WORKERS_APP + code)


def result(pi: VirtualPi, task: str) -> tuple[str, int]:
    kept = json.loads(redis(pi, "get", f"celery-task-meta-{task}"))
    return kept["status"], kept["result"]


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (("STARTED", "SUCCESS"), ("SUCCESS", 1)),
        (("STARTED", "RETRY", "SUCCESS"), ("SUCCESS", 2)),
        (("SUCCESS", "STARTED", "SUCCESS"), ("SUCCESS", 0)),
    ],
)
def test_success_is_kept_and_all_else_makes_room(
    pi: VirtualPi, states: tuple[str, ...], kept: tuple[str, int]
) -> None:
    task = str(uuid4())
    store(pi, task, *states)
    assert result(pi, task) == kept
    assert DAY - 60 < int(redis(pi, "ttl", f"celery-task-meta-{task}")) <= DAY


def test_what_is_there_and_is_no_json_makes_room(pi: VirtualPi) -> None:
    task = str(uuid4())
    redis(pi, "set", f"celery-task-meta-{task}", "no JSON")
    store(pi, task, "SUCCESS")
    assert result(pi, task) == ("SUCCESS", 0)


def test_worker_logs_what_tasks_log_and_what_goes_wrong_and_no_more(pi: VirtualPi) -> None:
    since = pi.run("date", "+%s").stdout.strip()
    word = uuid4().hex
    code = (
        f"tasks.log.delay('{word}').get(timeout=30); tasks.retry.delay(1).get(timeout=30);"
        f"tasks.fail.delay('{word}').get(timeout=30, propagate=False)"
    )
    in_app(pi, f"from observations_nids import tasks; {code}")
    pi.run("journalctl", "--sync")
    journal = pi.run("journalctl", "-q", "-o", "cat", "-u", "celery-worker", f"-S@{since}").stdout
    assert f"]: {word}" in journal
    assert f"RuntimeError('{word}')" in journal
    assert " retry: Retry in 1s" in journal
    assert " received" not in journal
    assert " succeeded in" not in journal
