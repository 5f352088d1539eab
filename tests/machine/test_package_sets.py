"""What plain workers do when Redis restarts under a running task: that of celery 5.7.0 ends.

Of each set, without anything of ours, on a Redis of their own. With ours it goes on, guarded and
plain: `test_guarded_worker.py` and `test_plain_worker.py` of the package.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from celery_pi.settings import Settings
from celery_redis_guard.tested_sets import TESTED_SETS, PackageSet
from tests.helpers.harness import APP
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

SETS = {
    "A": ("celery[redis]==5.5.3", "kombu==5.5.4", "redis==5.2.1"),
    "B": ("celery[redis]==5.7.0", "kombu==5.7.0", "redis==8.1.0"),
    "C": ("celery[redis]==5.6.3", "kombu==5.7.0", "redis==8.1.0"),
}

# Restarts Redis while a task runs, and sends another. Tells whether the worker is still there when
# the first has ended, and whether the other was run.
SCENARIO = """
import json, os, subprocess, sys, tempfile, time
place, port = tempfile.mkdtemp(), sys.argv[1]
os.chdir(place)
url = f"redis://127.0.0.1:{port}/0"
with open("plain.py", "w") as code:
    code.write(f'''
import time
from celery import Celery
app = Celery("plain", broker={url!r}, backend={url!r})
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
@app.task
def sleep(seconds):
    time.sleep(seconds)
''')
sys.path.insert(0, place)
from plain import sleep

def redis():
    server = subprocess.Popen(["redis-server", "--port", port, "--appendonly", "yes"],
                              stdout=subprocess.DEVNULL)
    while subprocess.run(["redis-cli", "-p", port, "ping"], capture_output=True).returncode:
        time.sleep(0.05)
    return server

def within(seconds, condition):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()

def said():
    return open("log").read()

server = redis()
worker = subprocess.Popen(
    [sys.executable, "-m", "celery", "-A", "plain", "worker", "-c", "2", "-l", "INFO"],
    stdout=open("log", "w"), stderr=subprocess.STDOUT)
assert within(60, lambda: " ready." in said())
sleep.delay(8)
assert within(6, lambda: " received" in said()), "it could end before Redis is away"
server.terminate()
server.wait()
server = redis()
sleep.delay(0)
within(45, lambda: said().count(" succeeded in") == 2 or worker.poll() is not None)
within(15, lambda: worker.poll() is not None)
print(json.dumps([worker.poll() is None, said().count(" succeeded in")]))
worker.kill()
server.kill()
"""


def outcome(pi: VirtualPi, name: str) -> tuple[bool, int]:
    """Whether the worker of that set is alive at the end, and how many of two tasks it has done."""
    python = f"/opt/set-{name}/bin/python"
    pi.run("python3", "-m", "venv", f"/opt/set-{name}")
    quiet = ("--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check")
    pi.run(python, "-m", "pip", "install", *quiet, *SETS[name])
    port = 7780 + sorted(SETS).index(name)
    told = pi.run(python, "-c", SCENARIO, str(port), timeout=150).stdout
    alive, done = json.loads(told)
    return alive, done


@pytest.fixture(scope="module")
def outcomes(pi: VirtualPi) -> dict[str, tuple[bool, int]]:
    with ThreadPoolExecutor() as pool:
        return dict(zip(SETS, pool.map(lambda name: outcome(pi, name), SETS), strict=True))


@pytest.mark.parametrize("name", ["A", "C"])
def test_worker_goes_on_after_a_restart_of_redis(
    outcomes: dict[str, tuple[bool, int]], name: str
) -> None:
    alive, done = outcomes[name]
    assert alive
    assert done >= 2  # C may run again at once what was running, A after an hour


def test_worker_of_celery_5_7_0_ends(outcomes: dict[str, tuple[bool, int]]) -> None:
    assert not outcomes["B"][0]


def test_app_runs_the_tested_set_that_is_the_default(pi: VirtualPi) -> None:
    code = f"from importlib.metadata import version as v;print(*map(v, {PackageSet._fields!r}))"
    running = pi.run(f"{APP}/venv/bin/python", "-c", code).stdout.split()
    assert PackageSet(*running) == TESTED_SETS["C"]
    assert {f"{name}=={version}" for name, version in TESTED_SETS["C"]._asdict().items()} <= {
        *Settings().app_pins
    }


def test_nothing_is_left(pi: VirtualPi) -> None:
    pi.run("sh", "-c", "rm -rf /opt/set-*")
    assert not pi.run("pgrep", "-f", "[p]lain worker", check=False).stdout
