"""Managed by celery-pi. The command `celery-pi backup`: one backup of Redis and the app.

Older backups are removed once the new one is complete and on the disk. Exit status: 0, or 1 and
every backup that was there still is.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from celery_pi_tools.backup import app, archive, redis_contents, snapshot
from celery_pi_tools.backup.archive import RDB
from celery_pi_tools.backup.common import (
    BACKUPS,
    BackupError,
    backups,
    exclusive,
    load_settings,
    run,
)
from celery_pi_tools.backup.workspace import (
    copy_timeout,
    number,
    require_space,
    spare,
    workspace,
)
from celery_pi_tools.config import Settings
from celery_pi_tools.text import printable


def main() -> int:
    return run(create, "backup")


def create() -> str:
    """Makes a backup and removes the oldest; the path of the new one, and its size."""
    with exclusive():
        for partial in BACKUPS.glob(".new-*"):  # of a run that was cut off
            partial.unlink()
        settings = load_settings()
        newest = make(settings)
        remove_oldest(newest, settings["backup_keep"])
        return f"{newest}, {newest.stat().st_size} bytes"


def make(settings: Settings) -> Path:
    """A new backup."""
    with workspace() as place:
        # Here the copies and then the archive; in BACKUPS the last one's size and half of that.
        used = used_by_redis()
        require_space(place, used)
        last = backups()[-1:]
        require_space(BACKUPS, sum(path.stat().st_size for path in last) * 3 // 2)
        members = {RDB: copy(place / "dump.rdb", used)}
        contents = redis_contents.of_rdb(members[RDB])
        members.update(app.gather(settings, place, names_in_last()))
        require_space(BACKUPS, sum(path.stat().st_size for path in members.values()))
        return put(members, manifest(members, contents))


def used_by_redis() -> int:
    """Bytes of Redis' memory; a copy takes less."""
    used = snapshot.info("memory").get("used_memory")
    if used is None:
        raise BackupError("Redis does not say how much memory it uses")
    return number(used)


def copy(rdb: Path, size: int) -> Path:
    """A snapshot of Redis, of about that size; it may grow meanwhile."""
    snapshot.copy(rdb, limit=spare(rdb.parent), timeout=copy_timeout(size))
    return rdb


def names_in_last() -> set[str]:
    """Names of the members of the newest readable backup."""
    for path in reversed(backups()):
        try:
            return archive.names(path)
        except BackupError as error:
            print(f"celery-pi: {printable(str(error))}", flush=True)
    return set()


def manifest(members: dict[str, Path], contents: archive.Manifest) -> archive.Manifest:
    return {
        "made": int(time.time()),
        "host": platform.node(),
        "versions": {"redis": redis_contents.version(), "python": platform.python_version()},
        "redis": contents,
        "members": [archive.described(path, name) for name, path in members.items()],
    }


def put(members: dict[str, Path], description: archive.Manifest) -> Path:
    """Writes the archive, verifies it, and moves it into place."""
    new = BACKUPS / f".new-{os.getpid()}"
    try:
        archive.write(new, description, members)
        archive.check_trailer(new)
        final = BACKUPS / unused_name()
        new.rename(final)
    finally:
        new.unlink(missing_ok=True)
    directory = os.open(BACKUPS, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return final


def unused_name() -> str:
    """The present time, which no other backup has."""
    while (BACKUPS / (made := time.strftime("%Y-%m-%dT%H%M%SZ.tar.gz", time.gmtime()))).exists():
        time.sleep(0.1)
    return made


def remove_oldest(newest: Path, keep: int) -> None:
    """Keeps so many backups; among them the newest, whatever the clock was."""
    others = [path for path in backups() if path != newest]
    for path in others[: max(0, len(others) - (keep - 1))]:
        path.unlink()
