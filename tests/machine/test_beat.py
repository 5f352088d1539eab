"""Beat on the machine: alone, after a kill, with a damaged schedule, while Redis is away."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest

from tests.helpers.harness import APP, pids, redis, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

SCHEDULE = "/var/lib/celery-beat/schedule"
TICK = 5.0  # seconds, as the app's schedule says

# As somebody starts one by hand who has read the unit.
BY_HAND = (
    *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "-p", "User=www-data"),
    *("-p", f"WorkingDirectory={APP}"),
    *(
        "--setenv=CELERY_PI_APP=observations_nids",
        f"--setenv=PYTHONPATH={APP}:/usr/local/lib/celery-pi/guard",
    ),
    *("/usr/local/lib/celery-pi/with-env-file", f"{APP}/.env"),
    *(f"{APP}/venv/bin/celery", "-A", "celery_redis_guard.app", "beat", "-s", "/tmp/schedule"),  # noqa: S108
)
TIMESYNCD = "/run/systemd/system/systemd-timesyncd.service"


def ticks(pi: VirtualPi) -> list[float]:
    return [float(line) for line in pi.run("cat", f"{APP}/media/ticks").stdout.splitlines()]


def after(pi: VirtualPi, seen: int, more: int) -> list[float]:
    """Times of the last tick of those seen and of so many more."""
    wait_for("ticks", lambda: len(ticks(pi)) >= seen + more, more * TICK + 20)
    return ticks(pi)[seen - 1 :]


def said(pi: VirtualPi, since: float) -> str:
    given = ("-q", "-o", "cat", "-u", "celery-beat", "--since", f"@{since:.6f}")
    pi.run("journalctl", "--sync")
    return pi.run("journalctl", *given).stdout


@pytest.mark.parametrize("scheduler", [(), ("-S", "celery.beat:PersistentScheduler")])
def test_second_beat_is_refused_in_one_sentence(pi: VirtualPi, scheduler: tuple[str, ...]) -> None:
    before = pids(pi)
    done = pi.run(*BY_HAND, *scheduler, check=False, timeout=60)
    assert done.returncode == 1
    told = [line for line in (done.stdout + done.stderr).splitlines() if "celery-pi" in line]
    assert told == [
        "celery-pi: a Beat runs on this machine; a second one would send each task twice"
    ]
    assert pids(pi) == before


def test_killed_beat_fires_neither_twice_nor_late(pi: VirtualPi) -> None:
    seen, kills = len(ticks(pi)), []
    for _ in range(3):
        count = len(ticks(pi))
        wait_for("a tick", lambda count=count: len(ticks(pi)) > count)
        before, killed = beat(pi), time.time()
        pi.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "celery-beat")
        wait_for("Beat is back", lambda old=before: beat(pi) not in (old, None))
        kills.append((killed, time.time()))
    for earlier, later in pairwise(after(pi, seen, 5)):
        back = [up for killed, up in kills if earlier < killed < later]
        assert earlier + TICK - 2 < later < max([earlier + TICK, *back]) + 2


def beat(pi: VirtualPi) -> str | None:
    """Main PID of a Beat that is up."""
    shown = ("systemctl", "show", "-p", "ActiveState,MainPID", "celery-beat")
    told = dict(line.split("=") for line in pi.run(*shown).stdout.splitlines())
    return told["MainPID"] if told["ActiveState"] == "active" else None


DAMAGES = {"zeros": "truncate -s 0 {0}; truncate -s 4096", "truncated": "truncate -s 20"}
DAMAGES |= {"garbage": "head -c 4096 /dev/urandom >", "empty": "truncate -s 0"}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_schedule_is_set_aside_told_and_rebuilt(pi: VirtualPi, damage: str) -> None:
    pi.run("systemctl", "stop", "celery-beat")
    pi.run("sh", "-c", f"rm -f {SCHEDULE}.damaged; {damage.format(SCHEDULE)} {SCHEDULE}")
    since, seen = time.time(), len(ticks(pi))
    broken = pi.run("sha256sum", SCHEDULE).stdout.split()[0]
    pi.run("systemctl", "start", "celery-beat")
    assert pi.run("sha256sum", f"{SCHEDULE}.damaged").stdout.split()[0] == broken
    assert said(pi, since).count("celery-pi: the schedule cannot be read") == 1
    after(pi, seen, 2)
    # It writes down what it has sent, which the worker may have run by then.
    wait_for("both are noted", lambda: json.loads(pi.run("cat", SCHEDULE).stdout)["tick"][1] >= 2)
    assert pi.run("systemctl", "show", "-P", "NRestarts", "celery-beat").stdout == "0\n"


def test_task_that_is_due_while_redis_is_away_is_sent_when_it_is_back(pi: VirtualPi) -> None:
    count = len(ticks(pi))
    wait_for("a tick", lambda: len(ticks(pi)) > count)
    since, seen = time.time(), len(ticks(pi))
    pi.run("systemctl", "stop", "redis-server")
    time.sleep(TICK + 3)
    pi.run("systemctl", "start", "redis-server")
    after(pi, seen, 2)
    pi.run("systemctl", "stop", "celery-beat")
    sent = said(pi, since).count("Sending due task")
    assert sent >= 2
    assert "Message Error" not in said(pi, since)
    wait_for("all that was sent", lambda: len(ticks(pi)) == seen + sent)
    pi.run("systemctl", "start", "celery-beat")


def test_beat_listens_for_no_result(pi: VirtualPi) -> None:
    """Or it would give up a task when Redis is away for longer."""
    pi.run("systemctl", "restart", "celery-beat")
    after(pi, len(ticks(pi)), 1)
    assert "cmd=unsubscribe" not in redis(pi, "client", "list"), "what is left of listening"


def test_start_waits_for_the_time_service(pi: VirtualPi) -> None:
    """Stood in for: a container has its host's clock."""
    pi.run("sh", "-c", f"cat >{TIMESYNCD}", input=b"[Service]\nExecStart=sleep infinity\n")
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "start", "systemd-timesyncd")
    pi.run("systemctl", "restart", "--no-block", "celery-beat")
    time.sleep(6)
    state = ("systemctl", "show", "-P", "ActiveState", "celery-beat")
    assert pi.run(*state).stdout == "inactive\n"
    assert pi.run("systemctl", "show", "-P", "Job", "celery-beat").stdout != "\n", "it is to start"
    pi.run("install", "-D", "/dev/null", "/run/systemd/timesync/synchronized")
    wait_for("Beat is up", lambda: pi.run(*state).stdout == "active\n")
    pi.run("systemctl", "stop", "systemd-timesyncd")
    pi.run("rm", "-r", TIMESYNCD, "/run/systemd/timesync")
    pi.run("systemctl", "daemon-reload")
