"""Managed by celery-pi. What repairs are made of: programs, and files that are replaced whole.

Whatever lies where another user may write is read, replaced and given by `celery_pi_privileges`."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable

from celery_pi_privileges import Failed, group_name, is_roots_alone, replace, show, user_name

PATIENCE = 120  # seconds; an emulated Pi takes 30 to start the worker


def do(*command: str, patience: float = PATIENCE) -> str:
    """What a program prints. Raises Failed, with its last line, when it does not succeed."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} does not end within {patience} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(said[-1] if said else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def all_of(*steps: Callable[[], object]) -> Callable[[], None]:
    """A repair in several steps."""

    def make() -> None:
        for step in steps:
            step()

    return make


def start(unit: str, state: str) -> None:
    """Start a unit that is in that state; one that has failed too often, systemd would refuse."""
    if state == "failed":
        do("systemctl", "reset-failed", unit)
    do("systemctl", "start", unit)


def rewrite(path: str, user: str, change: Callable[[str], str]) -> None:
    """Change the content of a file of that user's; whole or not at all. Where none but root may
    write, it keeps owners and mode; elsewhere they may be of anybody's making, and it is the
    user's, 0600. Bytes that are no UTF-8 are in the text as Python's surrogateescape has them.

    Raises Refused, OSError.
    """
    found = show(path, user)
    if found is None:
        raise FileNotFoundError(2, "No such file or directory", path)
    shown, before = found
    text = change(before.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    if is_roots_alone(path):
        owners = {"user": user_name(shown.st_uid), "group": group_name(shown.st_gid)}
        replace(path, text, **owners, mode=stat.S_IMODE(shown.st_mode) & 0o777)
    else:
        replace(path, text, user=user)
