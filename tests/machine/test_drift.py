"""What somebody changed by hand is in the plan, and the next run mends that and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, deploy, fingerprint, pids, plan, prove, redis, run
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.debian12

CONF = "/etc/celery-pi/redis.conf"
LIVE = "/etc/celery-pi/redis-live.conf"
ASK = "/usr/local/lib/celery-pi/redis-cli admin"
RUNNING = "Redis | Change the running server"
WORKER = "/etc/systemd/system/celery-worker.service"
RUN_BOTH = {"Worker | Run", "Beat | Run"}

# What touches different things is broken together: each deploy takes its time.
DRIFTS = {
    "redis configuration edited and live": (
        f"sed -i 's/^databases .*/databases 1/' {CONF}; systemctl restart redis-server",
        {"Redis | Configure", "Redis | Run"},
    ),
    "redis limit, users and a mode changed in the files": (
        f"sed -i 's/^maxmemory .*/maxmemory 17mb/' {LIVE}; {ASK} config set maxmemory 17mb;"
        f"echo 'user mallory on nopass ~* +@all' >>/etc/celery-pi/redis.acl; {ASK} acl load;"
        f"chmod 0644 {CONF}",
        {"Redis | Configure", RUNNING},
    ),
    "redis limit changed in the running server": (f"{ASK} config set maxmemory 33mb", {RUNNING}),
    "redis append-only file switched off": (f"{ASK} config set appendonly no", {RUNNING}),
    "redis users added, allowed more and let in": (
        f"{ASK} acl setuser mallory on nopass '~*' +@all; {ASK} acl setuser flower +flushall;"
        f"{ASK} acl setuser default on nopass +@all",
        {RUNNING},
    ),
    "redis admin locked out": (f"{ASK} acl setuser admin resetpass", {RUNNING}),
    "worker stopped, beat unit deleted": (
        "systemctl stop celery-worker;"
        "rm /etc/systemd/system/celery-beat.service; systemctl daemon-reload",
        {"Worker | Run", "Beat | Configure", "Beat | Run"},
    ),
    "worker disabled": ("systemctl disable --quiet celery-worker", {"Worker | Run"}),
    "worker unit replaced by a link": (
        f"mv {WORKER} /root/w; ln -s /root/w {WORKER}",
        {"Worker | Configure", "Worker | Run"},
    ),
    "broker changed in .env": (
        f"sed -i 's/^CELERY_BROKER_URL=.*/CELERY_BROKER_URL=redis:/' {APP}/.env",
        {"App | Set the broker in .env", *RUN_BOTH},
    ),
    "package gone": (
        f"rm -r {APP}/venv/lib/python3.*/site-packages/flower-[0-9]*.dist-info",
        {"App | Install the pinned packages", *RUN_BOTH, "Flower | Run"},
    ),
    ".env and a secret readable by all, logs given away, command edited": (
        f"chmod 0644 {APP}/.env /etc/celery-pi/secrets/redis_admin_password;"
        f"chown root {APP}/logs; echo >>/usr/local/bin/celery-pi",
        {
            "App | Set the broker in .env",
            "Redis | Store the passwords",
            "App | Make logs",
            "Command | Install celery-pi",
        },
    ),
}


@pytest.mark.parametrize(("break_it", "expected"), DRIFTS.values(), ids=DRIFTS.keys())
def test_drift_is_planned_and_mended(pi: VirtualPi, break_it: str, expected: set[str]) -> None:
    before, promised = pids(pi), running(pi)
    pi.run("sh", "-c", break_it)
    assert plan(pi).planned == expected
    assert deploy(pi).changed == expected
    restarted = {name.split(" | ")[0] for name in expected if name.endswith("Run")}
    if "systemctl restart redis" in break_it or "resetpass" in break_it:
        restarted.add("Redis")  # by hand, or because it lets nobody in any more
    assert running(pi) == promised
    assert untouched(before, pids(pi)) >= set(NAMES.values()) - restarted


NAMES = {
    "redis-server": "Redis",
    "celery-worker": "Worker",
    "celery-beat": "Beat",
    "celery-flower": "Flower",
    "nginx": "nginx",
}


def running(pi: VirtualPi) -> list[set[str]]:
    """What the running server goes by; `default` can be off, but not away."""
    assert "NOAUTH" in pi.run("redis-cli", "dbsize").stdout
    # The order of the rules is another each time, and a default is said or not.
    users = [set(line.split()) for line in sorted(redis(pi, "acl", "list").splitlines())]
    assert len(users) == 6
    settings = redis(pi, "config", "get", "maxmemory", "appendonly", "databases")
    return [*(user - {"sanitize-payload"} for user in users), set(settings.split())]


def untouched(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Components whose service has kept its process."""
    return {name for unit, name in NAMES.items() if after[unit] == before[unit]}


def test_nothing_is_left_to_mend(pi: VirtualPi) -> None:
    assert deploy(pi).changed == set()


# Stands before Debian's: the program of a deploy on the machine runs each command with it.
SHELL = """#!/bin/sh
! tr '\\0' '\\n' </proc/$PPID/cmdline | tail -n 1 | grep -qx session || echo >>/run/commands
exec /bin/sh "$@"
"""


@pytest.fixture
def counting(pi: VirtualPi) -> Iterator[VirtualPi]:
    """A machine that counts."""
    place = "/usr/local/bin/sh"
    pi.run("sh", "-c", f"cat >{place}.new; chmod 0755 {place}.new", input=SHELL.encode())
    pi.run("mv", f"{place}.new", place)
    yield pi
    pi.run("rm", place, "/run/commands")


def commands(pi: VirtualPi) -> tuple[int, int]:
    """How many commands a deploy that changes nothing sends there, and how many docker starts."""
    pi.run("rm", "-f", "/run/commands")
    start = time.time()
    assert deploy(pi).changed == set()
    of = ("--filter", f"container={pi.name}", "--filter", "event=exec_create")
    when = ("--since", f"{start:.3f}", "--until", f"{time.time():.3f}")
    seen = run("docker", "events", *of, *when)
    assert seen.status == 0
    sent = pi.run("wc", "-l", "/run/commands").stdout.split()[0]
    return int(sent), seen.stdout.count("exec_create")


def test_all_is_asked_in_one_round_trip(counting: VirtualPi) -> None:
    counting.run("rm", "-r", "/var/cache/celery-pi")
    one_by_one, _ = commands(counting)
    together, started = commands(counting)
    print(f"\n{one_by_one} commands, then {together}, of which docker started {started}")
    assert one_by_one > 60
    assert together <= 8
    assert started <= 3  # the shell, and on a slow machine the lock's sign of life


def test_mended_machine_is_the_deployed_one(pi: VirtualPi) -> None:
    """Content and modes, by path; times differ where a file was written anew."""

    def shape(lines: dict[str, str]) -> dict[str, list[str]]:
        return {path: line.split()[:4] for path, line in lines.items() if path.startswith("/etc/")}

    before = shape(fingerprint(pi))
    pi.run("sh", "-c", f"rm {WORKER} {CONF}; chmod 0700 {APP}/media; rm -r /etc/celery-pi/*.json")
    deploy(pi)
    assert shape(fingerprint(pi)) == before
    assert "SUCCESS" in prove(pi)
