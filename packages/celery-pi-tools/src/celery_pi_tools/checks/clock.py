"""Managed by celery-pi. The clock: a Pi has none of its own that runs while it is off."""

from __future__ import annotations

import time
from pathlib import Path

from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.commands import execute, output
from celery_pi_tools.system import System
from celery_pi_tools.table import age

# Written at times that were right: by a time service, by a deploy, by an upgrade.
WITNESSES = (
    Path("/var/lib/systemd/timesync/clock"),
    Path("/etc/celery-pi/settings.json"),
    Path("/var/lib/dpkg/status"),
)
BEHIND = 86400  # seconds
PATIENCE = 900  # seconds after the start within which network time may be long in coming
UPTIME = Path("/proc/uptime")
TIMESYNCD = "systemd-timesyncd.service"
SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
CONTAINER = Path("/run/systemd/container")
WHY = "periodic tasks run at the wrong time, results expire wrongly, certificates are refused"


@check("Clock", "The clock is wrong", "doctor")
def behind(_: System) -> Finding | None:
    newest = max(file.stat().st_mtime for file in WITNESSES if file.exists())
    late = newest - time.time()
    if late < BEHIND:
        return None
    return problem(
        f"it is {age(late)} behind the newest file of the system",
        WHY,
        "see that the network is there and wait for its time, or set it: "
        "date -s '2030-12-31 23:59'; then systemctl restart celery-beat",
    )


@check("Clock", "Nobody sets the clock", "doctor", after=("The clock is wrong",))
def unset(_: System) -> Finding | None:
    state = output("systemctl", "show", "-p", "LoadState,ActiveState", TIMESYNCD)
    properties = dict(line.split("=", 1) for line in state.splitlines())
    # Another time service takes the place of this one; a container has its host's clock.
    if properties["LoadState"] != "loaded" or CONTAINER.exists():
        return None
    if properties["ActiveState"] != "active":
        return problem("network time is switched off", WHY, "switch it on", switch_on, grace=5)
    if SYNCHRONIZED.exists() or float(UPTIME.read_text().split()[0]) < PATIENCE:
        return None
    return problem(
        "no network time has come since the start",
        WHY,
        "see whether NTP (UDP port 123) leaves your network: timedatectl timesync-status",
    )


def switch_on() -> None:
    execute("systemctl", "enable", "--quiet", "--now", TIMESYNCD)
