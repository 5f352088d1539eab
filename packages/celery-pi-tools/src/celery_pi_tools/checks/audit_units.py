"""Managed by celery-pi. The units: as whom they run, and what is left open to them."""

from __future__ import annotations

import json
from pathlib import Path
from pwd import getpwuid

from celery_pi_tools.checks.registry import Result, check, ok, wrong
from celery_pi_tools.commands import output
from celery_pi_tools.system import System

# The first two read a password that is root's, nginx opens ports and fail2ban closes them: all in
# a sandbox.
AS_ROOT = {"redis-memory", "nginx", "fail2ban"}
MOST = 2.0  # what systemd calls OK begins there; the worker itself is at 1.1
MOST_OF_OTHERS = {"nginx": 4.0, "fail2ban": 4.0}  # with room for a site and for jails of its own
PROC = Path("/proc")


@check("Units", "Users of the units")
def users(system: System) -> Result:
    owners = {
        name: owner(unit["MainPID"])
        for name, unit in system.units.items()
        if unit["MainPID"] != "0"
    }
    as_root = sorted(name for name in owners if owners[name] == "root" and name not in AS_ROOT)
    if as_root:
        remedy = "systemctl cat UNIT shows which file says so; deploy again"
        return wrong(f"root: {', '.join(as_root)}", remedy, users=owners)
    evidence = ", ".join(f"{name} {user}" for name, user in owners.items())
    return ok(evidence or "none runs", users=owners)


def owner(pid: str) -> str:
    return getpwuid((PROC / pid).stat().st_uid).pw_name


@check("Units", "Sandboxes")
def sandboxes(system: System) -> Result:
    listed = json.loads(output("systemd-analyze", "security", "--no-pager", "--json=short"))
    rated = {unit["unit"].removesuffix(".service"): float(unit["exposure"]) for unit in listed}
    found = {name: rated[name] for name in system.units if name in rated}
    open_ones = {name: score for name, score in found.items() if score > limit(name)}
    if open_ones:
        evidence = ", ".join(f"{name} {score}" for name, score in open_ones.items())
        return wrong(
            f"too open: {evidence}", "systemd-analyze security UNIT; deploy again", **found
        )
    evidence = ", ".join(f"{name} {score}" for name, score in found.items())
    return ok(f"{evidence} (10 is open)", **found)


def limit(name: str) -> float:
    return MOST_OF_OTHERS.get(name, MOST)
