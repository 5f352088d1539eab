"""Managed by celery-pi. Backups: what `status` tells of them, that they come by themselves, and
that nobody but root can read them."""

from __future__ import annotations

# That module registers its checks for this command too.
from celery_pi_tools.checks import status_backups
from celery_pi_tools.checks.registry import Result, check, ok, warn, wrong
from celery_pi_tools.commands import output
from celery_pi_tools.file_access import access
from celery_pi_tools.system import System

TIMERS = ("celery-pi-backup.timer", "celery-pi-drill.timer")


@check("Backups", "Timers")
def timers(system: System) -> Result:
    if not system.settings["backup"]:
        return warn("off, as backup = False has it", "backup = True, and deploy")
    states = output("systemctl", "show", "-P", "ActiveState", *TIMERS).split()
    stopped = [unit for unit, state in zip(TIMERS, states, strict=False) if state != "active"]
    if stopped:
        return wrong(f"{', '.join(stopped)} does not run", "deploy again", timers=stopped)
    return ok(f"each day at {system.settings['backup_time']}, a drill each week", timers=[])


@check("Backups", "Access")
def private(_: System) -> Result | None:
    place = status_backups.PLACE
    if not place.exists():
        return None
    wanted = {place: "700 root:root", **dict.fromkeys(place.glob("*"), "600 root:root")}
    wide = sorted(path.name for path, mode in wanted.items() if access(path) != mode)
    if wide:
        remedy = f"chown -R root: {place}; chmod 700 {place}; chmod 600 {place}/*"
        return wrong(f"others than root may reach {', '.join(wide)}", remedy, files=wide)
    return ok("root's alone", files=[])
