"""The Pi itself, on a machine that is none, and then looks like one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.harness import Outcome, deploy, plan
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

LINE = "console=serial0,115200 console=tty1 root=PARTUUID=4d8097e2-02 rootwait"
CMDLINE = "/boot/firmware/cmdline.txt"
CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
# Its zram is that of Raspberry Pi OS: ours would be the host's.
MAKE = f"""
set -e
mkdir -p /root/firmware/devicetree/base /boot/firmware /etc/rpi
printf 'Raspberry Pi 4 Model B Rev 1.5\\0' >/root/firmware/devicetree/base/model
mount --bind /root/firmware /sys/firmware
echo 'cpuset cpu io pids' >/root/controllers
mount --bind /root/controllers {CONTROLLERS}
echo '{LINE}' >{CMDLINE}
touch /etc/rpi/swap.conf
mknod /dev/watchdog0 c 1 3
"""
UNMAKE = f"""
umount /sys/firmware {CONTROLLERS}
rm -rf /root/firmware /root/controllers /boot/firmware /etc/rpi /dev/watchdog0
rm -rf /etc/systemd/system.conf.d
systemctl daemon-reload
"""


@pytest.fixture(scope="module")
def looks_like_a_pi(pi: VirtualPi) -> Iterator[None]:
    pi.run("sh", "-c", MAKE)
    yield
    pi.run("sh", "-c", UNMAKE)


def test_other_machine_is_left_alone_and_told_so(pi: VirtualPi) -> None:
    shown = plan(pi)
    assert not [name for name in shown.planned if name.startswith("Raspberry Pi")]
    assert said(shown) == [
        "is no Raspberry Pi: kernel command line, swap and watchdog are left alone"
    ]


@pytest.mark.usefixtures("looks_like_a_pi")
def test_pi_is_seen_to_and_a_restart_is_asked_for_until_it_has_been(pi: VirtualPi) -> None:
    first = deploy(pi)
    assert first.changed == {
        *("Raspberry Pi | Have the memory of services counted", "Raspberry Pi | Configure"),
        "Raspberry Pi | Set the watchdog",
    }
    asked = "must be restarted, for cgroup_enable=memory to count services' memory"
    left = "swaps to zram by other means: its swap is left alone"
    assert said(first) == [asked, left]
    assert pi.run("cat", CMDLINE).stdout == f"{LINE} cgroup_enable=memory\n"
    assert pi.run("cat", f"{CMDLINE}.before-celery-pi").stdout == f"{LINE}\n"
    watched = pi.run("systemctl", "show", "-p", "RuntimeWatchdogUSec", "--value").stdout
    assert watched in ("15s\n", "1min\n")  # the host's kernel decides
    second = deploy(pi)
    assert second.changed == set()
    assert said(second) == [asked, left]
    pi.run("sh", "-c", "echo 'cpuset cpu io memory pids' >/root/controllers")
    restarted = plan(pi)
    assert restarted.planned == set()
    assert said(restarted) == [left]


def said(outcome: Outcome) -> list[str]:
    """What is told of the Raspberry Pi, without the machine's name."""
    words = ("Raspberry Pi", "restarted", "zram", "watchdog")
    lines = [line.strip() for line in outcome.stderr.splitlines()]
    told = [line.partition(" ")[2] for line in lines if line.startswith("@docker/")]
    return [line for line in told if any(word in line for word in words)]
