"""A run that dies half-way is completed by the next; a broken template changes nothing live."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from celery_pi.settings import Settings
from tests.helpers.harness import APP, PYINFRA, ROOT, WHAT, deploy, pids, pyinfra, redis, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.debian12

CONF = "/etc/celery-pi/redis.conf"
# Stands before the real systemctl in PATH and never comes back from a restart.
HANGS = """#!/bin/sh
[ "$1" = restart ] && touch /root/reached && exec sleep 600
exec /usr/bin/systemctl "$@"
"""

HANGS_ON_SET = """#!/bin/sh
case "$*" in *'config set'*) touch /root/reached; exec sleep 600 ;; esac
exec /usr/bin/redis-cli "$@"
"""


def test_deploy_killed_between_write_and_restart_is_completed_by_the_next(pi: VirtualPi) -> None:
    install = "cat >/usr/local/bin/systemctl && chmod +x /usr/local/bin/systemctl"
    pi.run("sh", "-c", install, input=HANGS.encode())
    killed_deploy(pi, "redis_port=7000")
    pi.run("sh", "-c", "pkill -f '^sleep 600'; rm /usr/local/bin/systemctl /root/reached")
    assert "port 7000" in pi.run("cat", CONF).stdout
    assert redis(pi, "config", "get", "port").split()[1] == "6379"
    # The last are what the run did not come to any more.
    rest = {"Redis | Run", "App | Set the broker in .env", "Worker | Run", "Beat | Run"}
    assert deploy(pi, redis_port=7000).changed == rest
    assert redis(pi, "config", "get", "port").split()[1] == "7000"
    assert deploy(pi).status == 0


def test_deploy_killed_between_write_and_live_change_is_completed_by_the_next(
    pi: VirtualPi,
) -> None:
    install = "cat >/usr/local/bin/redis-cli && chmod +x /usr/local/bin/redis-cli"
    pi.run("sh", "-c", install, input=HANGS_ON_SET.encode())
    killed_deploy(pi, "redis_maxmemory=99mb")
    pi.run("sh", "-c", "pkill -f '^sleep 600'; rm /usr/local/bin/redis-cli /root/reached")
    assert redis(pi, "config", "get", "maxmemory").split()[1] != str(99 * 2**20)
    assert deploy(pi, redis_maxmemory="99mb").changed == {"Redis | Change the running server"}
    assert redis(pi, "config", "get", "maxmemory").split()[1] == str(99 * 2**20)
    assert deploy(pi).status == 0


def killed_deploy(pi: VirtualPi, setting: str) -> None:
    """A deploy with that setting that is killed where the stand-in hangs."""
    with subprocess.Popen(
        (PYINFRA, "-y", "--data", setting, *WHAT),
        cwd=ROOT,
        env=os.environ | {"CELERY_PI_HOST": f"@docker/{pi.name}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        reached = ("test", "-e", "/root/reached")
        wait_for("it hangs", lambda: pi.run(*reached, check=False).returncode == 0, 300)
        os.killpg(run.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("template", "good", "bad", "said"),
    [
        ("etc/celery-pi/redis-live.conf.j2", "appendonly yes", "appendonly maybe", "must be 'yes'"),
        ("etc/celery-pi/redis.conf.j2", "databases 16", "databases 16 # all", "databases 16 # all"),
        ("etc/celery-pi/redis.acl.j2", "default ", "default +flushal ", "Unknown command"),
        (
            "etc/systemd/system/celery-worker.service.j2",
            "KillMode=mixed",
            "KilMode=mixed",
            "Unknown key 'KilMode'",
        ),
        (
            "etc/systemd/system/celery-worker.service.j2",
            "ExecStart=/usr/local/lib/celery-pi/with-env-file",
            "ExecStart=/usr/local/lib/celery-pi/with-env-fil",
            "is not executable",
        ),
        ("etc/celery-pi/redis.conf.j2", "redis_port", "redis_prt", "does not render"),
    ],
)
def test_broken_template_never_replaces_a_live_file(
    pi: VirtualPi, tmp_path: Path, template: str, good: str, bad: str, said: str
) -> None:
    broken = tmp_path / "project"
    ignored = shutil.ignore_patterns(".venv", ".git", "tests", ".*cache", "__pycache__")
    shutil.copytree(ROOT, broken, ignore=ignored)
    source = broken / "templates" / template
    source.write_text(source.read_text().replace(good, bad))
    live = "/" + template.removesuffix(".j2")
    before, running = pi.run("stat", "-c", "%i %Y", live).stdout, pids(pi)

    outcome = pyinfra(pi, "--json", "-y", *WHAT, cwd=broken)

    assert outcome.status == 1
    assert said in outcome.stderr
    assert pi.run("stat", "-c", "%i %Y", live).stdout == before
    assert pids(pi) == running
    assert pi.run("find", "/etc", "-name", ".celery-pi.new").stdout == ""


def test_interrupted_debian_package_is_completed_by_the_next_deploy(pi: VirtualPi) -> None:
    unpack = "cd /root && apt-get -qq download redis-server && dpkg --unpack redis-server_*.deb"
    pi.run("sh", "-c", unpack)
    # What dpkg was writing when it was cut off: apt refuses to do anything while it is there.
    pi.run("sh", "-c", "dpkg-query -s redis-server >/var/lib/dpkg/updates/0001")
    refused = pi.run("apt-get", "-y", "install", "redis-server", check=False)
    assert "dpkg was interrupted" in refused.stderr
    assert "redis-server" in pi.run("dpkg", "--audit").stdout
    # The first component that wants a package completes what dpkg has begun.
    assert deploy(pi).changed == {"Packages | Install"}
    assert pi.run("dpkg", "--audit").stdout == ""
    assert deploy(pi).changed == set()


def test_half_made_python_environment_is_completed_by_the_next_deploy(pi: VirtualPi) -> None:
    half = f"cd {APP}/venv && rm -r .celery-pi bin/pip* lib/*/*/pip* lib/*/*/flower*"
    pi.run("sh", "-c", half)
    assert "App | Begin with the pinned packages" in deploy(pi).changed
    (pinned,) = (pin for pin in Settings().app_pins if pin.startswith("flower=="))
    assert pinned in pi.run(f"{APP}/venv/bin/pip", "freeze").stdout.splitlines()
    assert deploy(pi).changed == set()
