"""A site's sends while Redis is frozen, stopped, full or out of reach, with the lines and without.

Plain Celery as a site has it, in processes of their own that wait at the same time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_redis_guard import site_timeouts
from celery_redis_guard.forced_defaults import SHORTEST_TIMEOUT
from celery_redis_guard.site_timeouts import HANGS, SETTINGS, SOCKET_TIMEOUT, lacking, lines
from guard_process import SOURCE
from redis_server import redis_server

pytestmark = pytest.mark.fast

LIMIT = 5  # seconds within which a send ends
HANGING = 20  # seconds after which one that has not ended hangs
NAMED = {"OperationalError", "RuntimeError"}  # by README.md

SEND = """
import json, sys, time
from types import ModuleType
from celery import Celery
django = ModuleType("django_settings")
exec({lines!r}, django.__dict__)
django.CELERY_BROKER_URL = django.CELERY_RESULT_BACKEND = {url!r}
app = Celery("site")
app.config_from_object(django, namespace="CELERY")
app.amqp  # what a site has loaded long before its first request
app.backend.client
if {warm}:
    app.send_task("work", ignore_result={ignored})
print("ready", flush=True)
sys.stdin.readline()
begun, raised = time.monotonic(), ""
try:
    app.send_task("work", args=["x" * 200_000], ignore_result={ignored})
except Exception as error:
    raised = type(error).__name__
