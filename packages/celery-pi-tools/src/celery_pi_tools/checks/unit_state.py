"""Managed by celery-pi. The units: ours one by one, and whatever else has failed."""

from __future__ import annotations

import time

from celery_pi_tools import manifest
from celery_pi_tools.checks.registry import Finding, Function, check, ok, warn, wrong
from celery_pi_tools.commands import output
from celery_pi_tools.system import System
from celery_pi_tools.table import age, count

RECENT = 3600  # seconds


def unit(name: str) -> Function:
    """A check of that unit."""
    return lambda system: state(name, system.units[name])


def state(name: str, shown: dict[str, str]) -> Finding:
    restarts = int(shown["NRestarts"])
    since = time.monotonic() - int(shown["ActiveEnterTimestampMonotonic"]) / 1e6
    evidence = f"{shown['ActiveState']} ({shown['SubState']})"
    values = {"state": shown["ActiveState"], "restarts": restarts}
    log = f"journalctl -u {name} -n 50"
    if shown["ActiveState"] != "active":
        failed = f", {shown['Result']}" if shown["Result"] != "success" else ""
        return wrong(f"{evidence}{failed}", f"{log}; systemctl restart {name}", **values)
    evidence += f" for {age(since)}"
    values["seconds"] = int(since)
    if not restarts:
        return ok(evidence, **values)
    evidence += f", after {count(restarts, 'restart')} by itself"
    return warn(evidence, log, **values) if since < RECENT else ok(evidence, **values)


for each in manifest.units():
    check("Units", each, "status")(unit(each))


@check("Units", "Failed", "status")
def failed(_: System) -> Finding:
    listed = output("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager")
    names = [line.split()[0] for line in listed.splitlines() if line]
    if names:
        return wrong(", ".join(names), "systemctl status UNIT; journalctl -u UNIT", units=names)
    return ok("none", units=[])
