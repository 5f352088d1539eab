"""Memory runs full of tasks: senders get errors, and no accepted task is lost."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.helpers.harness import APP, deploy, in_app, pids, prove, redis, restarts, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

TASKS = 10_000
LIMIT = "32mb"  # holds about 7,700 of these tasks
ID = re.compile(r'\\?"id\\?": \\?"([0-9a-f-]{36})')

# As the owner's site sends: the app itself, without what is deployed beside it.
FLOOD = """
import json, time
from observations_nids.tasks import trace
accepted, refused = [], 0
while len(accepted) < {tasks} and refused < {refused}:
    name = f"full-{{len(accepted) % 100}}"
    try:
        accepted.append(trace.apply_async((name,), headers={{"pad": "x" * 3000}}).id)
    except Exception:
        refused += 1
        time.sleep(0.002)
print(json.dumps([accepted, refused]))
"""

KEPT = """
import json, sys
from observations_nids.celery import app
print(sum(app.AsyncResult(task).state == "SUCCESS" for task in json.load(open("{path}"))))
"""

# The worker as a guide sets it up: the owner's app alone.
PLAIN = f"""[Service]
Type=exec
ExecStart=
ExecStart=/usr/local/lib/celery-pi/with-env-file {APP}/.env \
  {APP}/venv/bin/celery -A observations_nids worker --loglevel=INFO --concurrency=2
"""


@dataclass
class Sent:
    """Ids of the tasks that were accepted, and how many were not."""

    accepted: set[str]
    refused: int

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.accepted | other.accepted, self.refused + other.refused)


@pytest.fixture
def full(pi: VirtualPi) -> Iterator[None]:
    """An empty Redis with a low limit, and no worker."""
    maxmemory = redis(pi, "config", "get", "maxmemory").split()
    policy = redis(pi, "config", "get", "maxmemory-policy").split()
    pi.run("systemctl", "stop", "celery-worker")
    pi.run("sh", "-c", f"rm -f {APP}/media/full-*")
    redis(pi, "flushall")
    redis(pi, "config", "set", "maxmemory", LIMIT)
    yield
    redis(pi, "flushall")
    redis(pi, "config", "set", *maxmemory, *policy)
    pi.run("systemctl", "start", "celery-worker")


@pytest.mark.usefixtures("full")
@pytest.mark.counts
def test_no_accepted_task_is_lost_while_memory_runs_full(pi: VirtualPi) -> None:
    sent = flood(pi, refused=50)
    with ThreadPoolExecutor() as pool:
        # It is refused when the worker starts, and takes each place that the worker makes free.
        more = pool.submit(flood, pi, tasks=TASKS - len(sent.accepted))
        time.sleep(2)
        pi.run("systemctl", "start", "celery-worker", timeout=120)
        before = pids(pi), restarts(pi)
        sent += more.result()
    wait_for("the queue is drained", lambda: drained(pi), 900)
    assert len(sent.accepted) == TASKS
    assert more.result().refused > 100
    assert sent.accepted - executed(pi) == set()
    assert (pids(pi), restarts(pi)) == before
    assert kept_results(pi, sent) > 1000
    report("our policy", sent, executed(pi), held(pi))


@pytest.mark.usefixtures("full")
def test_control_policy_that_evicts_queues_loses_thousands(pi: VirtualPi) -> None:
    redis(pi, "config", "set", "maxmemory-policy", "allkeys-lru")
    sent = flood(pi, tasks=TASKS - 1000)
    pi.run("systemctl", "start", "celery-worker")
    sent += flood(pi, tasks=1000)
    wait_for("the queue is drained", lambda: drained(pi), 900)
    assert sent.refused == 0
    assert len(sent.accepted - executed(pi)) > 2000
    report("allkeys-lru", sent, executed(pi), held(pi))


def stands_still(pi: VirtualPi) -> bool:
    """Whether no task is run any more, by a worker that ends again and again or hangs."""
    before = len(executed(pi))
    time.sleep(8)
    return len(executed(pi)) == before


@pytest.mark.usefixtures("full")
def test_control_worker_of_the_app_alone_loses_tasks_and_does_not_drain(pi: VirtualPi) -> None:
    override = "/run/systemd/system/celery-worker.service.d"
    pi.run("sh", "-c", f"mkdir -p {override} && cat >{override}/plain.conf", input=PLAIN.encode())
    pi.run("systemctl", "daemon-reload")
    sent = flood(pi, refused=50)
    redis(pi, "config", "set", "maxmemory", "256mb")
    pi.run("systemctl", "start", "celery-worker")
    try:
        wait_for("it runs tasks", lambda: executed(pi))
        redis(pi, "config", "set", "maxmemory", LIMIT)
        sent += flood(pi, refused=300)
        wait_for("it stands still", lambda: stands_still(pi), 90)
    finally:
        # It may hang while it ends, and would then be waited for.
        pi.run("systemctl", "kill", "--signal=KILL", "celery-worker", check=False)
        pi.run("systemctl", "stop", "celery-worker")
        pi.run("rm", "-r", override)
        pi.run("systemctl", "daemon-reload")
    assert sent.accepted - executed(pi) - held(pi)
    assert len(held(pi)) > 1000
    report("plain worker", sent, executed(pi), held(pi))


def test_all_is_well_afterwards(pi: VirtualPi) -> None:
    assert "SUCCESS" in prove(pi)
    assert deploy(pi).changed == set()


def flood(pi: VirtualPi, tasks: int = TASKS, refused: int = TASKS * 100) -> Sent:
    """Send until so many are accepted or so many refused."""
    told = in_app(pi, FLOOD.format(tasks=tasks, refused=refused), timeout=900)
    accepted, failed = json.loads(told)
    return Sent(set(accepted), failed)


def executed(pi: VirtualPi) -> set[str]:
    """Ids of the tasks that have run to their end, as they wrote them down."""
    told = pi.run("sh", "-c", f"cat {APP}/media/full-* 2>/dev/null || true").stdout
    return {line.split()[0] for line in told.splitlines() if line.split()[1] == "end"}


def held(pi: VirtualPi) -> set[str]:
    """Ids of the tasks that wait or run."""
    waiting = redis(pi, "lrange", "celery", "0", "-1")
    return set(ID.findall(waiting + redis(pi, "hvals", "unacked")))


def drained(pi: VirtualPi) -> bool:
    """No task waits or runs."""
    return redis(pi, "exists", "celery", "unacked") == "0"


def kept_results(pi: VirtualPi, sent: Sent) -> int:
    """How many of the tasks have a result that the app can read."""
    path = f"{APP}/media/full-ids"
    pi.run("sh", "-c", f"cat >{path}", input=json.dumps(sorted(sent.accepted)).encode())
    return int(in_app(pi, KEPT.format(path=path)))


def report(what: str, sent: Sent, ran: set[str], waiting: set[str]) -> None:
    """Figures for whom runs this with `-s`."""
    waiting &= sent.accepted
    lost = sent.accepted - ran - waiting
    print(
        f"{what}: {len(sent.accepted)} accepted, {sent.refused} refused, "
        f"{len(sent.accepted & ran)} executed, {len(waiting)} held, {len(lost)} lost"
    )
