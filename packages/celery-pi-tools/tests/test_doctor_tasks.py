"""`celery-pi doctor` and tasks: those that wait for nobody, are thrown away or cut off."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.consumer.consumer import UNKNOWN_TASK_ERROR
from kombu.transport.virtual import Message

from celery_pi_tools.checks import tasks, worker
from celery_pi_tools.system import WORKER_MESSAGES
from fake_system import UP, answering, consuming, fake_system

pytestmark = pytest.mark.fast


def test_question_to_one_worker_is_read_by_kombu() -> None:
    system = fake_system(redis_key_prefix="birds:")
    worker.consume(system, "celery@pi", "ocr")
    (asked,) = system.asked
    assert asked.startswith("PUBLISH birds:/0.celery.pidbox ")
    payload = json.loads(asked.split(" ", 2)[2])
    channel = SimpleNamespace(decode_body=lambda body, _: base64.b64decode(body))
    body = Message(payload, channel=channel).decode()
    assert (body["method"], body["arguments"], body["destination"]) == (
        *("add_consumer", {"queue": "ocr"}, ["celery@pi"]),
    )


@pytest.mark.parametrize(
    ("here", "pool", "level", "evidence"),
    [
        (1, 2, "ok", "alive, 2 processes; 1 elsewhere"),
        (1, 1, "warn", "alive, 1 process of 2; 1 elsewhere"),
        (1, 0, "wrong", "alive, 0 processes; 1 elsewhere"),
        (0, 2, "wrong", "not connected to Redis, 2 processes; 1 elsewhere"),
    ],
)
def test_worker_that_is_not_connected_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, here: int, pool: int, level: str, evidence: str
) -> None:
    system = fake_system(celery_concurrency=2)
    system.units = {"celery-worker": {"MainPID": "7"}}
    system.alive_workers = lambda: (here, 1)
    system.pids = lambda _: [7, *range(10, 10 + pool)]
    monkeypatch.setattr(worker, "parent", lambda pid: "1" if pid == 7 else "7")
    found = worker.connected(system)
    assert (found.level, found.evidence) == (level, evidence)
    assert bool(found.fix) == bool(found.impact) == (not here)
    assert found.values == {"here": here, "elsewhere": 1, "pool": pool}


@pytest.mark.parametrize(
    ("consumed", "missing"),
    [
        (consuming("celery", "ocr"), None),
        (consuming("ocr"), "celery"),
        ({**consuming("ocr"), "celery@b": [{"name": "celery"}]}, None),
    ],
)
def test_queue_that_nobody_consumes_is_paused(consumed: Any, missing: str | None) -> None:
    system = answering(fake_system(celery_queues=("celery", "ocr")), active_queues=consumed)
    found = worker.paused(system)
    assert (found and found.evidence) == (missing and f"no worker takes tasks from {missing}")


def test_queue_that_is_paused_for_maintenance_is_left_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAINTENANCE_PAGE", tmp_path / "page.html")
    system = answering(fake_system(), active_queues=consuming("other"))
    assert worker.paused(system)
    (tmp_path / "page.html").touch()
    assert worker.paused(system) is None


def message(task: str) -> str:
    return json.dumps({"body": "", "headers": {"task": task}})


KEYS = {
    **{"celery": message("a"), "old": message("a"), "old\x06\x163": message("a")},
    **{"set-aside": "[]", "x.reply.celery.pidbox": message("a"), "list": "no JSON"},
    **{"mine:list": message("a"), "cached": message("a")},
}


def test_tasks_in_a_forgotten_queue_are_counted() -> None:
    pages = iter([["7", list(KEYS)[:4]], ["0", list(KEYS)[4:]]])
    replies = {
        "SCAN": lambda *_: next(pages),
        "LINDEX": lambda *words: KEYS[words[1]],
        "LLEN": lambda *_: 2,
    }
    system = answering(
        fake_system(replies, redis_app_keys=("cache*",)), active_queues=consuming("celery")
    )
    assert tasks.unconsumed(system).evidence == "no worker consumes this: 4 tasks in old"


def test_queue_of_another_worker_is_none() -> None:
    replies = {"SCAN": ["0", ["old"]], "LINDEX": message("a"), "LLEN": 1}
    system = answering(fake_system(replies), active_queues=consuming("celery", "old"))
    assert tasks.unconsumed(system) is None


def test_unknown_task_is_read_from_the_journal() -> None:
    system = fake_system()
    system.units = {"celery-worker": UP}
    said = UNKNOWN_TASK_ERROR % (KeyError("birds.tasks.gone"), *("",) * 3)
    system.worker_log = [
        f"[2026-01-01: ERROR/MainProcess] {line}" for line in said.splitlines()
    ] * 2
    assert tasks.unknown(system).evidence.endswith(": birds.tasks.gone (2 times)")
    assert WORKER_MESSAGES.partition("|")[0] in said
    system.worker_log = ["something else"]
    assert tasks.unknown(system) is None


def test_task_at_its_limit_is_read_from_the_journal() -> None:
    system = fake_system()
    system.worker_log = [
        "[…: ERROR/MainProcess] Hard time limit (1800s) exceeded for birds.tasks.slow[1-2]",
        "[…: WARNING/MainProcess] Soft time limit (1740.0s) exceeded for birds.tasks.slow[1-2]",
    ]
    saw = tasks.limit_reached(system).evidence
    assert saw.endswith(": birds.tasks.slow (1 time, 1800 s), birds.tasks.slow (1 time, 1740.0 s)")


@pytest.mark.parametrize(
    ("hours", "longest", "told_of"), [(0.5, 0, False), (3, 0, True), (3, 4 * 3600, False)]
)
def test_task_that_is_too_far_off_is_told(hours: float, longest: int, told_of: bool) -> None:
    eta = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    entries = [{"eta": eta, "request": {"name": "birds.later"}}, {"eta": None, "request": {}}]
    system = answering(
        fake_system(celery_longest_countdown=longest), scheduled={"celery@pi": entries}
    )
    found = tasks.far_off(system)
    assert (found is not None) is told_of
    assert not told_of or "birds.later" in found.evidence
    assert not told_of or "celery_longest_countdown to 10800" in found.remedy


def test_results_that_are_off_are_told() -> None:
    assert tasks.without_results(answering(fake_system(), conf={"celery@pi": {}})) is None
    system = answering(fake_system(), conf={"celery@pi": {"task_ignore_result": True}})
    assert tasks.without_results(system)


@pytest.mark.parametrize(
    ("entry", "told_of"),
    [
        ({}, True),
        ({"reason": "auth"}, False),
        ({"username": "flower"}, False),
        ({"age-seconds": "7200.5"}, False),
    ],
)
def test_refused_queue_is_told(entry: dict[str, str], told_of: bool) -> None:
    refused = {
        "reason": "key",
        "object": "wrong\x06\x163",
        "username": "celery",
        "age-seconds": "3.2",
    }
    flat = [word for pair in ({**refused, **entry}).items() for word in pair]
    found = tasks.refused(fake_system({"ACL LOG": [flat]}))
    assert (found is not None) is told_of
    assert not told_of or found.evidence.endswith(": wrong")


@pytest.fixture
def celery(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts what looks like Celery, and returns its PID."""
    script = tmp_path / "celery"
    script.write_text("print(flush=True); import time; time.sleep(60)")
    running = []

    def start(*words: str) -> int:
        argv = [sys.executable, str(script), *words]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd="/")
        running.append(process)
        assert process.stdout
        process.stdout.readline()
        return process.pid

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_second_beat_of_the_app_is_found(celery: Any) -> None:
    pid = celery("-A", "observations_nids", "beat")
    others = [celery("-A", "another_app", "worker"), celery("-A", "observations_nids", "report")]
    system = fake_system()
    system.units = {}
    system.pids = lambda _: []
    # On this machine there may be more, of virtual Pis.
    saw = worker.second(system).evidence
    assert f"celery beat ({pid})" in saw
    assert not [other for other in others if f"({other})" in saw]
    system.pids = lambda _: [pid]
    found = worker.second(system)
    assert f"({pid})" not in (found.evidence if found else "")


@pytest.mark.parametrize(
    ("mib", "evidence"),
    [(60, None), (136, None), (260, "the app takes 260 MB, celery_max_memory_per_child is 200 MB")],
)
def test_app_that_is_larger_than_a_process_may_be_is_told(
    monkeypatch: pytest.MonkeyPatch, mib: int, evidence: str | None
) -> None:
    system = fake_system(celery_max_memory_per_child="200mb")
    system.units = {"celery-worker": {"MainPID": "7"}}
    monkeypatch.setattr(worker, "resident", {7: mib * 2**20}.__getitem__)
    found = worker.large(system)
    assert (found and found.evidence) == evidence
    if found:
        assert "set celery_max_memory_per_child to 325mb or more" in found.remedy


def test_size_of_a_process_is_read_and_one_that_has_ended_has_none() -> None:
    assert worker.resident(os.getpid()) > 2**20
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert worker.resident(ended.pid) == 0
