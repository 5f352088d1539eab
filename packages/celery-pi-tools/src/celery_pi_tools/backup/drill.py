"""Managed by celery-pi. The command `celery-pi drill`: restores the newest backup into a throw-away
Redis, and compares.

Exit status: 0 the backup holds what it held when it was made, and is recent enough; 1 it does not.
"""

from __future__ import annotations

import time
from pathlib import Path

from celery_pi_tools.backup import app, archive, redis_contents
from celery_pi_tools.backup.common import (
    BACKUPS,
    MAX_AGE,
    BackupError,
    backups,
    exclusive,
    load_settings,
    run,
)
from celery_pi_tools.backup.workspace import workspace
from celery_pi_tools.config import Settings


def main() -> int:
    return run(drill, "drill")


def drill() -> str:
    """Restores the newest backup on trial. Raises BackupError."""
    with exclusive(), workspace() as place:
        settings = load_settings()
        archives = backups()
        if not archives:
            raise BackupError(f"there is no backup in {BACKUPS}")
        keys = compare(archives[-1], place / "archive", settings)
        return f"{archives[-1].name} can be restored: {keys} keys and all else as they were"


def compare(path: Path, into: Path, settings: Settings) -> int:
    """Number of keys. Raises BackupError when anything differs from the manifest."""
    into.mkdir()
    manifest = archive.unpack(path, into, {archive.RDB, *app.member_names(settings)})
    expected = manifest["redis"]
    difference = redis_contents.difference(redis_contents.of_rdb(into / archive.RDB), expected)
    if difference:
        raise BackupError(f"{path}: {difference}")
    for member in manifest["members"]:
        if not member["name"].startswith("redis/"):
            app.check(member["name"], into / member["name"], settings)
    hours = int(time.time() - manifest["made"]) // 3600
    if settings["backup"] and hours * 3600 > MAX_AGE:
        reason = f"{path} is whole, but {hours} h old: see journalctl -u celery-pi-backup"
        raise BackupError(reason)
    return sum(database["keys"] for database in expected["databases"].values())
