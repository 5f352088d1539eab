"""Managed by celery-pi. Unit files that systemd has not loaded, and processes that are stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.commands import execute
from celery_pi_tools.system import System

STOPPED = "T"
PROC = Path("/proc")


@check("Units", "A unit file is not loaded", "doctor")
def not_loaded(system: System) -> Finding | None:
    names = [name for name, unit in system.units.items() if unit["NeedDaemonReload"] == "yes"]
    if not names:
        return None
    return problem(
        f"changed on the disk since systemd read it: {', '.join(names)}",
        "the next start would still go by the old file",
        "have systemd read it (systemctl daemon-reload); what runs is left as it is",
        lambda: execute("systemctl", "daemon-reload"),
    )


@check("Units", "A process is stopped", "doctor")
def stopped(system: System) -> Finding | None:
    pids_by_unit = {
        name: [pid for pid in system.pids(name) if is_stopped(pid)] for name in system.units
    }
    pids = [pid for each in pids_by_unit.values() for pid in each]
    if not pids:
        return None
    names = ", ".join(name for name, each in pids_by_unit.items() if each)
    return problem(
        f"stopped by a signal (SIGSTOP): {names}, process {', '.join(map(str, pids))}",
        "it is there and does nothing, and whoever asks it waits",
        "let it go on (SIGCONT)",
        lambda: go_on(pids),
        grace=2,
    )


def is_stopped(pid: int) -> bool:
    return stat(pid)[0] == STOPPED


def parent(pid: int) -> str:
    return stat(pid)[1]


def stat(pid: int) -> list[str]:
    """State and parent of a process; without text if it has just ended."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ["", ""]
    return text.rpartition(")")[2].split()[:2]


def pids() -> list[int]:
    """Every process."""
    return [int(entry.name) for entry in PROC.glob("[0-9]*")]


def go_on(pids: list[int]) -> None:
    for pid in pids:
        if is_stopped(pid):
            os.kill(pid, signal.SIGCONT)
