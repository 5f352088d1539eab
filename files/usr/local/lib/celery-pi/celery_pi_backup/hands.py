"""Managed by celery-pi. Work done for us by programs, as users who may do no more than that."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from celery_pi_backup import Trouble

WORK = Path("/var/tmp")  # noqa: S108  on the disk; /tmp may be in memory
RESERVE = 64 * 2**20  # bytes left free for everybody else


@contextmanager
def workspace() -> Iterator[Path]:
    """A directory that others may pass through and not read, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="celery-pi-", dir=WORK) as made:
        directory = Path(made)
        directory.chmod(0o711)
        yield directory


def room_for(user: str, directory: Path) -> Path:
    """A new directory of that user's, in which his group may do all that he may: the units have us
    in it, so that root needs no capability to go past modes."""
    directory.mkdir()
    directory.chmod(0o770)
    _give(directory, user)
    return directory


def hand_over(file: Path, user: str, room: Path) -> Path:
    """The file as one of that user's in a room of his; no second copy, and ours to read still."""
    name = room / file.name
    os.link(file, name)
    name.chmod(0o640)
    _give(name, user)
    return name


def _give(path: Path, user: str) -> None:
    entry = _entry(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def become(user: str) -> dict[str, Any]:
    """For subprocess: as that user, in an environment of no secrets."""
    entry = _entry(user)
    return {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": os.getgrouplist(user, entry.pw_gid),
        "cwd": "/",
        "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    }


def _entry(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise Trouble(f"there is no user {user}") from error


def run(*command: str, stdout: int | IO[bytes] = subprocess.PIPE, **given: Any) -> bytes:
    """What a program prints; Trouble, with its last line, when it fails."""
    try:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False, **given)
    except FileNotFoundError as error:
        raise Trouble(f"{command[0]} is not installed") from error
    if done.returncode:
        said = (done.stderr or done.stdout or b"").decode(errors="replace").strip()
        last = said.splitlines()[-1] if said else f"ended with {done.returncode}"
        raise Trouble(f"{Path(command[0]).name}: {last.removeprefix('celery-pi: ')}")
    return done.stdout or b""


def need(place: Path, size: int) -> None:
    """Trouble unless so many bytes, and a reserve for everybody else, are free there."""
    shown = os.statvfs(place)
    free = shown.f_bavail * shown.f_frsize
    if free < size + RESERVE:
        told = f"{(size + RESERVE) >> 20} MiB must be free in {place}, and {free >> 20} MiB are"
        raise Trouble(told)
