"""Managed by celery-pi. Backups: what `status` tells of them, that they come by themselves, and
that nobody but root can read them."""

from __future__ import annotations

# That module registers its checks for this command too.
from celery_pi_checks import status_backups
from celery_pi_checks.look import Look, output
from celery_pi_checks.registry import Result, check, ok, warn, wrong
from celery_pi_checks.rights import access

TIMERS = ("celery-pi-backup.timer", "celery-pi-drill.timer")


@check("Backups", "Timers")
def timers(look: Look) -> Result:
    if not look.settings["backup"]:
        return warn("off, as backup = False has it", "backup = True, and deploy")
    states = output("systemctl", "show", "-P", "ActiveState", *TIMERS).split()
    stopped = [unit for unit, state in zip(TIMERS, states, strict=False) if state != "active"]
    if stopped:
        return wrong(f"{', '.join(stopped)} does not run", "deploy again", timers=stopped)
    return ok(f"each day at {look.settings['backup_time']}, a drill each week", timers=[])


@check("Backups", "Access")
def private(_: Look) -> Result | None:
    place = status_backups.PLACE
    if not place.exists():
        return None
    wanted = {place: "700 root:root", **dict.fromkeys(place.glob("*"), "600 root:root")}
    wide = sorted(path.name for path, mode in wanted.items() if access(path) != mode)
    if wide:
        remedy = f"chown -R root: {place}; chmod 700 {place}; chmod 600 {place}/*"
        return wrong(f"others than root may reach {', '.join(wide)}", remedy, files=wide)
    return ok("root's alone", files=[])
