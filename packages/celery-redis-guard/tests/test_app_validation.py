"""What a safe worker needs is set in the owner's app; what would lose tasks is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celery_redis_guard.site_timeouts import HANGS
from guard_process import GUARDED, SOURCE

pytestmark = pytest.mark.fast

URL = "redis://:s3cret-password@127.0.0.1:6379/0"

# An owner's project; the settings and tasks of a test come in between.
PROJECT = f"""
from datetime import timedelta
from celery import Celery, shared_task
from kombu import Queue
app = Celery("project", broker={URL!r}, backend={URL!r})
"""

REPORT = """
import json
from celery_redis_guard.app import app
app.finalize()
print(json.dumps([app.conf[key] for key in (
    "task_time_limit", "task_soft_time_limit", "broker_transport_options")]))
"""

TASK = "@shared_task({})\ndef work(): pass\n"
NAME = "project.celery.work"


def run(
    directory: Path, code: str, program: list[str], **given: str
) -> subprocess.CompletedProcess[str]:
    package = directory / "project"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "celery.py").write_text(PROJECT + code)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{directory}:{SOURCE}",
        "CELERY_PI_APP": "project",
        **GUARDED,
        **{"CELERY_BROKER_URL": URL, "CELERY_RESULT_BACKEND": URL},
        **{"CELERY_PI_TIME_LIMIT": "1800", "CELERY_PI_LONGEST_COUNTDOWN": "0"},
        "CELERY_PI_QUEUES": "celery,ocr",
        **given,
    }
    return subprocess.run(
        [sys.executable, "-B", *program],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def conf(directory: Path, code: str = "", **given: str) -> Any:
    """What limits, soft limit and transport options the app ends up with."""
    return json.loads(run(directory, code, ["-c", REPORT], **given).stdout)


def check(directory: Path, code: str, **given: str) -> tuple[int, list[str]]:
    done = run(directory, code, ["-m", "celery_redis_guard.check_app"], **given)
    assert done.stdout == ""
    assert "s3cret" not in done.stderr
    lines = done.stderr.partition(f"celery-pi: {HANGS}")[0].splitlines()
    assert all(line.startswith("celery-pi: ") for line in lines)
    return done.returncode, [line.removeprefix("celery-pi: ") for line in lines]


@pytest.mark.parametrize(
    ("code", "given", "expected"),
    [
        ("", {}, [1800, 1740, 3600]),
        ("", {"CELERY_PI_TIME_LIMIT": "60"}, [60, None, 3600]),
        ("", {"CELERY_PI_TIME_LIMIT": "7200"}, [7200, 7140, 7500]),
        ("", {"CELERY_PI_LONGEST_COUNTDOWN": "86400"}, [1800, 1740, 86700]),
        ("app.conf.task_time_limit = 600", {}, [600, None, 3600]),
        ("app.conf.task_soft_time_limit = 600", {}, [1800, 600, 3600]),
        ('app.conf.broker_transport_options = {"visibility_timeout": 60}', {}, [1800, 1740, 3600]),
        ('app.conf.broker_transport_options = {"visibility_timeout": 9e5}', {}, [1800, 1740, 9e5]),
    ],
)
def test_what_the_app_lacks_is_set_and_what_is_safe_is_kept(
    tmp_path: Path, code: str, given: dict[str, str], expected: list[float]
) -> None:
    hard, soft, options = conf(tmp_path, code, **given)
    assert [hard, soft, options["visibility_timeout"]] == expected


def test_other_transport_options_of_the_app_are_kept(tmp_path: Path) -> None:
    code = 'app.conf.broker_transport_options = {"priority_steps": [0, 5]}'
    assert conf(tmp_path, code)[2] == {"priority_steps": [0, 5], "visibility_timeout": 3600}


def test_safe_app_passes_in_silence(tmp_path: Path) -> None:
    code = (
        TASK.format('queue="ocr", time_limit=1800, soft_time_limit=1700, max_retries=9')
        + 'app.conf.task_routes = {"a.*": "ocr", "b": {"queue": "ocr"}}\n'
        + "app.conf.task_queues = [Queue('celery'), Queue('ocr')]\n"
        + 'app.conf.beat_schedule = {"x": {"task": "y", "schedule": 5,'
        + ' "options": {"queue": "ocr", "countdown": 60}}}\n'
        + "app.conf.result_expires = timedelta(days=1)\n"
        + 'app.conf.accept_content = ["application/json"]\n'
    )
    assert check(tmp_path, code) == (0, [])


LIMITED = "and a stop of the worker waits 1800 s: set celery_time_limit to 3600, or lower it"
TWICE = "and a task that is away for 3600 s is run twice: set celery_longest_countdown to 7200"
UNSAFE = (
    "say json alone, because with formats such as pickle whoever writes to Redis runs code of his "
    "own here"
)


def unheard(who: str, queue: str = "birds") -> str:
    return (
        f"{who} sends to the queue {queue}, which no worker consumes: add {queue} to celery_queues"
    )


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("app.conf.task_time_limit = 3600", f"task_time_limit is 3600 s, {LIMITED}"),
        ("app.conf.task_soft_time_limit = 3600", f"task_soft_time_limit is 3600 s, {LIMITED}"),
        (TASK.format("time_limit=3600"), f"time_limit of {NAME} is 3600 s, {LIMITED}"),
        (TASK.format("soft_time_limit=3600"), f"soft_time_limit of {NAME} is 3600 s, {LIMITED}"),
        (
            TASK.format("default_retry_delay=7200"),
            f"default_retry_delay of {NAME} is 7200 s, {TWICE}",
        ),
        (
            TASK.format("autoretry_for=(OSError,), retry_backoff=2, retry_backoff_max=7200"),
            f"retry_backoff_max of {NAME} is 7200 s, {TWICE}",
        ),
        (
            'app.conf.beat_schedule = {"x": {"task": "y", "schedule": 5,'
            ' "options": {"countdown": 7200}}}',
            f"countdown of x in beat_schedule is 7200 s, {TWICE}",
        ),
        (
            'app.conf.accept_content = ["json", "pickle"]',
            f"accept_content is pickle: {UNSAFE}",
        ),
        ('app.conf.result_accept_content = ["yaml"]', f"result_accept_content is yaml: {UNSAFE}"),
        ('app.conf.result_serializer = "pickle"', f"result_serializer is pickle: {UNSAFE}"),
        (TASK.format('serializer="pickle"'), f"serializer of {NAME} is pickle: {UNSAFE}"),
        (
            "app.conf.result_expires = None",
            "result_expires is None, so results fill Redis: give it seconds, such as 86400",
        ),
        (
            "app.conf.result_expires = 0",
            "result_expires is 0, so results fill Redis: give it seconds, such as 86400",
        ),
        (TASK.format('queue="birds"'), unheard(NAME)),
        ('app.conf.task_routes = {"other.*": "birds"}', unheard("task_routes")),
        ('app.conf.task_routes = ([("x", {"queue": "birds"})],)', unheard("task_routes")),
        (
            TASK.format("")
            + "app.conf.task_routes = lambda name, *_, **__: "
            + "{'queue': Queue('birds')} if name == 'project.celery.work' else None",
            unheard(NAME),
        ),
        (
            'app.conf.beat_schedule = {"x": {"task": "y", "schedule": 5,'
            ' "options": {"queue": "birds"}}}',
            unheard("x in beat_schedule"),
        ),
        (
            'app.conf.worker_pool = "solo"',
            "worker_pool is solo, in which no time limit and no memory limit holds: leave it out, "
            "or say prefork",
        ),
    ],
)
def test_app_that_would_lose_tasks_is_refused_in_one_sentence(
    tmp_path: Path, code: str, sentence: str
) -> None:
    assert check(tmp_path, code) == (1, [sentence])


def test_queue_of_the_default_is_among_those_consumed(tmp_path: Path) -> None:
    status, (sentence,) = check(tmp_path, 'app.conf.task_default_queue = "birds"')
    assert (status, sentence) == (1, unheard("task_default_queue"))


def test_advice_of_a_sentence_helps(tmp_path: Path) -> None:
    code = TASK.format("default_retry_delay=7200, time_limit=3600")
    given = {"CELERY_PI_TIME_LIMIT": "3600", "CELERY_PI_LONGEST_COUNTDOWN": "7200"}
    assert check(tmp_path, code, **given) == (0, [])


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    code = TASK.format('time_limit=3600, queue="birds"') + "app.conf.result_expires = 0"
    assert len(check(tmp_path, code)[1]) == 3


def test_router_that_needs_arguments_is_skipped(tmp_path: Path) -> None:
    code = TASK.format("") + "app.conf.task_routes = lambda name, args, *_, **__: args[0]"
    assert check(tmp_path, code) == (0, [])


@pytest.mark.parametrize("option", ["acks_late", "reject_on_worker_lost"])
def test_task_with_unsafe_options_of_its_own_is_a_warning(tmp_path: Path, option: str) -> None:
    status, sentences = check(tmp_path, TASK.format(f"{option}=False"))
    assert (status, sentences) == (
        0,
        [f"{NAME} has {option}=False: it is lost when its process is killed"],
    )


def test_app_that_does_not_load_is_reported_with_its_line_and_no_message(
    tmp_path: Path,
) -> None:
    status, sentences = check(tmp_path, 'raise ValueError("s3cret")')
    line = PROJECT.count("\n") + 1
    assert (status, sentences) == (
        1,
        [f"the app cannot be loaded: ValueError in project/celery.py, line {line}"],
    )


def test_process_that_only_sends_gets_no_limits(tmp_path: Path) -> None:
    code = "import os; del os.environ['CELERY_PI_TIME_LIMIT']"
    assert conf(tmp_path, code) == [None, None, {}]


def test_app_that_is_larger_than_a_process_may_be_is_told_with_its_size(tmp_path: Path) -> None:
    code = "ballast = bytearray(b'x' * 150 * 2**20)"
    status, (told,) = check(tmp_path, code, CELERY_PI_MEMORY_PER_CHILD=str(100 * 1024))
    assert status == 0
    size = int(told.removeprefix("the app takes ").partition(" MB ")[0])
    assert 150 < size < 300
    assert "celery_max_memory_per_child is 100 MB" in told
