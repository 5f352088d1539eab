"""Redis is killed again and again under load, while a worker consumes: no accepted task is lost.
With snapshots alone nearly all of them are, by the same measure."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.helpers.harness import APP, deploy, prove, redis, wait_for
from tests.virtual_pi import VirtualPi

KILLS = 20
QUEUES = ("celery", "unacked", "unacked_index")
MEDIA = f"{APP}/media"

# Sends numbers until it is stopped, and writes down which Redis accepted, and when.
PRODUCER = """
import sys, time
from celery.exceptions import OperationalError
from observations_nids.celery import app
from observations_nids.tasks import note
app.conf.broker_transport_options = {"max_retries": 0, "interval_start": 0, "interval_max": 0}
number = 0
with open(f"media/{sys.argv[1]}.accepted", "a", buffering=1) as accepted:
    while True:
        number += 1
        try:
            note.apply_async((f"{sys.argv[1]}.run", number), retry=False, ignore_result=True)
            accepted.write(f"{number} {time.time()}\\n")
            time.sleep(0.0005)
        except (OperationalError, OSError):
            time.sleep(0.02)
"""

# On the machine, because a look from outside takes longer than what is measured. Each kill comes
# when a file shows that work goes on, and a little later than the one before.
KILLER = """
import os, signal, subprocess, sys, threading, time
unit, kills, path, *ping = sys.argv[1:]
slowest = 0
def watch_the_disk():
    global slowest
    with open("/root/disk", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
            begun = time.monotonic()
            os.fsync(file.fileno())
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.1)
threading.Thread(target=watch_the_disk, daemon=True).start()
def said(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
for n in range(int(kills)):
    enough = os.path.getsize(path) + 200
    while os.path.getsize(path) < enough:
        time.sleep(0.01)
    time.sleep(0.1 + n / 100)
    pid = int(said("systemctl", "show", "--value", "-p", "MainPID", unit))
    assert pid > 0
    os.kill(pid, signal.SIGKILL)
    killed = time.time()
    while said(*ping) != "PONG":
        time.sleep(0.01)
    print(killed, time.time())
print(slowest)
"""


@dataclass(frozen=True)
class Toll:
    """What became of the tasks: when each was accepted, how often it ran, which still wait."""

    accepted: dict[int, float]
    ran: Counter[int]
    waiting: set[int]
    kills: list[tuple[float, float]]
    slowest: float
    """Seconds that the longest fsync took on that disk meanwhile."""

    @property
    def age(self) -> float:
        """Seconds after which an accepted task is safe. Redis syncs every second; where the last
        fsync has not ended by then, it waits for it before it writes on, up to two seconds:
        https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
        On a disk that takes 0.1 s for the probe's few bytes, Redis' own may take that long."""
        return 1 if self.slowest < 0.1 else 2.5

    def lost(self, age: float = 0) -> set[int]:
        """Tasks that had been accepted that many seconds before the next kill, and are gone."""
        return {
            number
            for number, when in self.accepted.items()
            if number not in self.ran
            and number not in self.waiting
            and not any(killed - age < when < back for killed, back in self.kills)
        }

    def __str__(self) -> str:
        back = sorted(answered - killed for killed, answered in self.kills)
        again = self.ran.total() - len(self.ran)
        return (
            f"{len(self.kills)} kills: {len(self.accepted)} accepted, {len(self.ran)} run, "
            f"{len(self.waiting)} waiting, {len(self.lost())} lost, "
            f"{again} run again, back in {back[0]:.2f} to {back[-1]:.2f} s; "
            f"{len(self.lost(self.age))} older than {self.age:g} s, "
            f"longest fsync {self.slowest:.2f} s"
        )


@pytest.fixture
def quiet(debian12_pi: VirtualPi) -> Iterator[VirtualPi]:
    """Nobody else sends tasks; what is left of the test's own is removed."""
    pi = debian12_pi
    pi.run("systemctl", "stop", "celery-beat")
    yield pi
    pi.run("systemctl", "stop", "producer", "snapshots-only", check=False)
    pi.run("systemctl", "stop", "celery-worker")
    redis(pi, "del", *QUEUES)
    pi.run("sh", "-c", f"rm -rf {MEDIA}/*.accepted {MEDIA}/*.run /var/lib/snapshots-only")
    pi.run("systemctl", "start", "celery-worker", "celery-beat")


PING = ("/usr/local/lib/celery-pi/redis-cli", "admin", "ping")


@pytest.mark.counts
def test_no_task_is_lost_that_was_accepted_a_second_before(quiet: VirtualPi) -> None:
    """The worker is away for longer than the producer, so the tasks that it takes have waited."""
    produce(quiet, "deployed")
    wait_for("the worker consumes", lambda: ran(quiet, "deployed"))
    kills, slowest = kill(quiet, "redis-server", KILLS, f"{MEDIA}/deployed.run", *PING)
    before = len(ran(quiet, "deployed"))
    wait_for("the worker consumes again", lambda: len(ran(quiet, "deployed")) > before)
    quiet.run("systemctl", "stop", "producer", "celery-worker")
    waiting = numbers(redis(quiet, "lrange", "celery", "0", "-1"))
    noted = numbers(redis(quiet, "hvals", "unacked"))
    found = (accepted(quiet, "deployed"), ran(quiet, "deployed"), waiting | noted)
    toll = Toll(*found, kills, slowest)
    print(f"\nas deployed: {toll}")
    assert len(kills) == KILLS
    assert loaded(toll)
    assert len(toll.ran) > 50 * KILLS
    assert len(waiting) > 100
    assert toll.lost(toll.age) == set()


def test_with_snapshots_alone_nearly_all_are_lost(quiet: VirtualPi) -> None:
    """The control of the test above."""
    server = ("redis-server", "--port", "7777", "--dir", "/var/lib/snapshots-only")
    snapshots = ("--appendonly", "no", "--save", "900 1 300 10 60 10000")
    unit = ("--unit=snapshots-only", "-p", "StateDirectory=snapshots-only", "-p", "Restart=always")
    quiet.run("systemd-run", *unit, *server, *snapshots)
    produce(quiet, "control", CELERY_BROKER_URL="redis://127.0.0.1:7777/0")
    wait_for("some are a second old", lambda: span(accepted(quiet, "control")) > 2)
    kills, slowest = kill(
        quiet, "snapshots-only", 1, f"{MEDIA}/control.accepted", "redis-cli", "-p", "7777", "ping"
    )
    quiet.run("systemctl", "stop", "producer")
    queue = quiet.run("redis-cli", "-p", "7777", "lrange", "celery", "0", "-1").stdout
    toll = Toll(accepted(quiet, "control"), Counter(), numbers(queue), kills, slowest)
    print(f"\nsnapshots only, nobody consumes: {toll}")
    before = [number for number, when in toll.accepted.items() if when < kills[0][0] - 1]
    assert len(before) > 10
    assert toll.lost(age=1) == set(before)


def span(sent: dict[int, float]) -> float:
    """Seconds between the first and the last that were accepted."""
    return max(sent.values()) - min(sent.values())


def produce(pi: VirtualPi, name: str, **environment: str) -> None:
    """Start the producer in the app's environment."""
    unit = ("--unit=producer", "--collect", "-p", "User=www-data", "-p", f"WorkingDirectory={APP}")
    values = [f"--setenv={variable}={value}" for variable, value in environment.items()]
    python = (f"{APP}/venv/bin/python", "-c", PRODUCER, name)
    pi.run("systemd-run", *unit, *values, *python)
    wait_for("the producer sends", lambda: accepted(pi, name))


def kill(
    pi: VirtualPi, unit: str, kills: int, growing: str, *ping: str
) -> tuple[list[tuple[float, float]], float]:
    """Kill the unit's main process so many times; when each was, and when it answered again; and
    how many seconds the longest fsync took meanwhile."""
    shown = pi.run("python3", "-c", KILLER, unit, str(kills), growing, *ping, timeout=900).stdout
    *times, slowest = shown.splitlines()
    return [(float(killed), float(back)) for killed, back in map(str.split, times)], float(slowest)


def accepted(pi: VirtualPi, name: str) -> dict[int, float]:
    lines = pi.run("sh", "-c", f"cat {MEDIA}/{name}.accepted || true").stdout.splitlines()
    return {int(number): float(when) for number, when in map(str.split, lines)}


def ran(pi: VirtualPi, name: str) -> Counter[int]:
    return Counter(map(int, pi.run("cat", f"{MEDIA}/{name}.run", check=False).stdout.split()))


def numbers(messages: str) -> set[int]:
    """Numbers of the tasks in a queue, or among the unacknowledged: those have a wrapping."""
    found = [json.loads(line) for line in messages.splitlines() if line]
    plain = [message[0] if isinstance(message, list) else message for message in found]
    return {json.loads(base64.b64decode(message["body"]))[0][1] for message in plain}


def loaded(toll: Toll) -> bool:
    """Whether tasks were accepted in the half second before each kill."""
    times = toll.accepted.values()
    return all(any(killed - 0.5 < when < killed for when in times) for killed, _ in toll.kills)


def test_all_is_well_afterwards(debian12_pi: VirtualPi) -> None:
    assert "SUCCESS" in prove(debian12_pi)
    assert deploy(debian12_pi).changed == set()
