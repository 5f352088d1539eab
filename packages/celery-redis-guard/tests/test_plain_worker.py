"""A plain worker goes on when Redis restarts, with every set: that of celery 5.7.0 alone ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis import Redis

from guard_process import SOURCE
from redis_server import started

pytestmark = pytest.mark.fast

PROJECT = """
import os, time
from celery import Celery
URL = os.environ["CELERY_BROKER_URL"]
app = Celery("project", broker=URL, backend=URL)
@app.task(name="work")
def work(name, seconds):
    open(name, "a").close()
    time.sleep(seconds)
    open(name + " end", "a").close()
"""
OPTIONS = ("--port", "0", "--appendonly", "yes", "--appendfsync", "always")


def test_plain_worker_goes_on_when_redis_is_killed_while_a_task_runs(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    with TemporaryDirectory(prefix="guard-") as directory:  # a socket's path must be short
        socket = Path(directory, "redis.sock")
        url = f"redis+socket://{socket}?virtual_host=0"
        environment = {
            **{"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{SOURCE}"},
            **{"CELERY_PI_APP": "project", "CELERY_PI_QUEUES": "celery"},
            **{"CELERY_PI_TIME_LIMIT": "1800", "CELERY_PI_LONGEST_COUNTDOWN": "0"},
            **{"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url},
            "CELERY_PI_WORKER_GUARD": "off",
        }

        def send(name: str, seconds: int) -> None:
            code = f"from project import work; work.delay({name!r}, {seconds})"
            subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)

        with started(socket, *OPTIONS):
            command = ("celery", "-A", "celery_redis_guard.app", "worker", "-c2")
            worker = subprocess.Popen(
                [sys.executable, "-m", *command, "--without-mingle"],
                env=environment,
                cwd=tmp_path,
                start_new_session=True,
            )
            send("running", 6)
            wait_for((tmp_path / "running").exists)
        try:
            with started(socket, *OPTIONS):
                send("after", 0)
                wait_for((tmp_path / "after end").exists)
                wait_for((tmp_path / "running end").exists)
                time.sleep(1)  # it acknowledges the task by the connection that was lost
                assert worker.poll() is None
                assert Redis(unix_socket_path=str(socket)).llen("celery") == 0
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
