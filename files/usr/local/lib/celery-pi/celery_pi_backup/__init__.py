"""Managed by celery-pi. Backup, restore and drill: what they have in common.

Python's standard library and Redis' own programs alone, so that a restore needs nothing of the
app's.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PLACE = Path("/var/backups/celery-pi")
STATE = Path("/var/lib/celery-pi")
SETTINGS = Path("/etc/celery-pi/settings.json")
WORK = Path("/var/tmp")  # noqa: S108  on the disk; /tmp may be in memory
PATTERN = "????-??-??T??????Z.tar.gz"
PATIENCE = 600  # seconds for another backup, restore or drill to end
PROMISE = 26 * 3600  # seconds; a backup each day, and two hours for a late one
RESERVE = 64 * 2**20  # bytes left free for everybody else

Settings = dict[str, Any]


class Trouble(Exception):
    """Why it cannot be done, in one sentence without a secret."""


def main(work: Callable[[], str], record: str = "") -> int:
    """Exit status: 0 done, 1 a trouble, which is told. Either is noted in STATE for `status`."""
    os.umask(0o077)
    try:
        said, well = work(), True
    except Trouble as error:
        said, well = str(error), False
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        said, well = f"{error.strerror or type(error).__name__}{named}", False
    print(f"celery-pi: {said}", file=sys.stdout if well else sys.stderr, flush=True)
    if record:
        note(record, well=well, said=said)
    return 0 if well else 1


def note(name: str, **told: Any) -> None:
    """What came of it, for `celery-pi status`."""
    STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = STATE / f"{name}.json.new"
    new.write_text(json.dumps({"time": time.time(), **told}))
    new.replace(STATE / f"{name}.json")


def settings() -> Settings:
    try:
        return json.loads(SETTINGS.read_text())
    except (OSError, ValueError) as error:
        raise Trouble(f"{SETTINGS} cannot be read: {type(error).__name__}") from error


def backups() -> list[Path]:
    """All of them, the oldest first."""
    return sorted(PLACE.glob(PATTERN))


@contextmanager
def alone() -> Iterator[None]:
    """No other backup, restore or drill is under way; one that is, is waited for."""
    PLACE.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(PLACE, os.O_RDONLY)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _locked(directory):
            if time.monotonic() > deadline:
                raise Trouble(f"another backup, restore or drill runs for {PATIENCE} s already")
            time.sleep(0.5)
        yield
    finally:
        os.close(directory)


def _locked(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
