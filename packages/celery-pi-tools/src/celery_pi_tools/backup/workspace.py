"""Managed by celery-pi. Places to work in, and programs that work for us.

Root does nothing by name in a room of another user's, and what it lends him he can read only.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from celery_pi_tools.backup.common import BackupError
from celery_pi_tools.privileges import PYTHON, account, attempt, run

WORK = Path("/var/tmp")  # noqa: S108  on the disk; /tmp may be in memory
RESERVE = 64 * 2**20  # bytes left free for everybody else
SLOWEST = 2**20  # bytes that a card copies in a second
LEAST = 300  # seconds for whatever a program does
BLOCK = 2**16


@contextmanager
def workspace() -> Iterator[Path]:
    """A temporary directory of root's that others may enter and not list."""
    directory = Path(tempfile.mkdtemp(prefix="celery-pi-", dir=WORK))
    try:
        directory.chmod(0o711)
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def room(user: str) -> Iterator[Path]:
    """A temporary directory that only that user may enter."""
    around = Path(tempfile.mkdtemp(prefix="celery-pi-", dir=WORK))
    try:
        around.chmod(0o711)
        directory = room_in(around / "room", user)
        try:
            yield directory
        finally:
            clear(directory, user)
    finally:
        around.rmdir()


def room_in(directory: Path, user: str) -> Path:
    """Makes such a directory in one of root's; it stays."""
    owner = account(user)
    directory.mkdir(mode=0o700)
    os.chown(directory, owner.uid, owner.gid)
    return directory


def clear(directory: Path, user: str) -> None:
    """Removes the room, which its user empties. Raises OSError if another process of that user
    fills it again."""
    attempt(user, ("/usr/bin/find", str(directory), "-mindepth", "1", "-delete"), timeout=LEAST)
    directory.rmdir()


@contextmanager
def lent(file: Path, user: str) -> Iterator[Path]:
    """A hard link to a file of root's, by which that user can read it; the file stays root's. Other
    members of the user's group could read it too, if they knew the name."""
    with workspace() as work:
        name = work / file.name
        os.link(file, name, follow_symlinks=False)
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(opened, 0o640)
            os.fchown(opened, -1, account(user).gid)
            yield name
        finally:
            os.fchmod(opened, 0o600)
            os.fchown(opened, -1, 0)
            os.close(opened)


def received(user: str, path: Path, target: Path, size: int) -> None:
    """A file of root's holds what that user reads there, of so many bytes at most.

    Raises BackupError where there is no room for it, and Refused.
    """
    require_space(target.parent, size)
    with target.open("xb") as file:
        command = ("/usr/bin/cat", "--", str(path))
        run(user, command, sink=file, limit=size + BLOCK, timeout=copy_timeout(size))


def script(user: str, path: Path, *words: str, **options: Any) -> str:
    """Runs a script of ours as that user; its output."""
    return run(user, (PYTHON, "-I", "-S", str(path), *words), **options).decode(errors="replace")


def run_as_root(
    *command: str, timeout: float = LEAST, sink: IO[bytes] | None = None, **options: Any
) -> str:
    """Runs a program as root, without a terminal or our environment; its output. It keeps the
    groups of the unit, by which it reaches the sockets."""
    output = run("root", command, timeout=timeout, sink=sink, groups=os.getgroups(), **options)
    return output.decode(errors="replace")


def number(text: str) -> int:
    """A number of bytes that another user's process has printed. Raises BackupError."""
    if not text.strip().isdecimal() or len(text) > 20:
        raise BackupError(f"{text.strip()[:20]!r} is no number of bytes")
    return int(text)


def copy_timeout(size: int) -> int:
    """Seconds within which even a slow card copies so many bytes."""
    return LEAST + size // SLOWEST


def spare(place: Path) -> int:
    """Bytes that are free there, beyond the reserve."""
    disk = os.statvfs(place)
    return max(0, disk.f_bavail * disk.f_frsize - RESERVE)


def require_space(place: Path, size: int) -> None:
    """Raises BackupError unless so many bytes, and a reserve for everybody else, are free."""
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if free < size + RESERVE:
        reason = f"{(size + RESERVE) >> 20} MiB must be free in {place}, and {free >> 20} MiB are"
        raise BackupError(reason)
