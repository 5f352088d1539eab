"""Tasks: they run, come back, survive their process and Redis, and fire once a tick."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from tests.helpers.harness import APP, fsynced, in_app, pids, redis, send, wait_for
from tests.virtual_pi import VirtualPi

MEDIA = f"{APP}/media"
TICK = 5.0  # seconds, as the app's schedule says
# What jemalloc was built for; it refuses to start where the kernel's pages are larger.
PAGE = """
import ctypes, json
page, size = ctypes.c_size_t(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_size_t))
library = ctypes.CDLL("libjemalloc.so.2")
failed = library.mallctl(b"arenas.page", ctypes.byref(page), ctypes.byref(size), None, 0)
print(json.dumps([failed, page.value]))
"""


def lines(pi: VirtualPi, name: str) -> list[str]:
    return pi.run("sh", "-c", f"cat {MEDIA}/{name} 2>/dev/null || true").stdout.splitlines()


def test_task_goes_through_and_its_result_comes_back(pi: VirtualPi) -> None:
    assert send(pi, "add", 2, 40) == "42"


def test_failure_of_a_task_comes_back_as_its_error(pi: VirtualPi) -> None:
    code = (
        "from observations_nids import tasks;"
        "r = tasks.fail.delay('no nest'); r.get(timeout=60, propagate=False);"
        "print(r.state, repr(r.result))"
    )
    assert in_app(pi, code) == "FAILURE RuntimeError('no nest')"


def test_app_uses_the_broker_we_deployed(pi: VirtualPi) -> None:
    used = in_app(pi, "from observations_nids.celery import app; print(app.conf.broker_url)")
    password = pi.run("cat", "/etc/celery-pi/secrets/redis_celery_password").stdout
    assert used == f"redis://celery:{password}@127.0.0.1:6379/0"


def test_beat_fires_once_a_tick(pi: VirtualPi) -> None:
    seen = len(lines(pi, "ticks"))
    wait_for("five more ticks", lambda: len(lines(pi, "ticks")) >= seen + 5, 6 * TICK + 60)
    times = [float(line) for line in lines(pi, "ticks")[seen:]]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([TICK] * len(gaps), abs=4)


def test_beat_keeps_its_schedule_over_a_restart(pi: VirtualPi) -> None:
    sent = schedule(pi)["tick"][1]
    pi.run("systemctl", "restart", "celery-beat")
    assert sent <= schedule(pi)["tick"][1] <= sent + 3


def schedule(pi: VirtualPi) -> dict[str, tuple[str, int]]:
    """When each task was sent last, and how often."""
    read: dict[str, tuple[str, int]] = json.loads(
        pi.run("cat", "/var/lib/celery-beat/schedule").stdout
    )
    return read


def start_trace(pi: VirtualPi, name: str, seconds: float) -> str:
    """Id of a trace task that is running."""
    code = f"from observations_nids import tasks;print(tasks.trace.delay({name!r}, {seconds}).id)"
    task = in_app(pi, code)
    wait_for("the task starts", lambda: f"{task} start 1" in lines(pi, name))
    return task


def test_task_is_back_at_once_when_its_process_is_killed(pi: VirtualPi) -> None:
    main = pids(pi)["celery-worker"]
    task = start_trace(pi, "killed-child", 30)
    pi.run("pkill", "-KILL", "-P", main)
    wait_for("it runs again", lambda: f"{task} end 2" in lines(pi, "killed-child"), 150)
    assert pids(pi)["celery-worker"] == main


def test_stop_lets_the_running_task_finish(pi: VirtualPi) -> None:
    task = start_trace(pi, "stopped", 10)
    pi.run("systemctl", "stop", "celery-worker")
    assert lines(pi, "stopped") == [f"{task} start 1", f"{task} end 1"]
    pi.run("systemctl", "start", "celery-worker")


def test_queued_tasks_survive_a_killed_redis(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "celery-beat", "celery-worker")
    in_app(pi, "from observations_nids import tasks; [tasks.add.delay(n, 1) for n in range(100)]")
    wait_for("the second of everysec", lambda: fsynced(pi))
    waiting = queued(pi)  # a tick of Beat's may be among them
    assert int(waiting) >= 100
    pid = pi.run("systemctl", "show", "-P", "MainPID", "redis-server").stdout.strip()
    pi.run("kill", "-KILL", pid)
    wait_for("Redis is back", lambda: queued(pi) == waiting, 120)
    pi.run("systemctl", "start", "celery-worker", "celery-beat")
    wait_for("all are done", lambda: redis(pi, "llen", "celery") == "0", 180)


def queued(pi: VirtualPi) -> str:
    """Length of the queue, or what redis-cli says while the server is away."""
    port = ("redis-cli", "-p", "6379")
    if pi.run(*port, "ping", check=False).returncode:
        return ""
    return redis(pi, "llen", "celery")


def test_redis_listens_on_loopback_alone(pi: VirtualPi) -> None:
    listening = pi.run("ss", "-Htln", "sport = :6379").stdout.split("\n")
    addresses = {line.split()[3] for line in listening if line}
    assert addresses <= {"127.0.0.1:6379", "[::1]:6379"}
    assert "127.0.0.1:6379" in addresses


def test_redis_answers_nobody_without_the_password(pi: VirtualPi) -> None:
    said = pi.run("redis-cli", "-p", "6379", "dbsize", check=False).stdout
    assert "NOAUTH" in said


def test_worker_reports_the_pinned_versions(pi: VirtualPi) -> None:
    code = (
        "import json; from importlib.metadata import version;"
        "print(json.dumps([version(n) for n in"
        "('celery', 'redis', 'django-celery-results', 'flower')]))"
    )
    assert json.loads(in_app(pi, code)) == ["5.6.3", "8.1.0", "2.6.0", "2.2.0"]


def test_services_run_as_their_unprivileged_users(pi: VirtualPi) -> None:
    owners = {
        unit: pi.run("ps", "-o", "user=", "-p", pid).stdout.strip()
        for unit, pid in pids(pi).items()
    }
    assert owners == {
        "redis-server": "redis",
        "celery-worker": "www-data",
        "celery-beat": "www-data",
        "celery-flower": "celery-flower",
        "nginx": "root",  # which alone may open its ports; its workers are www-data
    }


def test_redis_runs_with_the_pages_of_a_pi_5(pi: VirtualPi) -> None:
    """Its kernel has pages of 16 KiB. Only arm64 is built for more than 4."""
    # Loaded any later, it may find no room for what it keeps for each thread.
    preload = ("env", "LD_PRELOAD=libjemalloc.so.2")
    failed, page = json.loads(pi.run(*preload, "python3", "-c", PAGE).stdout)
    assert failed == 0
    assert page >= (16384 if pi.platform == "linux/arm64" else 4096)
    server = pids(pi)["redis-server"]  # and not a process of its that saves, which ends
    assert "libjemalloc.so.2" in pi.run("cat", f"/proc/{server}/maps").stdout
