"""Guarded or plain, by the installed versions and the owner's choice; a plain worker as a service.

An artificial version of Celery is one whose metadata, which come first on the path, say so.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from celery_redis_guard.mode import CHOICES, NOT_PROMISED, decide
from celery_redis_guard.site_timeouts import HANGS
from celery_redis_guard.tested_sets import TESTED_SETS, PackageSet
from guard_process import SOURCE
from redis_server import redis_server

pytestmark = pytest.mark.fast

TESTED = next(iter(TESTED_SETS.values()))
UNKNOWN = TESTED._replace(celery="99.0.0")
ONE_OFF = [TESTED._replace(**{name: "0.0.1"}) for name in PackageSet._fields]
WATCHDOG = 30_000_000  # microseconds

PROJECT = """
import os, sys
from celery import Celery
URL = os.environ["CELERY_BROKER_URL"]
app = Celery("project", broker=URL, backend=URL)
app.conf.beat_schedule = {"often": {"task": "state", "schedule": 0.5}}
{code}
@app.task(name="state")
def state():
    conf = app.conf
    loaded = [name for name in sys.modules if name.startswith(("celery_redis", "celeryredis"))]
    return {
        "classes": [conf.worker_pool, conf.worker_consumer, conf.beat_scheduler],
        "broker": conf.broker_url.partition("/")[0],
        "safe": [state.acks_late, state.reject_on_worker_lost, conf.worker_prefetch_multiplier],
        "deduplicates": conf.worker_deduplicate_successful_tasks,
        "limits": [conf.task_time_limit, conf.broker_transport_options["visibility_timeout"]],
        "loaded": loaded,
    }
