#!/usr/bin/python3
"""Managed by celery-pi. Makes one backup of Redis and the app, and keeps as many as it is to.

The old ones are touched when the new one is whole and on the disk. Exit status: 0 it is there,
1 it is not, and all that were there still are.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

from celery_pi_backup import (
    PLACE,
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
from celery_pi_backup.archive import RDB
from celery_pi_backup.hands import CLI, by_root, need, number, patience, workspace
from celery_pi_text import printable


def work() -> str:
    with alone():
        for left in PLACE.glob(".new-*"):  # of a run that was cut off
            left.unlink()
        told = settings()
        newest = make(told)
        forget(newest, told["backup_keep"])
        return f"{newest}, {newest.stat().st_size} bytes"


def make(told: Settings) -> Path:
    """The new one."""
    with workspace() as place:
        # Here both the copy and then the archive; there, what the last one took and half of that.
        used = used_by_redis()
        need(place, used)
        last = backups()[-1:]
        need(PLACE, sum(path.stat().st_size for path in last) * 3 // 2)
        members = {RDB: copy(place / "dump.rdb", used)}
        held = scratch.look(members[RDB])
        members.update(app.gather(told, place, in_the_last()))
        need(PLACE, sum(path.stat().st_size for path in members.values()))
        return put(members, manifest(members, held))


def used_by_redis() -> int:
    """Bytes of its memory: a copy takes less."""
    told = by_root(CLI, "backup", "INFO", "memory").splitlines()
    used = [line.partition(":")[2] for line in told if line.startswith("used_memory:")]
    if not used:
        raise Trouble(f"Redis does not answer: {' '.join(told[:1])}")
    return number(used[0])


def copy(rdb: Path, size: int) -> Path:
    """What a replica would be given: one moment, and all of it."""
    by_root(CLI, "backup", "--rdb", str(rdb), timeout=patience(size))
    return rdb


def in_the_last() -> set[str]:
    """Names in the newest backup that can be read."""
    for path in reversed(backups()):
        try:
            return archive.names(path)
        except Trouble as error:
            print(f"celery-pi: {printable(str(error))}", flush=True)
    return set()


def manifest(members: dict[str, Path], held: archive.Manifest) -> archive.Manifest:
    return {
        "made": int(time.time()),
        "host": platform.node(),
        "versions": {"redis": scratch.version(), "python": platform.python_version()},
        "redis": held,
        "members": [archive.described(path, name) for name, path in members.items()],
    }


def put(members: dict[str, Path], described: archive.Manifest) -> Path:
    """The archive in its place, once it has been read again."""
    new = PLACE / f".new-{os.getpid()}"
    try:
        archive.write(new, described, members)
        archive.check_seal(new)
        final = PLACE / name()
        new.rename(final)
    finally:
        new.unlink(missing_ok=True)
    directory = os.open(PLACE, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return final


def name() -> str:
    """The time, which no other one has."""
    while (PLACE / (made := time.strftime("%Y-%m-%dT%H%M%SZ.tar.gz", time.gmtime()))).exists():
        time.sleep(0.1)
    return made


def forget(newest: Path, number: int) -> None:
    """All but the new one and the last before it. That one stays though the clock was wrong."""
    others = [path for path in backups() if path != newest]
    for path in others[: max(0, len(others) - (number - 1))]:
        path.unlink()


if __name__ == "__main__":
    sys.exit(main(work, "backup"))
