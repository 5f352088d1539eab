"""What is forced is forced, in whatever way the app, its environment or a command line says
otherwise: read in a real worker, once it is ready, with a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_redis_guard.forced_defaults import ALWAYS
from celery_redis_guard.site_timeouts import HANGS
from guard_process import GUARDED, SOURCE
from redis_server import redis_server

pytestmark = pytest.mark.fast

OTHER = "redis://other-user:0ther@192.0.2.1:6379/7"  # reached by nobody (RFC 5737)

# Each setting that is forced, as an app must not have it.
UNSAFE: dict[str, Any] = {
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "worker_prefetch_multiplier": 9,
    "worker_deduplicate_successful_tasks": False,
    "broker_connection_retry_on_startup": False,
    "broker_connection_max_retries": 1,
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "broker_transport_options": {"visibility_timeout": 60, "priority_steps": [0, 5]},
}
# Those that have an old name.
OLD = {
    "CELERY_ACKS_LATE": False,
    "CELERYD_PREFETCH_MULTIPLIER": 9,
    "BROKER_CONNECTION_MAX_RETRIES": 1,
    "BROKER_TRANSPORT_OPTIONS": UNSAFE["broker_transport_options"],
}

PROJECT = """
import json, os, sys
from celery import Celery
from celery.signals import worker_ready
URL = os.environ.get("SITE_URL")
{code}
@app.task(name="work")
def work(): pass

@worker_ready.connect
def report(sender, **_):
    from celery.exceptions import WorkerShutdown
    conf, task, worker = sender.app.conf, sender.app.tasks["work"], sender.controller
    print("REPORT" + json.dumps({{
        "settings": {{key: conf[key] for key in {keys!r}}},
        "attributes": {{key: getattr(conf, key) for key in {keys!r}}},
        "task": [task.acks_late, task.reject_on_worker_lost],
        "prefetch": [sender.prefetch_multiplier, sender.initial_prefetch_count],
        "limits": [worker.time_limit, worker.soft_time_limit],
        "classes": [type(part).__name__ + " of " + type(part).__module__ for part in (
            sender, sender.pool, sender.pool._pool, sender.connection.transport,
            sender.connection.default_channel, sender.app.backend)],
        "visibility": sender.connection.default_channel.visibility_timeout,
    }}), file=sys.__stdout__, flush=True)
    raise WorkerShutdown(0)
