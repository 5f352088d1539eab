"""Files of root's to which traps lead, and whether they are what they were. Runs on the machine.

Reading shows by the time of the last access, which is long ago here; whatever is written, given
away or gets a second name, by the time of the last change. Standard library only.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

# Sandboxed units do not see the former; the latter they may even write to.
PLACES = (Path("/root/celery-pi-canary"), Path("/var/lib/celery-pi/canary"))
DEVICE = Path("/dev/zero")
# A job that is led into the directory finds there what it looks for.
INSIDE = (".env", "db.sqlite3", "schedule", "x.log", "dump.rdb", "appendonly.aof.manifest")
LONG = 4 * 4096  # bytes; enough for logrotate
State = dict[str, tuple[object, ...]]


def make(marker: str) -> None:
    """Put them there; the marker is in each."""
    for place in PLACES:
        (place / "directory").mkdir(parents=True)
        names = (*INSIDE, f"name-{marker}")  # a list of them tells it, too
        for file in (place / "file", *(place / "directory" / name for name in names)):
            file.write_text(f"{marker}\n".ljust(LONG, "x"))
            file.chmod(0o600)
        for path in (*place.rglob("*"), place):
            path.chmod(0o700 if path.is_dir() else 0o600)
            os.utime(path, (0, 0))


def paths() -> list[Path]:
    return sorted(path for place in PLACES for path in (place, *place.rglob("*")))


def state() -> State:
    """Of each, all that must stay; looking leaves no trace."""
    found: State = {str(path): _state(path) for path in paths()}
    shown = DEVICE.stat()  # its times change with whoever uses it
    return {**found, str(DEVICE): (shown.st_mode, shown.st_uid, shown.st_gid, shown.st_rdev)}


def _state(path: Path) -> tuple[object, ...]:
    shown = path.lstat()
    kept = (shown.st_mode, shown.st_uid, shown.st_gid, shown.st_nlink, shown.st_size)
    times = (shown.st_atime_ns, shown.st_mtime_ns, shown.st_ctime_ns)
    return (*kept, *times, _content(path) if stat.S_ISREG(shown.st_mode) else b"")


def _content(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        return file.read()


FIELDS = (
    *("mode", "owner", "group", "names", "size"),
    *("last access", "last write", "last change", "content"),
)


def touched(before: State, now: State) -> list[str]:
    """What has happened to which."""
    told = [f"{path} is new" for path in now.keys() - before.keys()]
    told += [f"{path} is gone" for path in before.keys() - now.keys()]
    for path in before.keys() & now.keys():
        pairs = zip(FIELDS, before[path], now[path], strict=False)
        what = [field for field, then, since in pairs if then != since]
        told += [f"{path}: {', '.join(what)}"] if what else []
    return sorted(told)
