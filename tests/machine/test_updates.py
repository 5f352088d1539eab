"""Updates: a real upgrade from archives of the test's own, and what runs afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.harness import deploy, pids, send, wait_for
from tests.helpers.status_output import reason
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

ALLOWED = "/run/virtual-pi-updates"  # what the virtual Pi's own services wait for
LIBRARY = "/usr/lib/nest/libnest-security.so"
WORKER = "/run/systemd/system/celery-worker.service.d/nest.conf"

# An archive for each origin, with packages of version 2 of which 1 is installed.
BUILD = """
set -e
package() {
  root=$(mktemp -d); mkdir -p $root/DEBIAN $root/usr/lib/nest /srv/nest/$1
  printf 'Package: %s\\nVersion: %s\\nArchitecture: all\\nMaintainer: N <n@nest.example>\\n' \\
    $2 $3 >$root/DEBIAN/control
  echo 'Description: none' >>$root/DEBIAN/control
  cp /usr/lib/*/libz.so.1 $root/usr/lib/nest/lib$2.so
  dpkg-deb --build --root-owner-group $root /srv/nest/$1/$2_$3.deb >/dev/null; rm -r $root
}
archive() {
  cd /srv/nest/$1
  for deb in *.deb; do
    dpkg-deb --field $deb
    echo "Filename: ./$deb"; echo "Size: $(stat -c %s $deb)"
    echo "SHA256: $(sha256sum <$deb | cut -d' ' -f1)"; echo
  done >Packages
  printf 'Origin: %s\\nLabel: %s\\nCodename: %s\\nSHA256:\\n %s %s Packages\\n' "$2" "$3" $4 \\
    $(sha256sum <Packages | cut -d' ' -f1) $(stat -c %s Packages) >Release
  echo "deb [trusted=yes] file:/srv/nest/$1 ./" >>/root/nest/sources/nest.list
}
mkdir -p /root/nest/sources /root/nest/lists
mount --bind /root/nest/sources /etc/apt/sources.list.d
mount --bind /root/nest/lists /var/lib/apt/lists
for name in nest-security nest-held redis-nest nest-pi nest-stable nest-alien; do
  package old $name 1
done
dpkg --install /srv/nest/old/*.deb >/dev/null
apt-mark hold nest-held >/dev/null
for name in nest-security nest-held redis-nest; do package security $name 2; done
package pi nest-pi 2; package stable nest-stable 2; package alien nest-alien 2
. /etc/os-release
archive security Debian Debian-Security $VERSION_CODENAME-security
archive pi 'Raspberry Pi Foundation' 'Raspberry Pi Foundation' $VERSION_CODENAME
archive stable Debian Debian $VERSION_CODENAME
archive alien Nest Debian-Security $VERSION_CODENAME-security
"""
REMOVE = """
umount /etc/apt/sources.list.d /var/lib/apt/lists
systemctl stop nest
dpkg --purge nest-security nest-held redis-nest nest-pi nest-stable nest-alien >/dev/null
rm -rf /root/nest /srv/nest /run/systemd/system/nest.service /run/reboot-required
"""
USER = f"""
import ctypes, signal
ctypes.CDLL("{LIBRARY}")
signal.pause()
"""
NEST = "[Service]\nExecStart=/usr/bin/python3 /root/nest/user.py\n"
PRELOAD = f"[Service]\nEnvironment=LD_PRELOAD={LIBRARY}\n"


@pytest.fixture(scope="module", autouse=True)
def archives(pi: VirtualPi) -> Iterator[None]:
    pi.run("sh", "-c", BUILD)
    pi.run("touch", ALLOWED)
    yield
    pi.run("rm", "-f", ALLOWED, WORKER)
    pi.run("sh", "-c", REMOVE)
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "restart", "celery-worker")


def put(pi: VirtualPi, path: str, content: str) -> None:
    pi.run("sh", "-c", f"mkdir -p {path.rpartition('/')[0]}; cat >{path}", input=content.encode())


def versions(pi: VirtualPi) -> dict[str, str]:
    show = ("dpkg-query", "-W", "-f", "${Package} ${Version}\\n", "*nest*")
    return dict(line.split() for line in pi.run(*show).stdout.splitlines())


def pid(pi: VirtualPi, unit: str) -> str:
    return pi.run("systemctl", "show", "-p", "MainPID", "--value", unit).stdout.strip()


def would_upgrade(pi: VirtualPi) -> set[str]:
    pi.run("apt-get", "-q", "update")
    shown = pi.run("unattended-upgrade", "--dry-run", "-v").stdout
    (line,) = [line for line in shown.splitlines() if "Packages that will be upgraded:" in line]
    return set(line.partition("upgraded:")[2].split())


def reads(pi: VirtualPi, *wanted: str) -> str:
    """What apt's configuration comes to, as a shell reads it."""
    return pi.run("apt-config", "shell", *wanted).stdout.strip()


REBOOT = (
    "ON",
    "Unattended-Upgrade::Automatic-Reboot/b",
    "AT",
    "Unattended-Upgrade::Automatic-Reboot-Time",
)
# What needrestart's whole configuration says of Redis.
MAY_RESTART = """
our %nrconf; do "/etc/needrestart/needrestart.conf"; die $@ if $@;
my ($said) = grep { "redis-server.service" =~ /$_/ } sort keys %{$nrconf{override_rc}};
print $nrconf{restart}, $said ? $nrconf{override_rc}{$said} : 1;
"""


def test_held_package_is_told_and_a_second_deploy_changes_nothing(pi: VirtualPi) -> None:
    again = deploy(pi)
    assert again.changed == set()
    assert "nest-held: held back, from security updates too" in again.stderr


def test_security_is_upgraded_at_the_set_time_and_nothing_else(pi: VirtualPi) -> None:
    show = ("systemctl", "show", "-p", "NextElapseUSecRealtime", "--value")
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert re.search(r" 04:(0\d:\d\d|10:00) ", pi.run(*show, timer).stdout)
    assert would_upgrade(pi) == {"nest-security", "redis-nest", "nest-pi"}


def test_upgrade_starts_again_what_uses_a_replaced_library_and_loses_no_task(pi: VirtualPi) -> None:
    put(pi, "/root/nest/user.py", USER)
    put(pi, "/run/systemd/system/nest.service", NEST)
    put(pi, WORKER, PRELOAD)
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "restart", "nest", "celery-worker")
    before, nest = pids(pi), pid(pi, "nest")
    with ThreadPoolExecutor(1) as site:
        task = site.submit(send, pi, "sleep", 20)
        pi.run("systemctl", "start", "apt-daily-upgrade.service", timeout=600)
        assert versions(pi) == {
            **dict.fromkeys(("nest-security", "redis-nest", "nest-pi"), "2"),
            **dict.fromkeys(("nest-held", "nest-stable", "nest-alien"), "1"),
        }
        assert task.result() == "20"
    assert pid(pi, "nest") != nest
    wait_for("a new worker", lambda: pids(pi)["celery-worker"] != before["celery-worker"], 120)
    changed = {unit for unit, was in before.items() if pids(pi)[unit] != was}
    assert changed == {"celery-worker"}
    assert reason(pi, "celery-worker").startswith("an update of packages (")


def test_redis_and_a_restart_of_the_machine_are_for_the_owner_to_choose(pi: VirtualPi) -> None:
    assert reads(pi, *REBOOT) == "ON='false'"
    assert pi.run("perl", "-e", MAY_RESTART).stdout == "a1"
    pi.run("touch", "/run/reboot-required")
    chosen = deploy(pi, updates_redis=False, updates_reboot="05:30")
    assert chosen.changed == {"Updates | Configure", "Command | Install celery-pi"}
    assert "an update waits for a restart of the machine" in chosen.stderr
    assert reads(pi, *REBOOT) == "ON='true'\nAT='05:30'"
    assert pi.run("perl", "-e", MAY_RESTART).stdout == "a0"
    pi.run("dpkg", "--force-downgrade", "--install", "/srv/nest/old/redis-nest_1.deb")
    pi.run("dpkg", "--force-downgrade", "--install", "/srv/nest/old/nest-pi_1.deb")
    assert would_upgrade(pi) & {"redis-nest", "nest-pi"} == {"nest-pi"}


def test_switched_off_nothing_of_ours_is_left(pi: VirtualPi) -> None:
    off = deploy(pi, updates=False)
    assert off.changed == {
        *("Updates | Remove", "Command | Install celery-pi"),
        *("Updates | Set the time of apt-daily", "Updates | Set the time of apt-daily-upgrade"),
    }
    assert pi.run("find", "/etc/apt", "/etc/needrestart", "-name", "*celery*").stdout == ""
    times = pi.run("systemctl", "show", "-p", "TimersCalendar", "apt-daily-upgrade.timer").stdout
    assert "06:00:00" in times
    assert "04:00:00" not in times
    assert deploy(pi).status == 0
