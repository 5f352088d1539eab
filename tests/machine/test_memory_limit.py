"""At the memory limit the worker does all of its work, and nobody can begin new work."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, deploy, in_app, prove, redis, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

WATCH = "/usr/local/lib/celery-pi/redis-memory"
FULL = "1mb"  # less than an empty server takes: full, whatever is evicted

# The app as the services load it.
AS_SERVICE = """
import os, sys
from dotenv import load_dotenv
load_dotenv(".env")
os.environ["CELERY_PI_APP"] = "observations_nids"
sys.path.append("/usr/local/lib/celery-pi/guard")
from celery_redis_guard.app import app
from observations_nids.tasks import trace
"""


@pytest.fixture(autouse=True)
def limit(pi: VirtualPi) -> Iterator[None]:
    """The deployed limit, policy and services come back."""
    maxmemory = redis(pi, "config", "get", "maxmemory").split()
    policy = redis(pi, "config", "get", "maxmemory-policy").split()
    pi.run("sh", "-c", f"rm -f {APP}/media/full-*")
    yield
    redis(pi, "config", "set", *maxmemory, *policy)
    pi.run("systemctl", "start", "celery-worker", "celery-beat")


def test_task_of_a_killed_worker_comes_back(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "celery-beat")  # whose tick would be in hand too
    wait_for("nothing is in hand", lambda: redis(pi, "exists", "celery", "unacked") == "0")
    code = "from observations_nids.tasks import trace; print(trace.delay('full-killed', 15).id)"
    task = in_app(pi, code)
    wait_for("it runs", lambda: lines(pi, "full-killed"))
    # In one go: the next worker would put it back.
    stop = "systemctl kill --signal=KILL celery-worker; systemctl stop celery-worker"
    pi.run("sh", "-c", stop)
    (tag,) = redis(pi, "zrange", "unacked_index", "0", "-1").split()
    redis(pi, "zadd", "unacked_index", "0", tag)  # so long ago that its time is over
    redis(pi, "config", "set", "maxmemory", FULL)
    pi.run("systemctl", "start", "celery-worker", timeout=120)
    wait_for("it has run again", lambda: len(lines(pi, "full-killed")) == 3, 90)
    assert lines(pi, "full-killed") == [f"{task} start 1", f"{task} start 2", f"{task} end 2"]
    wait_for("it is acknowledged", lambda: redis(pi, "exists", "unacked", "unacked_index") == "0")


def test_task_whose_process_is_killed_comes_back(pi: VirtualPi) -> None:
    main = pi.run("systemctl", "show", "-P", "MainPID", "celery-worker").stdout.strip()
    code = "from observations_nids.tasks import trace; print(trace.delay('full-child', 15).id)"
    task = in_app(pi, code)
    wait_for("it runs", lambda: lines(pi, "full-child"))
    redis(pi, "config", "set", "maxmemory", FULL)
    pi.run("pkill", "-KILL", "-P", main)
    wait_for("it has run again", lambda: f"{task} end 2" in lines(pi, "full-child"), 90)


def test_small_result_is_kept_and_a_large_one_only_told_to_who_waits(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "celery-worker")
    redis(pi, "config", "set", "maxmemory-policy", "noeviction")
    begin = f"redis-cli admin config set maxmemory {FULL} && systemctl start celery-worker"
    sent = f"until [ -e {APP}/media/full-sent ]; do sleep 0.2; done"
    pi.run("sh", "-c", f"({sent}; /usr/local/lib/celery-pi/{begin}) >/dev/null 2>&1 &")
    code = (
        "from observations_nids.tasks import add; from celery.result import AsyncResult as R\n"
        "large, small = add.delay('x' * 5000, ''), add.delay(1, 2)\n"
        "open('media/full-sent', 'w').close()\n"
        "print(len(large.get(timeout=90)), small.get(timeout=90))\n"
        "print(R(large.id).state, R(small.id).result, large.id)"
    )
    size, total, state, result, large = in_app(pi, code).split()
    assert (size, total, state, result) == ("5000", "3", "PENDING", "3")
    said = pi.run("journalctl", "-q", "-o", "cat", "-u", "celery-worker").stdout
    assert f"is not kept (celery-task-meta-{large})" in said


def test_new_task_is_refused_and_a_retry_and_a_reply_are_not(pi: VirtualPi) -> None:
    redis(pi, "config", "set", "maxmemory", FULL)
    code = (
        "try: trace.delay('full-new')\n"
        "except Exception as error: print(type(error).__name__)\n"
        "trace.apply_async(('full-retry',), retries=1)\n"
        "print(len(app.control.ping(timeout=5)))"
    )
    assert in_app(pi, AS_SERVICE + code).split() == ["OperationalError", "1"]
    wait_for("the retry runs", lambda: len(lines(pi, "full-retry")) == 2)
    assert lines(pi, "full-new") == []


def test_journal_is_told_once_that_memory_fills_and_once_that_it_is_well(pi: VirtualPi) -> None:
    pi.run("sed", "-i.kept", "s/^pause=[0-9]*/pause=0.2/", WATCH)
    pi.run("systemctl", "restart", "redis-memory")
    cursor = said(pi, "-n", "0", "--show-cursor")[-1].removeprefix("-- cursor: ")
    used = redis(pi, "info", "memory").splitlines()[1].partition(":")[2]
    redis(pi, "config", "set", "maxmemory", str(int(used) * 5 // 4))

    def told(*more: str) -> list[str]:
        return [line for line in said(pi, "--after-cursor", cursor, *more) if "celery-pi:" in line]

    wait_for("it is told", told)
    time.sleep(3)  # in which it could be told again
    redis(pi, "config", "set", "maxmemory", "256mb")
    wait_for("that all is well is told", lambda: len(told()) > 1)
    time.sleep(2)
    pi.run("mv", f"{WATCH}.kept", WATCH)
    warning, everything = told("-p", "warning"), told()
    pi.run("systemctl", "restart", "redis-memory")
    assert len(everything) == 2
    assert warning == everything[:1]
    assert "when they are full, new tasks are refused" in warning[0]


def test_all_is_well_afterwards(pi: VirtualPi) -> None:
    assert "SUCCESS" in prove(pi)
    assert deploy(pi).changed == set()


def said(pi: VirtualPi, *arguments: str) -> list[str]:
    """Lines in the journal of the watch over the memory."""
    command = ("journalctl", "-q", "-o", "cat", "-u", "redis-memory", *arguments)
    return pi.run(*command).stdout.splitlines()


def lines(pi: VirtualPi, name: str) -> list[str]:
    """What a trace task has written down."""
    return pi.run("sh", "-c", f"cat {APP}/media/{name} 2>/dev/null || true").stdout.splitlines()
