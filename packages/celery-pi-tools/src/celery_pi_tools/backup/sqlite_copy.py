"""Managed by celery-pi. Run as the user whose the database is:

    sqlite_copy.py size FILE       prints its size in bytes, with its log; status 3 if it is missing
    sqlite_copy.py copy FROM TO    copies a database that others may use; prints the bytes
    sqlite_copy.py put FROM TO     the same for a file that nobody writes and this user only reads
    sqlite_copy.py check FILE      verifies such a file; status 1 if it is damaged

SQLite's backup API includes the log and copies no half transaction. In a database that exists it is
one transaction, so that others see the old content or the new.
"""

import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable

PATIENCE = 60  # seconds that others may hold it
MISSING = 3  # exit status


def opened(path: str, mode: str) -> sqlite3.Connection:
    if os.path.exists(path):  # noqa: PTH110
        size(path)
    uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"{uri}?mode={mode}", uri=True, timeout=PATIENCE)


def size(path: str) -> int:
    """Bytes of a regular file: of a FIFO SQLite would wait for what never comes."""
    state = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(state.st_mode):
        sys.exit(f"{path} is no regular file")
    log = f"{path}-wal"
    return state.st_size + (os.stat(log).st_size if os.path.exists(log) else 0)  # noqa: PTH110, PTH116


def copy(source: str, target: str, mode: str = "rw") -> int:
    # All at once: in steps, each writer would make it begin again.
    old, new = opened(source, mode), opened(target, "rwc")
    deadline = time.monotonic() + PATIENCE

    def go_on(*_: int) -> None:
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("it is in use all the time")

    old.backup(new, progress=go_on)
    new.close()
    old.close()
    return size(target)


def put(source: str, target: str) -> int:
    return copy(source, target, "ro&immutable=1")


def check(path: str) -> None:
    """Ends with status 1 unless it is."""
    database = opened(path, "ro&immutable=1")
    problems = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
    database.close()
    if problems != ["ok"]:
        sys.exit(f"{path} is damaged: {problems[0]}")


def main(task: str, *words: str) -> int | None:
    tasks: dict[str, Callable[..., int | None]]
    tasks = {"size": size, "copy": copy, "put": put, "check": check}
    return tasks[task](*words)


if __name__ == "__main__":
    try:
        result = main(*sys.argv[1:])
    except FileNotFoundError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(MISSING)
    except (OSError, sqlite3.Error) as error:
        # What is put is ours, and where it is put is not.
        sys.exit(f"{sys.argv[3 if sys.argv[1] == 'put' else 2]}: {error}")
    if result is not None:
        print(result)