"""
CONSTRUCTED = 'app = Celery("project", broker=URL, backend=URL)\n'

WAYS = {
    "safe": CONSTRUCTED,
    "attributes": CONSTRUCTED
    + "\n".join(f"app.conf.{key} = {value!r}" for key, value in UNSAFE.items()),
    "items": CONSTRUCTED + f"app.conf.update({UNSAFE!r})",
    "arguments": f'app = Celery("project", broker=URL, backend=URL, changes={UNSAFE!r})',
    "object": CONSTRUCTED + f"app.config_from_object({UNSAFE!r})",
    "old names": 'app = Celery("project")\n'
    + f'app.config_from_object({{"BROKER_URL": URL, "CELERY_RESULT_BACKEND": URL, **{OLD!r}}})',
    "prefix": "from types import SimpleNamespace\n"
    + f"stated = {{'CELERY_' + key.upper(): value for key, value in {UNSAFE!r}.items()}}\n"
    + "stated.update(CELERY_BROKER_URL=URL, CELERY_RESULT_BACKEND=URL)\n"
    + 'app = Celery("project")\n'
    + 'app.config_from_object(SimpleNamespace(**stated), namespace="CELERY")',
    "lower-case prefix": "from types import SimpleNamespace\n"
    + f"stated = {{'site_' + key: value for key, value in {UNSAFE!r}.items()}}\n"
    + "stated.update(site_broker_url=URL, site_result_backend=URL)\n"
    + 'app = Celery("project")\n'
    + 'app.config_from_object(SimpleNamespace(**stated), namespace="site")',
    "bound early": CONSTRUCTED
    + "lazy = app.task\n"
    + "def task(**options):\n"
    + "    def make(function):\n"
    + "        made = lazy(**options)(function)\n"
    + "        made.name  # at which Celery makes the task\n"
    + "        return made\n"
    + "    return make\n"
    + "app.task = task\n",
    "finalized early": CONSTRUCTED + "app.finalize()\n",
    "later": CONSTRUCTED
    + "@app.on_after_finalize.connect\ndef later(sender, **_):\n"
    + f"    sender.conf.update({UNSAFE!r})\n",
    "anew": CONSTRUCTED
    + "from celery.signals import import_modules\n@import_modules.connect\ndef anew(**_):\n"
    + f"    app.config_from_object(dict({UNSAFE!r}, broker_url=URL, result_backend=URL))\n",
}

COMMAND_LINES = {
    "options": ("--prefetch-multiplier=9", "--time-limit=9999", "--soft-time-limit=9998"),
    "pool": ("--pool=solo",),
    "variables": ("worker.prefetch_multiplier=9", "task.acks_late=no"),
}

ENVIRONMENTS = {
    "urls": {"CELERY_BROKER_READ_URL": OTHER, "CELERY_BROKER_WRITE_URL": OTHER},
    "program's urls": {"BROKER_URL": OTHER, "RESULT_BACKEND": OTHER},
    "options": {"CELERY_WORKER_PREFETCH_MULTIPLIER": "9", "CELERY_WORKER_POOL": "solo"},
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as (_, place):
        yield f"redis+{place}"


def run(
    directory: Path, code: str, program: list[str], url: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    (directory / "project.py").write_text(PROJECT.format(code=code, keys=list(ALWAYS)))
    return subprocess.run(
        [sys.executable, "-B", "-m", *program],
        env={
            **{"PATH": os.environ["PATH"], "PYTHONPATH": f"{directory}:{SOURCE}"},
            **{"CELERY_PI_APP": "project", "CELERY_PI_QUEUES": "celery", **GUARDED},
            **{"CELERY_PI_TIME_LIMIT": "1800", "CELERY_PI_LONGEST_COUNTDOWN": "0"},
            **{"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, "SITE_URL": url},
            **environment,
        },
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def without_site_lines(said: str) -> str:
    """What the check says of the worker, and not of the site's sends."""
    return said.partition(f"celery-pi: {HANGS}")[0]


def worker(directory: Path, code: str, url: str, *arguments: str, **environment: str) -> Any:
    """What a worker of that app ends up with."""
    program = ["celery", "-A", "celery_redis_guard.app", "worker", "-c2", "--without-mingle"]
    done = run(directory, code, [*program, *arguments], url, **environment)
    (report,) = [line for line in done.stdout.splitlines() if line.startswith("REPORT")] or [""]
    assert report, done.stderr
    return json.loads(report.removeprefix("REPORT"))


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory, url: str) -> Any:
    """What a worker ends up with whose app says nothing."""
    return worker(tmp_path_factory.mktemp("safe"), WAYS["safe"], url)


def test_worker_of_an_app_that_says_nothing_is_safe(safe: Any) -> None:
    assert safe == {
        "settings": ALWAYS,
        "attributes": ALWAYS,
        "task": [True, True],
        "prefetch": [1, 2],
        "limits": [1800, 1740],
        "classes": [
            "Consumer of celery_redis_guard.consumer",
            "TaskPool of celery_redis_guard.pool",
            "JobKeepingPool of celery_redis_guard.pool",
            "Transport of celery_redis_guard.transport",
            "AtomicFetchChannel of celery_redis_guard.transport",
            "Backend of celery_redis_guard.backend",
        ],
        "visibility": 3600,
    }


@pytest.mark.parametrize("way", [way for way in WAYS if way != "safe"])
def test_worker_is_as_safe_however_the_app_states_the_contrary(
    tmp_path: Path, url: str, safe: Any, way: str
) -> None:
    assert worker(tmp_path, WAYS[way], url) == safe


@pytest.mark.parametrize("arguments", COMMAND_LINES.values(), ids=COMMAND_LINES.keys())
def test_worker_is_as_safe_whatever_its_command_line_says(
    tmp_path: Path, url: str, safe: Any, arguments: tuple[str, ...]
) -> None:
    assert worker(tmp_path, WAYS["safe"], url, *arguments) == safe


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_worker_is_as_safe_whatever_its_environment_says(
    tmp_path: Path, url: str, safe: Any, environment: dict[str, str]
) -> None:
    assert worker(tmp_path, WAYS["safe"], url, **environment) == safe


