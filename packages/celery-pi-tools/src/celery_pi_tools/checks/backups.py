"""Managed by celery-pi. Backups: whether there is one of today, whether it could be restored, that
they come by themselves, and that nobody but root can read them.

A file that bears a backup's name was whole when it got it; whether it still is, the drill finds.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.commands import inactive
from celery_pi_tools.config import STATE
from celery_pi_tools.file_access import access
from celery_pi_tools.system import System
from celery_pi_tools.table import age, size

PLACE = Path("/var/backups/celery-pi")
TIMERS = ("celery-pi-backup.timer", "celery-pi-drill.timer")
PATTERN = "????-??-??T??????Z.tar.gz"
UNIT = Path("/etc/systemd/system/celery-pi-backup.service")
OLD = 26 * 3600  # seconds; one a day, and two hours for a late one
DRILL_OLD = 8 * 86400  # seconds; one a week
NOW = "celery-pi backup; journalctl -u celery-pi-backup -n 20"
TRY = "celery-pi drill; journalctl -u celery-pi-drill -n 20"


@check("Backups", "Newest", "status", "audit")
def newest(system: System) -> Finding | None:
    daily = system.settings["backup"]
    files = sorted(PLACE.glob(PATTERN))
    if not files:
        return none_yet(system) if daily else None
    state = files[-1].stat()
    since = time.time() - state.st_mtime
    evidence = f"{files[-1].name}, {size(state.st_size)}, {age(since)} old; {len(files)} kept"
    values = {"files": len(files), "seconds": int(since), "size": state.st_size}
    last = read("backup")
    if not last.get("well", True) and last["time"] > state.st_mtime:
        return wrong(f"{evidence}; the last try failed: {last['said']}", NOW, **values)
    return wrong(evidence, NOW, **values) if daily and since > OLD else ok(evidence, **values)


def none_yet(system: System) -> Finding:
    """Wrong only once the first backup is overdue."""
    last = read("backup")
    if not last.get("well", True):
        return wrong(f"none; the last try failed: {last['said']}", NOW, files=0)
    if time.time() - UNIT.stat().st_mtime > OLD:
        return wrong(f"none in {PLACE}", NOW, files=0)
    evidence = f"none yet; the first comes at {system.settings['backup_time']}"
    return warn(evidence, "celery-pi backup", files=0)


@check("Backups", "Last drill", "status", "audit")
def drill(system: System) -> Finding | None:
    last = read("drill")
    if not last:
        return not_tried(system) if any(PLACE.glob(PATTERN)) else None
    since = time.time() - last["time"]
    evidence = f"{age(since)} ago: {last['said']}"
    values = {"well": last["well"], "seconds": int(since)}
    if not last["well"] or (system.settings["backup"] and since > DRILL_OLD):
        return wrong(evidence, TRY, **values)
    return ok(evidence, **values)


def not_tried(system: System) -> Finding:
    judge = wrong if is_late(UNIT, system) else warn
    return judge("no backup was restored on trial yet", "celery-pi drill", well=None)


def is_late(unit: Path, system: System) -> bool:
    return bool(system.settings["backup"]) and time.time() - unit.stat().st_mtime > DRILL_OLD


def read(name: str) -> dict[str, Any]:
    """The record of the last run, or nothing."""
    file = STATE / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


@check("Backups", "Timers", "audit")
def timers(system: System) -> Finding:
    if not system.settings["backup"]:
        return warn("off, as backup = False has it", "backup = True, and deploy")
    if stopped := inactive(*TIMERS):
        return wrong(f"{', '.join(stopped)} does not run", "deploy again", timers=stopped)
    return ok(f"each day at {system.settings['backup_time']}, a drill each week", timers=[])


@check("Backups", "Access", "audit")
def private(_: System) -> Finding | None:
    place = PLACE
    if not place.exists():
        return None
    expected = {place: "700 root:root", **dict.fromkeys(place.glob("*"), "600 root:root")}
    open_files = sorted(path.name for path, mode in expected.items() if access(path) != mode)
    if open_files:
        remedy = f"chown -R root: {place}; chmod 700 {place}; chmod 600 {place}/*"
        return wrong(
            f"others than root may reach {', '.join(open_files)}", remedy, files=open_files
        )
    return ok("root's alone", files=[])
