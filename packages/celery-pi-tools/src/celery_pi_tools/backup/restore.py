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
        manifest = archive.unpack(file, unpacked, {archive.RDB, *app.member_names(settings)})
        names = chosen(manifest, only)
        check(manifest, unpacked, names, settings)
        confirm(manifest, names, yes)
        kept = pre_restore_copy()
        with replace.stopped(settings):
            replace.replace(manifest, unpacked, names, settings, kept)
    return f"restored {', '.join(names)}; what was there before is in {kept}"


def pre_restore_copy() -> Path:
    """Where what is there will be kept: a directory that no other restore uses."""
    while (
        place := STATE / time.strftime("before-restore-%Y-%m-%dT%H%M%SZ", time.gmtime())
    ).exists():
        time.sleep(0.1)
    return place


def chosen(manifest: archive.Manifest, only: str | None) -> list[str]:
    """Names of the members to restore."""
    names = [member["name"] for member in manifest["members"]]
    of_redis = {"redis": (True,), "app": (False,)}.get(only or "", (True, False))
    names = [name for name in names if name.startswith("redis/") in of_redis]
    if not names:
        raise BackupError(f"nothing of {only} is in it")
    return names


def check(manifest: archive.Manifest, unpacked: Path, names: list[str], settings: Settings) -> None:
    """Raises BackupError unless all of it could be restored."""
    backup_version, own_version = manifest["versions"]["redis"], redis_contents.version()
    if int(backup_version.split(".")[0]) > int(own_version.split(".")[0]):
        raise BackupError(
            f"it was made by Redis {backup_version}, which is newer than Redis {own_version} here"
        )
    for name in names:
        file = unpacked / name
        if name.startswith("redis/"):
            difference = redis_contents.difference(redis_contents.of_rdb(file), manifest["redis"])
            if difference:
                raise BackupError(f"{name} is not what its manifest says: {difference}")
            require_space(redis_data.DATA, file.stat().st_size)
        else:
            app.check(name, file, settings)
            app.check_place(name, settings)


def confirm(manifest: archive.Manifest, names: list[str], yes: bool) -> None:
    """Prints what is to happen, and asks. Raises BackupError without a yes."""
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest["made"]))
    keys = sum(database["keys"] for database in manifest["redis"]["databases"].values())
    host = printable(manifest["host"])
    print(f"of {host}, {made}: {', '.join(names)}; {keys} keys in Redis")
    print(
        "Worker, Beat, Flower and the units of app_units stop until it is done; running tasks end"
    )
    print("first. What Redis and the app have now is replaced, and kept aside.", flush=True)
    if yes:
        return
    if not sys.stdin.isatty() or input("Restore? (yes) ").strip() != "yes":
        raise BackupError("nothing was touched; answer yes, or give --yes")
