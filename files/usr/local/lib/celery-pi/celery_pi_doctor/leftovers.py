"""Managed by celery-pi. What a power cut, or an earlier installation, has left lying about."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from celery_pi_checks.table import age

from celery_pi_doctor.act import all_of
from celery_pi_doctor.look import Look
from celery_pi_doctor.registry import Found, problem

DAMAGED = Path("/var/lib/celery-beat/schedule.damaged")
PLACES = (Path("/run/celery"), Path("/var/lib/celery"))
FRESH = 60  # seconds in which who has written it may not be there yet
PROC = Path("/proc")


@problem("Leftovers", "Beat's schedule was damaged")
def damaged(_: Look) -> Found | None:
    if not DAMAGED.exists():
        return None
    since = age(time.time() - DAMAGED.stat().st_mtime)
    return Found(
        f"{since} ago Beat could not read its schedule, and began a new one",
        "what was due while Beat was away is not made up for",
        f"run by hand what should have been; then rm {DAMAGED}",
    )


@problem("Leftovers", "A PID file is stale")
def stale(look: Look) -> Found | None:
    places = (Path(look.value("app_dir")), *PLACES)
    files = [file for place in places for file in place.glob("*.pid") if is_stale(file)]
    if not files:
        return None
    return Found(
        f"{', '.join(map(str, files))} names no process that lives",
        "a Beat or worker that is started by hand takes another one to be there, and ends",
        "remove it; our units use none",
        all_of(*(partial(file.unlink, missing_ok=True) for file in files)),
    )


def is_stale(file: Path) -> bool:
    """Of Celery's only: another program's may mean something else."""
    if not file.name.startswith(("celery", "worker", "beat")) or file.is_symlink():
        return False
    text = file.read_text(errors="replace").strip()
    old = time.time() - file.stat().st_mtime > FRESH
    return old and text.isdigit() and not (PROC / text).exists()
