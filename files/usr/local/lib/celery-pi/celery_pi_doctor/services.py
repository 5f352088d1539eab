"""Managed by celery-pi. Our services: which is down, and which will be after a restart."""

from __future__ import annotations

from functools import partial

from celery_pi_checks import manifest

from celery_pi_doctor.act import all_of, do, start
from celery_pi_doctor.look import Look, output
from celery_pi_doctor.registry import Find, Found, problem

STARTING = 45  # seconds that a Pi may take to start the worker
BETWEEN = 2  # seconds for which it may be away when it is started again
ABOVE = ("Disk", "A process is stopped", "A package is half installed", "Permissions")
REDIS = "redis-server"  # of which there is more to tell: redis_server.py


def down(name: str, why: str) -> Find:
    """Looks for that service."""

    def find(look: Look) -> Found | None:
        shown = look.units[name]
        if shown["ActiveState"] == "active":
            return None
        saw = f"{name} is {shown['ActiveState']} ({shown['SubState']})"
        if shown["LoadState"] != "loaded":
            by_hand = "systemctl unmask it, if nobody meant that; deploy again"
            return Found(f"{name} is {shown['LoadState']}", why, by_hand)
        if shown["ActiveState"] == "deactivating":
            wait = "wait: the worker lets its tasks finish; start it then, if nothing else does"
            return Found(saw, why, wait, passing=STARTING)
        will = f"start it; if it fails again, journalctl -u {name} -n 50 says why"
        fix = partial(start, name, shown["ActiveState"])
        return Found(saw, why, will, fix, patience(look, name))

    return find


def patience(look: Look, name: str) -> float:
    """Seconds within which a service that is not up may come up by itself.

    systemd has a job for one that waits for another unit, as Beat does for the time.
    """
    shown = look.units[name]
    if shown["ActiveState"] in ("activating", "reloading") or shown.get("Job"):
        return STARTING
    return max(0, BETWEEN - look.down_for(name))


for each in manifest.units().values():
    if each.name != REDIS:
        problem("Services", f"{each.name} is down", (*each.needs, *ABOVE))(
            down(each.name, each.why)
        )


@problem("Services", "A service is not enabled")
def disabled(look: Look) -> Found | None:
    found = [name for name, unit in look.units.items() if unit["UnitFileState"] == "disabled"]
    if not found:
        return None
    return Found(
        f"{', '.join(found)} will not start with the machine",
        "after the next restart it is not there",
        "enable it",
        all_of(*(partial(do, "systemctl", "enable", "--quiet", name) for name in found)),
    )


@problem("Services", "Something else has failed", needs=("Disk",))
def others(look: Look) -> Found | None:
    listed = output("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager")
    names = [line.split()[0] for line in listed.splitlines() if line]
    found = [name for name in names if name.removesuffix(".service") not in look.units]
    if not found:
        return None
    return Found(
        f"failed: {', '.join(found)}",
        "systemd does not try it again by itself",
        f"journalctl -u {found[0]} -n 50; then systemctl restart, or reset-failed",
    )
