"""On the deployed worker no task takes another with it, nor the worker.

More of them are in the package's own tests, in a module of the same name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, in_app, redis, restarts, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

TASKS = f"{APP}/observations_nids/tasks.py"
HARMLESS = 20
WITHIN = 30  # seconds
BACK_WITHIN = 5  # seconds
LOST = "its process was lost 4 times"
HARM = """

@shared_task
def harm(code: str) -> object:
    import ctypes, os, signal, sys, threading
    return eval(code, {**globals(), **locals()})
"""
# Those that take seconds with the deployed time limits.
HARMS = {
    "sys.exit(3)": "SystemExit",
    "[].__class__([0]) * 10**15": "",
    "ctypes.string_at(0)": LOST,
    "os._exit(3)": LOST,
    "os.closerange(3, 4096)": "",
    "threading.Lock()": "not JSON serializable",
}


@pytest.fixture(scope="module", autouse=True)
def app(pi: VirtualPi) -> Iterator[None]:
    """The owner's app has a task that does harm."""
    pi.run("sh", "-c", f"cp -p {TASKS} {TASKS}.kept && cat >>{TASKS}", input=HARM.encode())
    pi.run("systemctl", "stop", "celery-beat")
    pi.run("systemctl", "restart", "celery-worker", timeout=60)
    yield
    pi.run("mv", f"{TASKS}.kept", TASKS)
    redis(pi, "del", "set-aside")
    pi.run("systemctl", "restart", "celery-worker", timeout=60)
    pi.run("systemctl", "start", "celery-beat")


def main_pid(pi: VirtualPi) -> int:
    return int(pi.run("systemctl", "show", "-P", "MainPID", "celery-worker").stdout)


def is_up(pi: VirtualPi) -> bool:
    return pi.run("systemctl", "is-active", "celery-worker", check=False).stdout == "active\n"


def send(pi: VirtualPi, harm: str, times: int) -> tuple[list[str], list[str]]:
    code = (
        "from observations_nids import tasks; import json; print(json.dumps(["
        f"[tasks.harm.delay({harm!r}).id for _ in range({times})], "
        f"[tasks.add.delay(1, 1).id for _ in range({HARMLESS})]]))"
    )
    bad, good = json.loads(in_app(pi, code).splitlines()[-1])
    return bad, good


def results(pi: VirtualPi, tasks: list[str]) -> list[str]:
    """Of those that have ended, as JSON text."""
    kept = redis(pi, "mget", *(f"celery-task-meta-{task}" for task in tasks)).splitlines()
    return [text for text in kept if text and '"status": "STARTED"' not in text]


def are_done(pi: VirtualPi, tasks: list[str]) -> bool:
    return len(results(pi, tasks)) == len(tasks)


@pytest.mark.parametrize("harm", HARMS)
def test_harmful_task_costs_itself_alone(pi: VirtualPi, harm: str) -> None:
    before = restarts(pi)
    bad, good = send(pi, harm, times=3)
    wait_for("the harmless ones are done", lambda: are_done(pi, good), WITHIN)
    wait_for("it has failed", lambda: are_done(pi, bad), 120)
    assert [text for text in results(pi, bad) if HARMS[harm] not in text] == []
    assert restarts(pi) == before


def test_message_that_is_no_task_is_a_dead_letter(pi: VirtualPi) -> None:
    before, letters = restarts(pi), int(redis(pi, "llen", "set-aside"))
    for _ in range(3):
        redis(pi, "lpush", "celery", "garbage")
    _, good = send(pi, "0", times=1)
    wait_for("the harmless ones are done", lambda: are_done(pi, good), WITHIN)
    assert int(redis(pi, "llen", "set-aside")) == letters + 3
    assert "no task: 'garbage'" in pi.run("celery-pi", "dead-letters", check=False).stdout
    assert restarts(pi) == before


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_worker_that_a_task_ends_is_back(pi: VirtualPi, name: str) -> None:
    before = restarts(pi)
    main = main_pid(pi)
    _, good = send(pi, f"os.kill(os.getppid(), signal.{name})", times=1)
    wait_for("another main process", lambda: main_pid(pi) not in (main, 0), 10)
    wait_for("it is up", lambda: is_up(pi), BACK_WITHIN)
    wait_for("the harmless ones are done", lambda: are_done(pi, good), WITHIN)
    assert restarts(pi) > before
