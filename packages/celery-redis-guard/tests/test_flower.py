"""Flower as its unit runs it: a worker's page, and the lengths of queues by a unix socket."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from guard_process import GUARDED, SOURCE
from redis_server import redis_server

pytestmark = pytest.mark.fast

LOGIN = base64.b64encode(b"me:its password, a:b").decode()
PREFIX = "birds:"
PROJECT = """
import os
from celery import Celery
URL = os.environ["CELERY_BROKER_URL"]
app = Celery("project", broker=URL, backend=URL)
prefix = {"global_keyprefix": os.environ["CELERY_KEY_PREFIX"]}
app.conf.update(broker_transport_options=prefix, result_backend_transport_options=prefix)
@app.task(name="work")
def work(): pass
"""


class Site:
    """A worker, and Flower on a unix socket."""

    def __init__(self, directory: Path, place: str) -> None:
        self.directory = directory
        url = f"redis+{place}"
        (directory / "project.py").write_text(PROJECT)
        self.environment = {
            **{"PATH": os.environ["PATH"], "PYTHONPATH": f"{directory}:{SOURCE}", **GUARDED},
            **{"CELERY_PI_APP": "project", "CELERY_PI_QUEUES": "celery,other"},
            **{"CELERY_PI_TIME_LIMIT": "1800", "CELERY_PI_LONGEST_COUNTDOWN": "0"},
            **{"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url},
            **{"CELERY_KEY_PREFIX": PREFIX, "CELERY_PI_FLOWER_LOGIN": LOGIN},
            **{"FLOWER_DB": str(directory / "state"), "FLOWER_PERSISTENT": "true"},
            **{"FLOWER_UNIX_SOCKET": str(directory / "flower"), "FLOWER_URL_PREFIX": "flower"},
            **{"FLOWER_ENABLE_EVENTS": "false", "FLOWER_INSPECT_TIMEOUT": "5000"},
        }

    @contextmanager
    def program(self, *words: str) -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *words],
            env=self.environment,
            cwd=self.directory,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        connection = HTTPConnection("flower", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.directory / "flower"))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"/flower/{path}", headers=named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def page(self, path: str, **headers: str) -> str:
        status, text = self.ask(path, Authorization=f"Basic {LOGIN}", **headers)
        assert status == 200, text
        return text

    def run(self, code: str) -> str:
        command = [sys.executable, "-c", f"from project import *; {code}"]
        done = subprocess.run(
            command, env=self.environment, check=True, timeout=60, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.strip()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with TemporaryDirectory(prefix="guard-") as directory, redis_server() as (_, place):
        made = Site(Path(directory), place)
        with made.program("-A", "celery_redis_guard.flower", "flower"):
            wait_for((made.directory / "flower").exists)
            yield made


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_is_shown_without_the_login(site: Site) -> None:
    for path in ("", "broker", "api/queues/length", "worker/one@site"):
        assert site.ask(path)[0] == 401


def test_lengths_of_queues_count_every_priority(site: Site) -> None:
    for priority in (0, 3, 9):
        site.run(f"work.apply_async(queue='other', priority={priority})")
    assert json.loads(site.page("api/queues/length"))["active_queues"] == [
        {"name": "celery", "messages": 0},
        {"name": "other", "messages": 3},
    ]
    assert re.search(r"<td>other</td>\s*<td[^>]*>3</td>", site.page("broker"))


def test_worker_that_has_only_just_started_has_a_page(site: Site) -> None:
    page = "worker/one@site"
    assert site.ask(page, Authorization=f"Basic {LOGIN}")[0] == 404
    with site.program("-A", "celery_redis_guard.app", "worker", "-c1", "-n", "one@site"):
        wait_for(lambda: site.run("print(len(app.control.ping()))") == "1")
        assert "Max concurrency" in site.page(page)
