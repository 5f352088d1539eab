"""New passwords for all while a site sends tasks: none fails, none is lost, the old ones die."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, deploy, pids, prove, pyinfra, redis, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.debian12

SECRETS = "/etc/celery-pi/secrets"
USERS = ("admin", "backup", "celery", "flower", "monitor")
KNOWN = ("--data", "app_units=site.service")

# The owner's site: reads .env when it starts, and sends tasks until it is told to stop. Now and
# then it logs in anew, as a web server that recycles its processes does, and waits for a result, so
# that no more than a few wait in the queue.
SITE = f"""
import signal, sys, time
from observations_nids import tasks
from observations_nids.celery import app
going = True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
out = open("{APP}/media/sent", "a", buffering=1)
number = 0
while going:
    number += 1
    try:
        if number % 50:
            task = tasks.mark.delay("done", 0)
        else:
            with app.connection_for_write() as fresh:
                task = tasks.mark.apply_async(("done", 0), connection=fresh)
        out.write(f"sent {{task.id}}\\n")
        if number % 50 == 0:
            task.get(timeout=60)
    except Exception as error:
        out.write(f"failed {{error!r}}\\n")
    time.sleep(0.004)
"""
UNIT = f"""
[Service]
User=www-data
WorkingDirectory={APP}
ExecStart={APP}/venv/bin/python {APP}/media/site.py
Environment=PYTHONPATH={APP}
"""


@pytest.fixture(scope="module")
def site(pi: VirtualPi) -> Iterator[VirtualPi]:
    """A machine whose site sends tasks all the time."""
    script = f"base64 -d >{APP}/media/site.py"
    pi.run("sh", "-c", script, input=base64.b64encode(SITE.encode()))
    pi.run("sh", "-c", "cat >/etc/systemd/system/site.service", input=UNIT.encode())
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "start", "site")
    assert deploy(pi, app_units="site.service").status == 0
    yield pi
    pi.run("systemctl", "stop", "site")
    wait_for("its tasks are done", lambda: redis(pi, "llen", "celery") == "0", 60)
    files = " ".join(f"{APP}/media/{name}" for name in ("site.py", "sent", "done"))
    pi.run("sh", "-c", f"rm /etc/systemd/system/site.service {files}")
    pi.run("systemctl", "daemon-reload")
    assert deploy(pi).status == 0


# Does what stands on its command line, and nothing of what comes by its standard input.
READS_ONLY = b"""#!/bin/sh
[ $# -gt 4 ] || exit 1
exec /usr/bin/redis-cli "$@"
"""


def rotate(pi: VirtualPi, *arguments: str) -> set[str]:
    return pyinfra(pi, "--json", "-y", *arguments, "inventory.py", "tasks.rotation.deploy").changed


def passwords(pi: VirtualPi) -> dict[str, str]:
    return {user: pi.run("cat", f"{SECRETS}/redis_{user}_password").stdout for user in USERS}


def login(pi: VirtualPi, user: str, password: str) -> str:
    """What Redis says to that password; it goes by standard input."""
    said = pi.run("redis-cli", input=f"auth {user} {password}\n".encode(), check=False).stdout
    return said.split()[0]


def sent(pi: VirtualPi, word: str = "sent") -> list[str]:
    lines = pi.run("cat", f"{APP}/media/sent").stdout.splitlines()
    return [line.split(" ", 1)[1] for line in lines if line.startswith(word)]


def done(pi: VirtualPi) -> set[str]:
    return {
        line.split()[0]
        for line in pi.run("cat", f"{APP}/media/done").stdout.splitlines()
        if " end " in line
    }


@pytest.mark.counts
def test_rotation_on_a_busy_system_fails_no_task_and_loses_none(site: VirtualPi) -> None:
    before, running = passwords(site), pids(site)
    wait_for("the site is busy", lambda: len(sent(site)) > 300, 60)
    first = len(sent(site))
    changed = rotate(site, *KNOWN)
    assert {"Rotation | App | Start site.service again", "Rotation | Worker | Run"} <= changed
    last = len(sent(site))
    wait_for("it goes on", lambda: len(sent(site)) > max(last + 300, 2000), 120)
    site.run("systemctl", "stop", "site")
    assert sent(site, "failed") == []
    everything = set(sent(site))
    assert len(everything) >= 2000
    assert last > first, "nothing was sent meanwhile"
    wait_for("all are done", lambda: everything <= done(site), 120)
    print(f"{len(everything)} sent, {last - first} while passwords changed, 0 failed, 0 lost")

    after = passwords(site)
    assert all(before[user] != after[user] for user in USERS)
    assert pids(site)["redis-server"] == running["redis-server"]
    for user in USERS:
        assert login(site, user, before[user]) == "WRONGPASS"
        assert login(site, user, after[user]) == "OK"
    assert "SUCCESS" in prove(site)
    site.run("systemctl", "start", "site")


def test_next_deploy_changes_nothing_and_rotates_nothing(site: VirtualPi) -> None:
    before = passwords(site)
    assert deploy(site, app_units="site.service").changed == set()
    assert passwords(site) == before
    assert site.run("find", SECRETS, "-name", "*.old").stdout == ""


def test_plan_of_a_rotation_is_what_it_does(site: VirtualPi) -> None:
    before = passwords(site)
    planned = pyinfra(
        site, "--json", "--dry", *KNOWN, "inventory.py", "tasks.rotation.deploy"
    ).planned
    assert passwords(site) == before
    assert rotate(site, *KNOWN) == planned


def test_old_password_stays_valid_while_the_sites_units_are_unknown(site: VirtualPi) -> None:
    before = passwords(site)
    running = site.run("systemctl", "show", "-P", "MainPID", "site").stdout
    etc, run = "/etc/systemd/system", "/run/systemd/system"
    move = "mv {}/site.service {}/ && systemctl daemon-reload"
    site.run("sh", "-c", move.format(etc, run))  # where no deploy looks for it
    try:
        rotate(site)
    finally:
        site.run("sh", "-c", move.format(run, etc))
    assert site.run("systemctl", "show", "-P", "MainPID", "site").stdout == running
    for user in USERS:
        assert login(site, user, before[user]) == "OK"
        assert login(site, user, passwords(site)[user]) == "OK"
    assert deploy(site, app_units="site.service").status == 0
    assert login(site, "celery", before["celery"]) == "WRONGPASS"
    assert site.run("systemctl", "show", "-P", "MainPID", "site").stdout != running
    assert sent(site, "failed") == []


def test_rotation_that_dies_is_completed_by_the_next_deploy(site: VirtualPi) -> None:
    """It dies after the passwords were stored, before Redis heard of them."""
    before = passwords(site)
    server = pids(site)["redis-server"]
    broken = "/usr/local/bin/redis-cli"
    site.run("sh", "-c", f"cat >{broken}; chmod +x {broken}", input=READS_ONLY)
    died = pyinfra(site, "-y", *KNOWN, "inventory.py", "tasks.rotation.deploy")
    assert died.status == 1
    site.run("rm", broken)
    assert passwords(site) != before
    assert redis(site, "ping") == "PONG"  # root's tools get in with the old one
    assert deploy(site, app_units="site.service").status == 0
    after = passwords(site)
    for user in USERS:
        assert login(site, user, before[user]) == "WRONGPASS"
        assert login(site, user, after[user]) == "OK"
    assert sent(site, "failed") == []
    assert pids(site)["redis-server"] == server
    assert deploy(site, app_units="site.service").changed == set()