print(json.dumps([time.monotonic() - begun, raised]), flush=True)
"""
LINES = "from celery_redis_guard.site_timeouts import *"
STATES = ("frozen", "stopped", "full", "out of reach")
# State, kind of connection, with the lines, with a connection that is there, without a result.
Case = tuple[str, str, bool, bool, bool]
CASES: list[Case] = [
    (state, kind, with_lines, warm, ignored)
    for state in STATES
    for kind in ("tcp", "unix")
    for with_lines in (True, False)
    for warm in (True, False)
    for ignored in (True, False)
    if with_lines or not ignored
    # Who has a connection is out of reach like a Redis that is frozen. A unix socket whose queue is
    # full is a limit of redis-py below 8: README.md.
    if not (state == "out of reach" and (warm or kind == "unix"))
    if not (state == "full" and not with_lines)
]
IDS = [
    f"{state}, {kind}, {'with' if with_lines else 'without'} the lines, "
    f"{'warm' if warm else 'new'}, {'ignored' if ignored else 'kept'}"
    for state, kind, with_lines, warm, ignored in CASES
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def broken_redis(state: str, kind: str) -> Iterator[tuple[str, Any]]:
    """URL of a Redis, and a function that brings it into that state."""
    port = free_port()
    with redis_server(port) as (redis, place), ExitStack() as held:
        url = f"redis://127.0.0.1:{port}/0" if kind == "tcp" else f"redis+{place}"
        information: Any = redis.info()
        pid = int(information["process_id"])

        def stop() -> None:
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(OSError):  # noqa: PT011, PT012  # refused, once it has ended
                while True:
                    socket.create_connection(("127.0.0.1", port)).close()
                    time.sleep(0.05)

        def break_it() -> None:
            if state == "frozen":
                os.kill(pid, signal.SIGSTOP)
            elif state == "full":
                redis.config_set("maxmemory", 1)
            else:
                stop()
            if state == "out of reach":  # its kernel drops what asks for a connection
                listener = held.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen(0)
                for _ in range(4):
                    waiting = held.enter_context(socket.socket())
                    waiting.setblocking(False)
                    waiting.connect_ex(("127.0.0.1", port))

        yield url, break_it


Sends = dict[Case, subprocess.Popen[str]]
Outcomes = dict[Case, tuple[float, str] | None]


def begin(held: ExitStack, cases: list[Case]) -> Sends:
    """A process for each of the cases, all of which send to a Redis that is broken by now."""
    sends: Sends = {}
    breaks = []
    for place in dict.fromkeys(case[:2] for case in cases):
        url, break_it = held.enter_context(broken_redis(*place))
        breaks.append(break_it)
        for case in cases:
            _, _, with_lines, warm, ignored = case
            if case[:2] != place:
                continue
            code = SEND.format(
                lines=LINES if with_lines else "", url=url, warm=warm, ignored=ignored
            )
            sends[case] = subprocess.Popen(
                [sys.executable, "-c", code],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            held.callback(sends[case].kill)
    for send in sends.values():
        assert send.stdout
        assert send.stdout.readline() == "ready\n"
    for break_it in breaks:
        break_it()
    for send in sends.values():
        assert send.stdin
        send.stdin.write("\n")
        send.stdin.flush()
    return sends


def end(sends: Sends, seconds: float) -> Outcomes:
    """Seconds of each send, and the class of what it raised; None if it still waits by then."""
    deadline = time.monotonic() + seconds
    found: Outcomes = {}
    for case, send in sends.items():
        assert send.stdout
        left = max(0, deadline - time.monotonic())
        has_ended = select.select([send.stdout], [], [], left)[0]
        said = send.stdout.readline() if has_ended else ""
        found[case] = tuple(json.loads(said)) if said else None
    return found


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """The controls wait all the while, the others a state at a time: a host has few processors."""
    with ExitStack() as held:
        controls = begin(held, [case for case in CASES if not case[2]])
        hanging_at = time.monotonic() + HANGING
        found: Outcomes = {}
        for state in STATES:
            cases = [case for case in CASES if case[2] and case[0] == state]
            found |= end(begin(held, cases), 2 * LIMIT)
        return found | end(controls, max(0, hanging_at - time.monotonic()))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_send_ends_in_time_with_the_lines_and_a_frozen_redis_holds_it_without(
    outcomes: Outcomes, case: Case
) -> None:
    state, _, with_lines, _, _ = case
    outcome = outcomes[case]
    if with_lines:
        assert outcome is not None, "it hangs"
        seconds, raised = outcome
        assert seconds < LIMIT
        assert raised in NAMED
    elif state != "stopped":  # which Celery itself gives up, after 20 s
        assert outcome is None, "the control"


# -- the names


def configured(namespace: str | None) -> dict[str, Any]:
    names = {name: getattr(site_timeouts, name) for name in site_timeouts.__all__}
    app = Celery("site", set_as_current=False)
    app.config_from_object(SimpleNamespace(**names), namespace=namespace)
    return {key: app.conf[key] for key in SETTINGS}


@pytest.mark.parametrize("namespace", ["CELERY", None], ids=["namespace", "old names"])
def test_one_import_sets_all_by_new_and_by_old_names(namespace: str | None) -> None:
    assert configured(namespace) == SETTINGS


def test_names_without_a_prefix_are_there_too() -> None:
    app = Celery("site", set_as_current=False)
    app.config_from_object(
        SimpleNamespace(**{key: getattr(site_timeouts, key) for key in SETTINGS})
    )
    assert {key: app.conf[key] for key in SETTINGS} == SETTINGS


# -- what is told


DEFAULTS = {key: Celery("site", set_as_current=False).conf[key] for key in SETTINGS}


def test_celerys_defaults_lack_all_and_the_lines_nothing() -> None:
    assert lacking(DEFAULTS) == list(SETTINGS)
    assert lacking(SETTINGS) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("broker_transport_options", {"socket_timeout": 1}),
        ("broker_transport_options", {"socket_timeout": 60, "socket_connect_timeout": 1}),
        ("redis_socket_timeout", None),
        ("redis_socket_connect_timeout", 0),
        ("result_backend_transport_options", {"retry_policy": {"interval_max": 1}}),
        ("result_backend_transport_options", {"retry_policy": {"timeout": 60}}),
        ("task_publish_retry_policy", {"max_retries": None}),
    ],
)
def test_each_is_told_by_itself(key: str, value: Any) -> None:
    assert lacking({**SETTINGS, key: value}) == [key]


@pytest.mark.parametrize("prefix", ["", "CELERY_", "SITE_"])
def test_lines_that_are_told_are_the_lines_that_help(prefix: str) -> None:
    """Run as Python, behind what the app has said before, which stays."""
    stated = {**DEFAULTS, "broker_transport_options": {"global_keyprefix": "birds:"}}
    app = SimpleNamespace(conf=SimpleNamespace(**stated))
    said: dict[str, Any] = {"app": app}
    said.update({f"{prefix}{key.upper()}": value for key, value in stated.items()})
    exec("\n".join(lines(list(SETTINGS), stated, prefix)), said)  # noqa: S102
    result = {
        key: said[f"{prefix}{key.upper()}"] if prefix else getattr(app.conf, key)
        for key in SETTINGS
    }
    assert lacking(result) == []
    assert result["broker_transport_options"].pop("global_keyprefix") == "birds:"
    assert result == SETTINGS


# -- the processes that should wait


PROJECT = """
import os, time
from types import ModuleType
from celery import Celery
from celery_redis_guard.site_timeouts import SETTINGS
django = ModuleType("django_settings")
django.CELERY_BROKER_URL = django.CELERY_RESULT_BACKEND = os.environ["CELERY_BROKER_URL"]
if os.environ.get("LINES"):
    exec("from celery_redis_guard.site_timeouts import *", django.__dict__)