@pytest.mark.parametrize("way", WAYS)
def test_check_passes_in_silence_what_the_worker_makes_safe(
    tmp_path: Path, url: str, way: str
) -> None:
    done = run(tmp_path, WAYS[way], ["celery_redis_guard.check_app"], url)
    assert (done.returncode, done.stdout, without_site_lines(done.stderr)) == (0, "", "")


def test_option_of_a_task_that_is_bound_early_stays_and_is_told(tmp_path: Path, url: str) -> None:
    code = WAYS["bound early"] + "@app.task(name='own', acks_late=False)\ndef own(): pass\n"
    done = run(tmp_path, code, ["celery_redis_guard.check_app"], url)
    assert (done.returncode, without_site_lines(done.stderr)) == (
        0,
        "celery-pi: own has acks_late=False: it is lost when its process is killed\n",
    )


def test_other_options_of_the_transport_are_kept(tmp_path: Path, url: str) -> None:
    code = WAYS["prefix"] + "\nfrom celery_redis_guard.app import app as guarded\n"
    script = "from celery_redis_guard.app import app; print(app.conf.broker_transport_options)"
    (tmp_path / "show.py").write_text(script)
    done = run(tmp_path, code.partition("\nfrom celery_redis_guard")[0], ["show"], url)
    assert done.stdout == "{'visibility_timeout': 3600, 'priority_steps': [0, 5]}\n"


REPLACED = {
    "a consumer": (
        CONSTRUCTED + 'app.conf.worker_consumer = "celery.worker.consumer.Consumer"',
        "worker_consumer is celery.worker.consumer.consumer.Consumer,",
    ),
    "a backend of a subclass": (
        'class Site(Celery):\n    backend_cls = "redis+socket:///run/x?virtual_host=0"\n'
        'app = Site("project", broker=URL, backend=URL)',
        "the result backend is celery.backends.redis.RedisBackend,",
    ),
    "settings": (
        CONSTRUCTED + "from celery.signals import import_modules\n"
        "@import_modules.connect\ndef replace(**_):\n"
        "    from celery.app.utils import detect_settings\n"
        "    app.conf = detect_settings({'broker_url': 'redis://', 'task_acks_late': False})",
        "task_acks_late is False, not True:",
    ),
}


@pytest.mark.parametrize(("code", "sentence"), REPLACED.values(), ids=REPLACED.keys())
def test_what_cannot_be_forced_is_refused_in_one_sentence(
    tmp_path: Path, url: str, code: str, sentence: str
) -> None:
    done = run(tmp_path, code, ["celery_redis_guard.check_app"], url)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"celery-pi: {sentence}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("setting", ["broker_read_url", "broker_write_url"])
def test_app_that_reads_or_writes_elsewhere_is_refused_without_any_url(
    tmp_path: Path, url: str, setting: str
) -> None:
    code = CONSTRUCTED + f"app.conf.{setting} = {OTHER!r}"
    done = run(tmp_path, code, ["celery_redis_guard.check_app"], url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"celery-pi: the app's {setting} is not what CELERY_BROKER_URL in its .env says; "
        "does the app read that variable?\n"
    )


def test_settings_that_celery_shows_are_the_forced_ones_and_no_password_is_among_them(
    tmp_path: Path, url: str
) -> None:
    script = (
        "from celery_redis_guard.app import app\n"
        "print(app.conf.table()['task_acks_late'])\n"
        "print(app.conf.table(), app.conf.humanize(), app.bugreport(), app.backend.as_uri(),\n"
        "      app.connection().as_uri(), app.conf.value_set_for('task_acks_late'))"
    )
    (tmp_path / "show.py").write_text(script)
    url = url.replace("socket://", "socket://celery:s3cret@")
    done = run(tmp_path, WAYS["attributes"], ["show"], url)
    assert done.stdout.startswith("True\n"), done.stderr
    assert "s3cret" not in done.stdout
    assert "redis://celery:**@%2F" in done.stdout
    assert "socket://celery:**@" in done.stdout