"""


# -- the decision


@pytest.mark.parametrize("versions", TESTED_SETS.values(), ids=TESTED_SETS.keys())
def test_tested_set_is_guarded_unless_the_owner_says_off(versions: PackageSet) -> None:
    assert [decide(choice, versions).guarded for choice in CHOICES] == [True, True, False]


@pytest.mark.parametrize("versions", ONE_OFF, ids=PackageSet._fields)
def test_set_with_one_other_version_is_plain_unless_the_owner_says_on(versions: PackageSet) -> None:
    assert [decide(choice, versions).guarded for choice in CHOICES] == [False, True, False]


def test_plain_set_is_told_with_its_versions_and_what_is_not_promised() -> None:
    told = decide("auto", UNKNOWN).sentence
    assert "celery 99.0.0" in told
    assert told.endswith(NOT_PROMISED)
    assert decide("off", TESTED).sentence.endswith(NOT_PROMISED)
    assert NOT_PROMISED not in decide("on", UNKNOWN).sentence


# -- the processes


class Site:
    """An app with its Redis, whose services run as the units run them, before a fake systemd."""

    def __init__(self, directory: Path, redis: Redis, place: str) -> None:
        self.directory, self.redis = directory, redis
        self.write()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "notify"))
        self.socket.settimeout(0.05)
        self.told = ""
        url = f"redis+{place}"
        self.environment = {
            **{"PATH": os.environ["PATH"], "PYTHONPATH": f"{directory}:{SOURCE}"},
            **{"CELERY_PI_APP": "project", "CELERY_PI_QUEUES": "celery"},
            **{"CELERY_PI_TIME_LIMIT": "1800", "CELERY_PI_LONGEST_COUNTDOWN": "0"},
            **{"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url},
            **{"NOTIFY_SOCKET": str(directory / "notify"), "WATCHDOG_USEC": str(WATCHDOG)},
        }

    def write(self, code: str = "") -> None:
        (self.directory / "project.py").write_text(PROJECT.replace("{code}", code))

    def pretend(self, versions: PackageSet | None) -> None:
        """Have the installed packages these versions, or their own again."""
        for name in PackageSet._fields:
            info = self.directory / f"{name}-0.dist-info"
            if versions is None:
                (info / "METADATA").unlink(missing_ok=True)
            else:
                info.mkdir(exist_ok=True)
                text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {getattr(versions, name)}\n"
                (info / "METADATA").write_text(text)
            if versions is None and info.exists():
                info.rmdir()

    def run(self, *program: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-B", "-m", *program],
            env={**self.environment, **environment},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def service(self, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        self.told = ""
        with (self.directory / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-B", "-m", "celery", "-A", "celery_redis_guard.app", *words],
                env={**self.environment, **environment},
                cwd=self.directory,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            self.wait_for("READY=1")
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def wait_for(self, words: str) -> None:
        """Until systemd has been told that."""
        deadline = time.monotonic() + 30
        while words not in self.told:
            assert time.monotonic() < deadline, (self.told, (self.directory / "log").read_text())
            try:
                self.told += self.socket.recv(4096).decode() + "\n"
            except TimeoutError:
                continue

    def state(self) -> dict[str, Any]:
        """What a task on the worker finds."""
        code = "import json; from celery_redis_guard.app import app; app.finalize();" + (
            "print(json.dumps(app.tasks['state'].delay().get(timeout=20)))"
        )
        script = self.directory / "ask.py"
        script.write_text(code)
        done = self.run("ask", CELERY_PI_WORKER_GUARD="off")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


WORKER = ("worker", "-c1", "--without-mingle", "--without-gossip", "-l", "INFO")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with redis_server() as (redis, place):
        yield Site(tmp_path, redis, place)


def alive(site: Site) -> list[Any]:
    channels: Any = site.redis.pubsub_channels("celery-pi.alive.*")
    return list(channels)


def within(seconds: float, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_worker_of_an_unknown_set_is_plain_and_safe_and_told(site: Site) -> None:
    site.pretend(UNKNOWN)
    with site.service(*WORKER):
        state = site.state()
        assert len(alive(site)) == 1
        site.wait_for("WATCHDOG=1")
    loaded = state.pop("loaded")
    assert state == {
        "classes": [
            *("prefork", "celery.worker.consumer:Consumer"),
            "celery_redis_guard.plain:PlainScheduler",
        ],
        "broker": "redis+socket:",
        "safe": [True, True, 1],
        "deduplicates": False,
        "limits": [1800, 3600],
    }
    assert not {f"celery_redis_guard.{name}" for name in UNTRIED} & {*loaded}
    assert "celeryredisguard" not in loaded
    assert f"STATUS={decide('auto', UNKNOWN).sentence}; {HANGS}\n" in site.told
    assert (site.directory / "log").read_text().count(decide("auto", UNKNOWN).sentence) == 1


UNTRIED = ("transport", "backend", "pool", "consumer", "ownership", "liveness", "oom_exempt")


@pytest.mark.parametrize("versions", [TESTED, UNKNOWN], ids=["tested", "chosen"])
def test_worker_of_a_tested_set_or_of_one_that_the_owner_chose_is_guarded(
    site: Site, versions: PackageSet
) -> None:
    """The control of the test above: the same site, the same artificial versions."""
    site.pretend(versions)
    with site.service(*WORKER, CELERY_PI_WORKER_GUARD="auto" if versions == TESTED else "on"):
        state = site.state()
        assert len(alive(site)) == 1
    assert state["classes"][0] == "celeryredisguard:TaskPool"
    assert state["deduplicates"] is True
    assert {f"celery_redis_guard.{name}" for name in UNTRIED} <= {*state["loaded"]}
    assert "STATUS=guarded" in site.told


def test_worker_is_plain_by_choice_and_guarded_again_by_the_next_start(site: Site) -> None:
    site.pretend(TESTED)
    kinds = []
    for choice in ("off", "auto"):
        with site.service(*WORKER, CELERY_PI_WORKER_GUARD=choice):
            kinds.append(site.state()["classes"][0])
    assert kinds == ["prefork", "celeryredisguard:TaskPool"]


def test_choice_that_is_none_ends_the_worker_in_one_sentence(site: Site) -> None:
    done = site.run(
        "celery", "-A", "celery_redis_guard.app", *WORKER, CELERY_PI_WORKER_GUARD="perhaps"
    )
    assert done.returncode
    assert "CELERY_PI_WORKER_GUARD must be one of auto, on, off" in done.stderr


def test_plain_worker_that_reconnects_is_given_time_and_then_watched_again(site: Site) -> None:
    site.pretend(UNKNOWN)
    with site.service(*WORKER) as process:
        site.state()
        site.told = ""
        site.redis.client_kill_filter(_type="normal", skipme=True)
        site.wait_for("WATCHDOG_USEC=3600000000")
        site.wait_for(f"WATCHDOG_USEC={WATCHDOG}")
        within(10, lambda: alive(site))
        assert site.state()["safe"] == [True, True, 1]
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_check_tells_a_plain_set_and_passes_and_refuses_what_it_refused_before(site: Site) -> None:
    site.pretend(UNKNOWN)
    done = site.run("celery_redis_guard.check_app")
    assert done.returncode == 0
    assert done.stderr.startswith(f"celery-pi: {decide('auto', UNKNOWN).sentence}\n")
    site.write("app.conf.worker_pool = 'solo'")
    done = site.run("celery_redis_guard.check_app")
    assert done.returncode == 1
    assert "worker_pool is solo" in done.stderr


def test_plain_beat_keeps_a_file_of_its_own_and_sends(site: Site) -> None:
    guarded = site.directory / "schedule"
    guarded.write_text('{"often": ["2026-03-01T12:00:00+00:00", 7]}')
    before = guarded.read_bytes()
    site.pretend(UNKNOWN)
    run = "import sys; from celery_redis_guard import beat; beat.STATE = '.'"
    (site.directory / "sitecustomize.py").write_text(run)
    with site.service("beat", "--schedule", str(guarded), "--pidfile="):
        within(15, lambda: site.redis.llen("celery"))
    assert guarded.read_bytes() == before
    assert list(site.directory.glob("schedule.plain*"))
    assert "STATUS=plain Celery" in site.told


def test_site_of_an_upgrade_that_breaks_our_classes_has_a_worker(site: Site) -> None:
    """kombu's channel is another: a guarded worker could not even be imported."""
    (site.directory / "sitecustomize.py").write_text(
        "from kombu.transport import redis\nredis.QoS = None\n"
    )
    site.pretend(UNKNOWN)
    done = site.run("celery_redis_guard.check_app", CELERY_PI_WORKER_GUARD="on")
    assert done.returncode == 1, "the control"
    done = site.run("celery_redis_guard.check_app")
    assert done.returncode == 0, done.stderr


def test_nothing_but_the_standard_library_is_needed_to_ask() -> None:
    """A deploy asks, on a machine that need not have Celery."""
    code = "import sys, celery_redis_guard.mode; print('celery' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
