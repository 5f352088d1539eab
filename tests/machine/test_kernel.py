"""The kernel's settings on a machine: what is its own, and what is its container's host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.harness import deploy, plan, pyinfra
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def test_backlog_is_put_right_now_and_at_each_boot(pi: VirtualPi) -> None:
    def backlog() -> str:
        return pi.run("cat", "/proc/sys/net/core/somaxconn").stdout.strip()

    pi.run("sysctl", "-qw", "net.core.somaxconn=128")
    assert plan(pi).planned == {"Kernel | Apply"}
    assert deploy(pi).changed == {"Kernel | Apply"}
    assert backlog() == "4096"
    pi.run("sysctl", "-qw", "net.core.somaxconn=128")
    pi.run("systemctl", "restart", "systemd-sysctl")  # as a boot does
    assert backlog() == "4096"


def test_what_is_the_hosts_is_left_to_it_and_told(pi: VirtualPi) -> None:
    """The virtual Pi is a container."""
    before = OVERCOMMIT.read_text()
    pi.run("systemctl", "restart", "systemd-sysctl")
    shown = pyinfra(pi, "--dry", "inventory.py", "deploy.py").output
    told = f"{OVERCOMMIT} is its host's: it is {before.strip()}, and should be 1"
    assert (told in shown) == (before.strip() != "1")
    assert OVERCOMMIT.read_text() == before
