"""The kernel's settings on a machine: what is its own, and what is its container's host's."""

from __future__ import annotations

import json
from pathlib import Path

from tests.harness import deploy, pids, plan, pyinfra
from tests.virtual_pi import VirtualPi

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
# What jemalloc was built for; it refuses to start where the kernel's pages are larger.
PAGE = """
import ctypes, json
page, size = ctypes.c_size_t(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_size_t))
library = ctypes.CDLL("libjemalloc.so.2")
failed = library.mallctl(b"arenas.page", ctypes.byref(page), ctypes.byref(size), None, 0)
print(json.dumps([failed, page.value]))
"""


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


def test_redis_runs_with_the_pages_of_a_pi_5(pi: VirtualPi) -> None:
    """Its kernel has pages of 16 KiB. Only arm64 is built for more than 4."""
    # Loaded any later, it may find no room for what it keeps for each thread.
    preload = ("env", "LD_PRELOAD=libjemalloc.so.2")
    failed, page = json.loads(pi.run(*preload, "python3", "-c", PAGE).stdout)
    assert failed == 0
    assert page >= (16384 if pi.platform == "linux/arm64" else 4096)
    server = pids(pi)["redis-server"]  # and not a process of its that saves, which ends
    assert "libjemalloc.so.2" in pi.run("cat", f"/proc/{server}/maps").stdout
