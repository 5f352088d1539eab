"""Managed by celery-pi. Why services were started again, and those that systemd starts again and
again."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from celery_pi_tools import deploys, journal
from celery_pi_tools.checks.registry import Finding, check, ok, problem
from celery_pi_tools.system import RECENT, System
from celery_pi_tools.table import age, count

REASON = "celery-pi: |Watchdog timeout|Failed with result|Main process exited|OOM"
TASKS = ("celery-worker", "celery-beat")
# systemd's words in a unit's journal, and ours.
CAUSES = {
    "watchdog timeout": "the watchdog: it did not answer in time",
    "oom killer|'oom-kill'": "memory: the kernel ended a process of it",
}
HISTORY = Path("/var/log/apt/history.log")
UPDATED = 900  # seconds after packages were upgraded, within which needrestart restarts services
MOST = 5  # packages that are named
LARGEST = 2**22  # bytes of apt's history that are read, from its end


@check("Units", "Last restart", "status")
def last_restart(system: System) -> Finding | None:
    """Of the worker and Beat, and why."""
    reasons = {
        name: why(system, name) for name in TASKS if name in system.units and system.up(name)
    }
    if not reasons:
        return None
    sentences = [
        f"{name} {age(time.time() - system.since(name))} ago, by {reason}"
        for name, reason in reasons.items()
    ]
    return ok(
        "; ".join(sentences), **{name.replace("-", "_"): text for name, text in reasons.items()}
    )


def why(system: System, name: str) -> str:
    """Why its main process was started, as far as the machine's records tell."""
    since, stopped = system.since(name), system.stopped(name)
    if int(system.units[name]["NRestarts"]):
        return by_itself(name, since)
    if stopped is None:
        return deploy_at(name, since) or "the start of the machine"
    return deploy_at(name, stopped) or update_before(stopped) or "a command (systemctl)"


def by_itself(name: str, since: float) -> str:
    """Why systemd started it again at that time."""
    lines = journal.matching(name, f"@{since - RECENT:.0f}", REASON, f"@{since + 1:.0f}")
    for pattern, cause in CAUSES.items():
        if any(re.search(pattern, line, re.IGNORECASE) for line in lines[:5]):
            return cause
    how = [line for line in lines[:5] if "Main process exited" in line] or lines
    return f"systemd: {how[0].removeprefix(f'{name}.service: ')}" if how else "systemd"


def deploy_at(name: str, moment: float) -> str:
    """The deploy that was under way then, and what it had to restart the unit for."""
    record = deploys.at(moment)
    if record is None:
        return ""
    planned = [item for items in record.get("planned", {}).values() for item in items]
    reasons = [item for item in planned if item.startswith(f"{name}.service (")]
    reason = reasons[0].partition("(")[2][:-1].removeprefix("yours: ") if reasons else ""
    return f"deploy {record['number']}" + (f": {reason}" if reason else "")


def update_before(moment: float) -> str:
    """The packages that apt had just upgraded then. New ones replace nothing that services use."""
    if not HISTORY.exists():
        return ""
    with HISTORY.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LARGEST))
        text = file.read(LARGEST).decode(errors="replace")
    for block in reversed(text.split("\n\n")):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if not {"Start-Date", "Upgrade", "End-Date"} <= lines.keys():
            continue
        begun, ended = (local(lines[key]) for key in ("Start-Date", "End-Date"))
        if begun <= moment <= ended + UPDATED:
            names = re.findall(r"([^ ,:()]+):\w+ \(", lines["Upgrade"])
            return f"an update of packages ({', '.join(names[:MOST])})"
        if ended + UPDATED < moment:
            break
    return ""


def local(text: str) -> float:
    """Unix time of a time that apt has written, in the machine's own zone."""
    return time.mktime(time.strptime(text, "%Y-%m-%d  %H:%M:%S"))


@check("Restarts", "A service is started again and again", "doctor", only_if_healthy=True)
def restarts(system: System) -> Finding | None:
    counts = {name: int(unit["NRestarts"]) for name, unit in system.units.items()}
    lately = [name for name in counts if counts[name] and time.time() - system.since(name) < RECENT]
    if not lately:
        return None
    name = lately[0]
    lines = journal.matching(name, f"-{RECENT}s", REASON)
    reason = f"; last: {lines[0]}" if lines else ""
    since = age(time.time() - system.since(name))
    services = ", ".join(f"{name} ({count(counts[name], 'time')})" for name in lately)
    return problem(
        f"by systemd, because it ended or hung: {services}, {since} ago{reason}",
        "each time the tasks in hand begin anew",
        f"journalctl -u {name} -n 50; it is forgotten after an hour, or by systemctl reset-failed",
    )
