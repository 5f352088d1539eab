"""Managed by celery-pi. What backup, restore and drill have in common."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from celery_pi_tools import config
from celery_pi_tools.config import STATE, Settings
from celery_pi_tools.privileges import Refused, replace
from celery_pi_tools.text import printable

BACKUPS = Path("/var/backups/celery-pi")
PATTERN = "????-??-??T??????Z.tar.gz"
LOCK_TIMEOUT = 600  # seconds for another backup, restore or drill to end
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_AGE = 26 * 3600  # seconds; a backup each day, and two hours for a late one


class BackupError(Refused):
    """Why it cannot be done, in one sentence without a secret."""


def run(work: Callable[[], str], record: str = "") -> int:
    """Runs the command and prints the sentence that it returns or raises. Exit status 0, or 1 for
    an error. With the name of a record, `status` shows the result."""
    os.umask(0o077)
    handle_signals()
    try:
        message, succeeded = work(), True
    except Refused as error:
        message, succeeded = str(error), False
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        message, succeeded = f"{error.strerror or type(error).__name__}{named}", False
    message = printable(message)
    print(f"celery-pi: {message}", file=sys.stdout if succeeded else sys.stderr, flush=True)
    if record:
        write_record(record, well=succeeded, said=message)
    return 0 if succeeded else 1


def handle_signals() -> None:
    """A signal that would end the process raises BackupError, so that all is undone and no process
    or file of ours is left."""
    for number in SIGNALS:
        signal.signal(number, interrupted)


def ignore_signals() -> None:
    """From here on the process runs to its end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def interrupted(number: int, _: FrameType | None) -> None:
    ignore_signals()
    raise BackupError(f"interrupted by {signal.Signals(number).name}")


def write_record(name: str, **values: Any) -> None:
    """The result of a run, for `celery-pi status`."""
    STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    text = json.dumps({"time": time.time(), **values}).encode()
    replace(str(STATE / f"{name}.json"), text, user="root", mode=0o644)


def load_settings() -> Settings:
    """The deployed settings. Raises BackupError."""
    try:
        return config.load()
    except config.CannotLoad as error:
        raise BackupError(str(error)) from error


def backups() -> list[Path]:
    """All backups, the oldest first."""
    return sorted(BACKUPS.glob(PATTERN))


@contextmanager
def exclusive() -> Iterator[None]:
    """Holds the lock of backup, restore and drill. Raises BackupError after LOCK_TIMEOUT."""
    BACKUPS.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(BACKUPS, os.O_RDONLY)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while not _lock(directory):
            if time.monotonic() > deadline:
                reason = f"another backup, restore or drill runs for {LOCK_TIMEOUT} s already"
                raise BackupError(reason)
            time.sleep(0.5)
        yield
    finally:
        os.close(directory)


def _lock(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
