"""Managed by celery-pi. The units: ours one by one, and whatever else has failed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from celery_pi_tools import manifest
from celery_pi_tools.checks.registry import Finding, Function, check, ok, problem, warn, wrong
from celery_pi_tools.checks.repairs import all_of, start
from celery_pi_tools.commands import execute
from celery_pi_tools.system import RECENT, System
from celery_pi_tools.table import age, count

STARTING = 45  # seconds that a Pi may take to start the worker
BETWEEN = 2  # seconds for which it may be away when it is started again
ABOVE = ("Disk", "A process is stopped", "A package is half installed", "Permissions")
REDIS = "redis-server"  # redis_server.py has more to check of it


def running(name: str, impact: str) -> Function:
    """A check whether that unit runs; its impact if it does not."""
    return lambda system: is_running(system, name, impact)


def is_running(system: System, name: str, impact: str) -> Finding:
    properties = system.units[name]
    restarts = int(properties["NRestarts"])
    evidence = f"{properties['ActiveState']} ({properties['SubState']})"
    values: dict[str, Any] = {"state": properties["ActiveState"], "restarts": restarts}
    log = f"journalctl -u {name} -n 50"
    if properties["ActiveState"] == "active":
        since = time.monotonic() - int(properties["ActiveEnterTimestampMonotonic"]) / 1e6
        values["seconds"], evidence = int(since), f"{evidence} for {age(since)}"
        if not restarts:
            return ok(evidence, **values)
        evidence += f", after {count(restarts, 'restart')} by itself"
        return warn(evidence, log, **values) if since < RECENT else ok(evidence, **values)
    if properties["LoadState"] != "loaded":
        by_hand = "systemctl unmask it, if nobody meant that; deploy again"
        return problem(f"{evidence}, {properties['LoadState']}", impact, by_hand, **values)
    evidence += f", {properties['Result']}" if properties["Result"] != "success" else ""
    if properties["ActiveState"] == "deactivating":
        wait = "wait: the worker lets its tasks finish; start it then, if nothing else does"
        return problem(evidence, impact, wait, grace=STARTING, **values)
    will = f"start it (systemctl start {name}); if it fails again, {log} says why"
    fix = partial(start, name, properties["ActiveState"])
    return problem(evidence, impact, will, fix, patience(system, name), **values)


def patience(system: System, name: str) -> float:
    """Seconds within which a service that is not up may come up by itself.

    systemd has a job for one that waits for another unit, as Beat does for the time.
    """
    properties = system.units[name]
    if properties["ActiveState"] in ("activating", "reloading") or properties.get("Job"):
        return STARTING
    return max(0, BETWEEN - system.down_for(name))


for each in manifest.units().values():
    if each.name != REDIS:
        judge, above = running(each.name, each.why), (*each.needs, *ABOVE)
        check("Units", each.name, "status")(judge)
        check("Services", f"{each.name} is down", "doctor", after=above)(judge)


@check("Services", "A service is not enabled", "doctor")
def disabled(system: System) -> Finding | None:
    names = [name for name, unit in system.units.items() if unit["UnitFileState"] == "disabled"]
    if not names:
        return None
    return problem(
        f"{', '.join(names)} will not start with the machine",
        "after the next restart it is not there",
        "enable it",
        all_of(*(partial(execute, "systemctl", "enable", "--quiet", name) for name in names)),
    )


@check("Units", "Failed", "status")
def failed(system: System) -> Finding:
    names = system.failed_units
    if names:
        return wrong(", ".join(names), "systemctl status UNIT; journalctl -u UNIT", units=names)
    return ok("none", units=[])


@check("Services", "Something else has failed", "doctor", after=("Disk",))
def others(system: System) -> Finding | None:
    failed = system.failed_units
    names = [name for name in failed if name.removesuffix(".service") not in system.units]
    if not names:
        return None
    return problem(
        f"failed: {', '.join(names)}",
        "systemd does not try it again by itself",
        f"journalctl -u {names[0]} -n 50; then systemctl restart, or reset-failed",
    )
