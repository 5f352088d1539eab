"""Managed by celery-pi. The command `celery-pi restore FILE [--yes] [--only redis|app]`: replaces
what Redis and the app have by a backup.

The file is verified before anything is touched, and what was there is kept. Exit status: 0 done;
1 all is as it was, and why.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from celery_pi_tools.backup import app, archive, redis_contents, redis_data, replace
from celery_pi_tools.backup.common import BackupError, exclusive, load_settings, run
from celery_pi_tools.backup.workspace import require_space, workspace
from celery_pi_tools.config import STATE, Settings
from celery_pi_tools.text import printable


def main(file: str, yes: bool, only: str | None) -> int:
    """`only` is `redis`, `app` or None for both; `yes` does not ask."""
    path = Path(file).absolute()
    return run(lambda: restore(path, yes, only))


def restore(file: Path, yes: bool, only: str | None) -> str:
    """Restores the backup. Raises BackupError, after which all is as it was."""
    settings = load_settings()
    with exclusive(), workspace() as place:
        unpacked = place / "archive"
        unpacked.mkdir()
        described = archive.unpack(file, unpacked, {archive.RDB, *app.known(settings)})
        names = chosen(described, only)
        check(described, unpacked, names, settings)
        confirm(described, names, yes)
        kept = pre_restore_copy()
        with replace.stopped(settings):
            replace.replace(described, unpacked, names, settings, kept)
    return f"restored {', '.join(names)}; what was there before is in {kept}"


def pre_restore_copy() -> Path:
    """Where what is there will be kept: a directory that no other restore uses."""
    while (
        place := STATE / time.strftime("before-restore-%Y-%m-%dT%H%M%SZ", time.gmtime())
    ).exists():
        time.sleep(0.1)
    return place


def chosen(described: archive.Manifest, only: str | None) -> list[str]:
    """Names of the members to restore."""
    names = [member["name"] for member in described["members"]]
    of_redis = {"redis": (True,), "app": (False,)}.get(only or "", (True, False))
    names = [name for name in names if name.startswith("redis/") in of_redis]
    if not names:
        raise BackupError(f"nothing of {only} is in it")
    return names


def check(
    described: archive.Manifest, unpacked: Path, names: list[str], settings: Settings
) -> None:
    """Raises BackupError unless all of it could be restored."""
    theirs, ours = described["versions"]["redis"], redis_contents.version()
    if int(theirs.split(".")[0]) > int(ours.split(".")[0]):
        raise BackupError(f"it was made by Redis {theirs}, which is newer than Redis {ours} here")
    for name in names:
        file = unpacked / name
        if name.startswith("redis/"):
            differs = redis_contents.difference(redis_contents.of_rdb(file), described["redis"])
            if differs:
                raise BackupError(f"{name} is not what its manifest says: {differs}")
            require_space(redis_data.DATA, file.stat().st_size)
        else:
            app.check(name, file, settings)
            app.check_place(name, settings)


def confirm(described: archive.Manifest, names: list[str], yes: bool) -> None:
    """Prints what is to happen, and asks. Raises BackupError without a yes."""
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(described["made"]))
    keys = sum(database["keys"] for database in described["redis"]["databases"].values())
    host = printable(described["host"])
    print(f"of {host}, {made}: {', '.join(names)}; {keys} keys in Redis")
    print(
        "Worker, Beat, Flower and the units of app_units stop until it is done; running tasks end"
    )
    print("first. What Redis and the app have now is replaced, and kept aside.", flush=True)
    if yes:
        return
    if not sys.stdin.isatty() or input("Restore? (yes) ").strip() != "yes":
        raise BackupError("nothing was touched; answer yes, or give --yes")
