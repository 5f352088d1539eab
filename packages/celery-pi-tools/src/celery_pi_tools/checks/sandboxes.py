"""Managed by celery-pi. The units: as whom they run, and what is left open to them."""

from __future__ import annotations

import json
from pathlib import Path
from pwd import getpwuid

from celery_pi_tools import manifest
from celery_pi_tools.checks.registry import Finding, check, ok, wrong
from celery_pi_tools.commands import output
from celery_pi_tools.system import System

PROC = Path("/proc")


@check("Units", "Users of the units", "audit")
def users(system: System) -> Finding:
    owners = {
        name: owner(unit["MainPID"])
        for name, unit in system.units.items()
        if unit["MainPID"] != "0"
    }
    stated = manifest.units()
    as_root = sorted(name for name in owners if owners[name] == "root" and not stated[name].root)
    if as_root:
        remedy = "systemctl cat UNIT shows which file says so; deploy again"
        return wrong(f"root: {', '.join(as_root)}", remedy, users=owners)
    evidence = ", ".join(f"{name} {user}" for name, user in owners.items())
    return ok(evidence or "none runs", users=owners)


def owner(pid: str) -> str:
    return getpwuid((PROC / pid).stat().st_uid).pw_name


@check("Units", "Sandboxes", "audit")
def sandboxes(system: System) -> Finding:
    ratings = json.loads(output("systemd-analyze", "security", "--no-pager", "--json=short"))
    rated = {unit["unit"].removesuffix(".service"): float(unit["exposure"]) for unit in ratings}
    exposures = {name: rated[name] for name in system.units if name in rated}
    stated = manifest.units()
    open_ones = {name: score for name, score in exposures.items() if score > stated[name].exposure}
    if open_ones:
        evidence = ", ".join(f"{name} {score}" for name, score in open_ones.items())
        return wrong(
            f"too open: {evidence}", "systemd-analyze security UNIT; deploy again", **exposures
        )
    evidence = ", ".join(f"{name} {score}" for name, score in exposures.items())
    return ok(f"{evidence} (10 is open)", **exposures)
