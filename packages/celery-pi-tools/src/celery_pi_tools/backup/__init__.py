"""Managed by celery-pi. Backup, restore and drill: what they have in common.

Python's standard library and Redis' own programs alone, so that a restore needs nothing of the
app's.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery_pi_privileges import Refused
from celery_pi_text import printable

PLACE = Path("/var/backups/celery-pi")
STATE = Path("/var/lib/celery-pi")
SETTINGS = Path("/etc/celery-pi/settings.json")
PATTERN = "????-??-??T??????Z.tar.gz"
PATIENCE = 600  # seconds for another backup, restore or drill to end
PROMISE = 26 * 3600  # seconds; a backup each day, and two hours for a late one

Settings = dict[str, Any]


class Trouble(Refused):
    """Why it cannot be done, in one sentence without a secret."""


def main(work: Callable[[], str], record: str = "") -> int:
    """Exit status: 0 done, 1 a trouble, which is told. Either is noted in STATE for `status`."""
    os.umask(0o077)
    try:
        said, well = work(), True
    except Refused as error:
        said, well = str(error), False
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        said, well = f"{error.strerror or type(error).__name__}{named}", False
    said = printable(said)
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
        told: Settings = json.loads(SETTINGS.read_text())
    except (OSError, ValueError) as error:
        raise Trouble(f"{SETTINGS} cannot be read: {type(error).__name__}") from error
    return told


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
