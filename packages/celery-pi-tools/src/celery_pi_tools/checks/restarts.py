"""Managed by celery-pi. Services that systemd has had to start again."""

from __future__ import annotations

import time

from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.system import RECENT, System, journal
from celery_pi_tools.table import age, count

REASON = "celery-pi: |Watchdog timeout|Failed with result|Main process exited|OOM"


@check("Restarts", "A service is started again and again", "doctor", only_if_healthy=True)
def restarts(system: System) -> Finding | None:
    found = {name: int(unit["NRestarts"]) for name, unit in system.units.items()}
    lately = [name for name in found if found[name] and time.time() - system.since(name) < RECENT]
    if not lately:
        return None
    name = lately[0]
    lines = journal.matching(name, f"-{RECENT}s", REASON)
    reason = f"; last: {lines[0]}" if lines else ""
    since = age(time.time() - system.since(name))
    shown = ", ".join(f"{name} ({count(found[name], 'time')})" for name in lately)
    return problem(
        f"by systemd, because it ended or hung: {shown}, {since} ago{reason}",
        "each time the tasks in hand begin anew",
        f"journalctl -u {name} -n 50; it is forgotten after an hour, or by systemctl reset-failed",
    )