app = Celery("project")
app.config_from_object(django, namespace="CELERY")
@app.task(name="rest")
def rest(seconds):
    time.sleep(seconds)
    return seconds
@app.task(name="conf")
def conf():
    policy = dict(app.conf.task_publish_retry_policy)
    policy.pop("errback", None)
    return {key: app.conf[key] for key in SETTINGS} | {"task_publish_retry_policy": policy}
"""
WORKER = ("worker", "-c1", "--without-mingle", "--without-gossip", "-l", "INFO")


class Site:
    """An app whose settings have the lines."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        (directory / "project.py").write_text(PROJECT)
        self.environment = {
            **{"PATH": os.environ["PATH"], "PYTHONPATH": f"{directory}:{SOURCE}"},
            **{"CELERY_PI_APP": "project", "CELERY_PI_QUEUES": "celery"},
            **{"CELERY_PI_TIME_LIMIT": "1800", "CELERY_PI_LONGEST_COUNTDOWN": "0"},
            **{"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url, "LINES": "1"},
        }

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            env={**self.environment, **environment},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def worker(self, module: str, **environment: str) -> Iterator[None]:
        with (self.directory / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", module, *WORKER],
                env={**self.environment, **environment},
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def ask(self) -> Any:
        code = "import project, json; print(json.dumps(project.conf.delay().get(timeout=30)))"
        done = self.run("-c", code, LINES="")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def log(self) -> str:
        return (self.directory / "log").read_text()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with redis_server() as (_, place):
        yield Site(tmp_path, f"redis+{place}")


@pytest.mark.parametrize(
    ("module", "guard"),
    [("project", ""), ("celery_redis_guard.app", "off"), ("celery_redis_guard.app", "on")],
    ids=["of plain Celery", "that is plain", "that is guarded"],
)
def test_worker_that_has_nothing_to_do_for_longer_than_the_timeout_keeps_its_connection(
    site: Site, module: str, guard: str
) -> None:
    with site.worker(module, CELERY_PI_WORKER_GUARD=guard):
        site.ask()
        time.sleep(4 * SOCKET_TIMEOUT)
        settings = site.ask()
    assert "onnection to broker lost" not in site.log()
    assert "Timeout" not in site.log()
    if module == "project":
        assert settings == SETTINGS, "the control"
    else:
        assert settings["broker_transport_options"] == {"visibility_timeout": 3600}
        assert settings["result_backend_transport_options"] == {}
        assert settings["redis_socket_timeout"] >= SHORTEST_TIMEOUT
        assert settings["redis_socket_connect_timeout"] is None
    retries = settings["task_publish_retry_policy"]["max_retries"]
    assert (retries > 1) == (guard == "on"), "its tasks' own sends wait as well"


@pytest.mark.parametrize("limit", ["", "timeout=30"], ids=["for ever", "for a time"])
def test_site_that_awaits_a_result_for_longer_than_the_timeout_gets_it(
    site: Site, limit: str
) -> None:
    with site.worker("project"):
        code = f"import project; print(project.rest.delay({3 * SOCKET_TIMEOUT}).get({limit}))"
        done = site.run("-c", code)
    assert (done.returncode, float(done.stdout)) == (0, 3 * SOCKET_TIMEOUT), done.stderr


def test_check_names_what_lacks_with_the_lines_and_is_silent_with_them(site: Site) -> None:
    done = site.run("-m", "celery_redis_guard.check_app", LINES="", CELERY_PI_WORKER_GUARD="on")
    assert done.returncode == 0
    said = done.stderr.splitlines()
    assert HANGS in said[0]
    assert said[1:] == [f"celery-pi: {line}" for line in lines(list(SETTINGS), DEFAULTS, "CELERY_")]
    done = site.run("-m", "celery_redis_guard.check_app", CELERY_PI_WORKER_GUARD="on")
    assert (done.returncode, done.stderr) == (0, "")
