#!/usr/bin/python3
"""Managed by celery-pi. Puts a backup in the place of what Redis and the app have now.

    celery-pi restore FILE [--yes] [--only redis|app]

All of the file is looked at before anything is touched, and what was there is kept aside. Exit
status: 0 done; 1 all is as it was, and why.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from celery_pi_backup import (
    STATE,
    Settings,
    Trouble,
    alone,
    app,
    archive,
    data,
    main,
    replacing,
    scratch,
    settings,
)
from celery_pi_backup.hands import need, workspace
from celery_pi_text import printable

WHAT = "Put a backup in the place of what Redis and the app have now."


def work(arguments: argparse.Namespace) -> str:
    replacing.listen()
    told = settings()
    with alone(), workspace() as place:
        unpacked = place / "archive"
        unpacked.mkdir()
        described = archive.unpack(arguments.file, unpacked, {archive.RDB, *app.known(told)})
        names = chosen(described, arguments.only)
        check(described, unpacked, names, told)
        agree(described, names, arguments.yes)
        aside = kept_aside()
        with replacing.stopped(told):
            replacing.replace(described, unpacked, names, told, aside)
    return f"restored {', '.join(names)}; what was there before is in {aside}"


def kept_aside() -> Path:
    """Where what is there will be kept: a name that no other restore has."""
    while (
        place := STATE / time.strftime("before-restore-%Y-%m-%dT%H%M%SZ", time.gmtime())
    ).exists():
        time.sleep(0.1)
    return place


def chosen(described: archive.Manifest, only: str | None) -> list[str]:
    """Names of the members that are to be restored."""
    names = [member["name"] for member in described["members"]]
    of_redis = {"redis": (True,), "app": (False,)}.get(only or "", (True, False))
    names = [name for name in names if name.startswith("redis/") in of_redis]
    if not names:
        raise Trouble(f"nothing of {only} is in it")
    return names


def check(described: archive.Manifest, unpacked: Path, names: list[str], told: Settings) -> None:
    """Trouble unless all of it could be put in place."""
    theirs, ours = described["versions"]["redis"], scratch.version()
    if int(theirs.split(".")[0]) > int(ours.split(".")[0]):
        raise Trouble(f"it was made by Redis {theirs}, which is newer than Redis {ours} here")
    for name in names:
        file = unpacked / name
        if name.startswith("redis/"):
            differs = scratch.difference(scratch.look(file), described["redis"])
            if differs:
                raise Trouble(f"{name} is not what its manifest says: {differs}")
            need(data.DATA, file.stat().st_size)
        else:
            app.check(name, file, told)
            app.check_place(name, told)


def agree(described: archive.Manifest, names: list[str], yes: bool) -> None:
    """Whoever started it says so, having read what is to happen."""
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
        raise Trouble("nothing was touched; answer yes, or give --yes")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="celery-pi restore", description=WHAT)
    parser.add_argument("file", type=Path, help="such as the newest in /var/backups/celery-pi")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--only", choices=("redis", "app"), help="leave the other as it is")
    arguments = parser.parse_args()
    arguments.file = arguments.file.absolute()
    return arguments


if __name__ == "__main__":
    chosen_ones = parsed()
    sys.exit(main(lambda: work(chosen_ones)))
