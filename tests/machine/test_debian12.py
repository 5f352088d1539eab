"""Debian 12, with its Redis 7.0 and systemd 252, is deployed as 13 is, and upgrades cleanly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.helpers.harness import Outcome, deploy, exposure, pids, prove, redis
from tests.helpers.status_output import ask
from tests.machine.test_sandbox import LIMITS
from tests.virtual_pi import VirtualPi, VirtualPiError

KEPT = 1000
CONFIG = "/etc/redis/redis.conf"

VERSION = "$(dpkg-query -W -f '${Version}' redis-tools)"

# Debian's package as it would come with the next version, and with news in its own redis.conf.
# Without DEBIAN_FRONTEND, so that dpkg asks if it has a question; nobody is there to answer.
UPGRADE = f"""
set -e
cd "$(mktemp -d)"
apt-get -q update
apt-get -q download redis-server={VERSION}
dpkg-deb --raw-extract redis-server_*.deb tree
sed -i '/^Version:/ s/$/+next/' tree/DEBIAN/control
echo '# news' >>tree{CONFIG}
dpkg-deb --build tree next.deb
unset DEBIAN_FRONTEND
dpkg --install next.deb
"""
OLD = "apt-get -q -y --allow-downgrades install redis-server=" + VERSION
REINSTALL = "unset DEBIAN_FRONTEND; apt-get -q -y install --reinstall redis-server redis-tools"


@pytest.fixture
def data(debian12_pi: VirtualPi) -> Iterator[None]:
    """A thousand tasks in a queue that nobody consumes."""
    redis(debian12_pi, "del", "kept")
    redis(debian12_pi, "eval", f"for i=1,{KEPT} do redis.call('rpush','kept',i) end", "0")
    yield
    redis(debian12_pi, "del", "kept")


def test_make_deploy_works_from_nothing(debian12_deploy: Outcome) -> None:
    shown = debian12_deploy.output
    assert re.search(r"machine +\S+, Debian GNU/Linux 12 \(bookworm\), raspberrypi", shown)
    assert re.search(r"task +celery\.accumulate\[.*\] SUCCESS in .* by celery@raspberrypi", shown)


def test_machine_is_a_debian_12_with_redis_7_0(debian12_pi: VirtualPi) -> None:
    assert debian12_pi.run("cat", "/etc/debian_version").stdout.startswith("12.")
    assert debian12_pi.run("redis-server", "--version").stdout.startswith("Redis server v=7.0.")
    assert "bookworm" in debian12_pi.run("apt-cache", "policy", "redis-server").stdout


def test_second_deploy_changes_nothing(debian12_pi: VirtualPi) -> None:
    before = pids(debian12_pi)
    again = deploy(debian12_pi)
    assert again.changed == set()
    assert again.result["results"]["totals"]["no_change"] > 10
    assert pids(debian12_pi) == before


def test_server_runs_with_our_configuration_and_answers_to_no_stranger(
    debian12_pi: VirtualPi,
) -> None:
    assert ours(debian12_pi)


@pytest.mark.usefixtures("data")
def test_reinstalled_package_asks_nothing_and_loses_nothing(debian12_pi: VirtualPi) -> None:
    """Also where somebody has edited Debian's redis.conf."""
    debian12_pi.run("sh", "-c", f"cp -p {CONFIG} /root/; echo '# edited' >>{CONFIG}")
    before = kept(debian12_pi)
    debian12_pi.run("sh", "-c", REINSTALL)
    assert debian12_pi.run("tail", "-n", "1", CONFIG).stdout == "# edited\n"
    debian12_pi.run("cp", "-p", "/root/redis.conf", CONFIG)
    all_is_well(debian12_pi, before)


@pytest.mark.usefixtures("data")
def test_upgraded_package_asks_nothing_and_loses_nothing(debian12_pi: VirtualPi) -> None:
    before = kept(debian12_pi)
    debian12_pi.run("sh", "-c", UPGRADE)
    assert debian12_pi.run("tail", "-n", "1", CONFIG).stdout == "# news\n"
    all_is_well(debian12_pi, before)
    debian12_pi.run("sh", "-c", OLD)
    all_is_well(debian12_pi, before)


def test_upgrade_would_ask_if_debians_file_were_the_one_we_write(debian12_pi: VirtualPi) -> None:
    """What the test above would see of a deployment that edits redis.conf."""
    debian12_pi.run("sh", "-c", f"cp -p {CONFIG} /root/; echo '# edited' >>{CONFIG}")
    with pytest.raises(VirtualPiError) as refused:
        debian12_pi.run("sh", "-c", UPGRADE)
    assert "conffile prompt" in refused.value.detail
    debian12_pi.run("cp", "-p", "/root/redis.conf", CONFIG)
    debian12_pi.run("sh", "-c", f"dpkg --configure -a && {OLD}")
    assert deploy(debian12_pi).changed == set()


def test_services_leave_open_no_more_than_on_debian_13(debian12_pi: VirtualPi) -> None:
    found = {unit: exposure(debian12_pi, unit) for unit in LIMITS}
    assert {unit: figure for unit, figure in found.items() if figure > LIMITS[unit]} == {}
    verify = ("systemd-analyze", "verify", "--man=no", *(f"{unit}.service" for unit in LIMITS))
    done = debian12_pi.run(*verify)
    assert done.stdout + done.stderr == ""


def test_beat_keeps_its_schedule_in_a_file_that_python_3_11_reads(debian12_pi: VirtualPi) -> None:
    schedule = "/var/lib/celery-beat/schedule"
    before = json.loads(debian12_pi.run("cat", schedule).stdout)["tick"][1]
    debian12_pi.run("systemctl", "restart", "celery-beat")
    assert json.loads(debian12_pi.run("cat", schedule).stdout)["tick"][1] >= before


def ours(pi: VirtualPi) -> bool:
    """Whether the running server read our configuration and refuses who has no password."""
    stranger = pi.run("redis-cli", "-p", "6379", "ping", check=False).stdout
    read = redis(pi, "info", "server").replace("\r", "").splitlines()
    return stranger.startswith("NOAUTH") and "config_file:/etc/celery-pi/redis.conf" in read


def kept(pi: VirtualPi) -> str:
    """Digests of what a package must not touch."""
    script = "sha256sum /etc/celery-pi/secrets/* /etc/celery-pi/redis* /var/www/*/.env"
    return pi.run("sh", "-c", script).stdout


def all_is_well(pi: VirtualPi, before: str) -> None:
    assert kept(pi) == before
    assert ours(pi)
    assert redis(pi, "lrange", "kept", "0", "-1").split() == [str(n + 1) for n in range(KEPT)]
    assert "SUCCESS" in prove(pi)
    assert deploy(pi).changed == set()


def test_command_finds_all_well(debian12_pi: VirtualPi) -> None:
    for command in ("status", "audit"):
        assert ask(debian12_pi, command).names("wrong") == set()
