"""Managed by celery-pi. Backups: whether there is one that is not too old to help."""

from __future__ import annotations

import time
from pathlib import Path

from celery_pi_checks.look import Look
from celery_pi_checks.registry import Result, check, ok, warn
from celery_pi_checks.table import age, size

PLACE = Path("/var/backups/celery-pi")
OLD = 2 * 86400  # seconds
REMEDY = f"have a copy of Redis and of the app's database written to {PLACE} each night"


@check("Backups", "Newest")
def newest(_: Look) -> Result:
    files = [file for file in PLACE.glob("*") if file.is_file()]
    if not files:
        return warn(f"none in {PLACE}", REMEDY, files=0)
    last = max(files, key=lambda file: file.stat().st_mtime)
    since, length = time.time() - last.stat().st_mtime, last.stat().st_size
    told = f"{last.name}, {size(length)}, {age(since)} old"
    values = {"files": len(files), "seconds": int(since), "size": length}
    return warn(told, REMEDY, **values) if since > OLD or not length else ok(told, **values)
