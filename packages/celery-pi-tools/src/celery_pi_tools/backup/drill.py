#!/usr/bin/python3
"""Managed by celery-pi. Restores the newest backup into a throw-away Redis, and compares.

Exit status: 0 it is what it was when it was made, and no older than promised; 1 it is not.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from celery_pi_backup import (
    PLACE,
    PROMISE,
    Settings,
    Trouble,
    alone,
    app,
    archive,
    backups,
    main,
    scratch,
    settings,
)
from celery_pi_backup.hands import workspace


def work() -> str:
    with alone(), workspace() as place:
        told = settings()
        found = backups()
        if not found:
            raise Trouble(f"there is no backup in {PLACE}")
        keys = compare(found[-1], place / "archive", told)
        return f"{found[-1].name} can be restored: {keys} keys and all else as they were"


def compare(path: Path, into: Path, told: Settings) -> int:
    """Number of keys. Trouble when anything is not as it was."""
    into.mkdir()
    described = archive.unpack(path, into, {archive.RDB, *app.known(told)})
    promised = described["redis"]
    differs = scratch.difference(scratch.look(into / "redis/dump.rdb"), promised)
    if differs:
        raise Trouble(f"{path}: {differs}")
    for member in described["members"]:
        if not member["name"].startswith("redis/"):
            app.check(member["name"], into / member["name"], told)
    hours = int(time.time() - described["made"]) // 3600
    if told["backup"] and hours * 3600 > PROMISE:
        raise Trouble(f"{path} is whole, but {hours} h old: see journalctl -u celery-pi-backup")
    return sum(database["keys"] for database in promised["databases"].values())


if __name__ == "__main__":
    sys.exit(main(work, "drill"))
