"""Managed by celery-pi. Run as the user whose the database is:

    sqlite.py copy FROM TO    the same database at another path, also while others use either
    sqlite.py check FILE      whether it is whole

SQLite's own way to copy takes what is in its log and sees no half transaction; in a database that
is there it is one transaction, so others see the old content or the new.
"""

import sqlite3
import sys
import time

PATIENCE = 60  # seconds that others may hold it


def opened(path: str, mode: str) -> sqlite3.Connection:
    uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"{uri}?mode={mode}", uri=True, timeout=PATIENCE)


def copy(source: str, target: str) -> None:
    # All at once: in steps, each writer would make it begin again.
    old, new = opened(source, "rw"), opened(target, "rwc")
    deadline = time.monotonic() + PATIENCE

    def go_on(*_: int) -> None:
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("it is in use all the time")

    old.backup(new, progress=go_on)
    new.close()
    old.close()


def check(path: str) -> None:
    database = opened(path, "ro")
    said = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
    database.close()
    if said != ["ok"]:
        sys.exit(f"{path} is damaged: {said[0]}")


if __name__ == "__main__":
    try:
        {"copy": copy, "check": check}[sys.argv[1]](*sys.argv[2:])
    except sqlite3.Error as error:
        sys.exit(f"{sys.argv[2]}: {error}")
