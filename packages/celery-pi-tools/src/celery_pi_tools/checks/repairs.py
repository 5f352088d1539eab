"""Managed by celery-pi. Building blocks of repairs."""

from __future__ import annotations

import stat
from collections.abc import Callable

from celery_pi_tools.commands import execute
from celery_pi_tools.privileges import group_name, is_roots_alone, replace, show, user_name


def all_of(*steps: Callable[[], object]) -> Callable[[], None]:
    """A repair in several steps."""

    def make() -> None:
        for step in steps:
            step()

    return make


def start(unit: str, state: str) -> None:
    """Starts a unit that is in that state. systemd refuses one that has failed too often, until it
    is reset."""
    if state == "failed":
        execute("systemctl", "reset-failed", unit)
    execute("systemctl", "start", unit)


def rewrite(path: str, user: str, change: Callable[[bytes], bytes]) -> None:
    """Changes the content of a file that belongs to that user, atomically.

    Owners and mode stay if only root may write the directory. Otherwise somebody else may have set
    them, and the file becomes the user's, 0600.

    Raises Refused, OSError.
    """
    shown = show(path, user)
    if shown is None:
        raise FileNotFoundError(2, "No such file or directory", path)
    state, before = shown
    text = change(before)
    if is_roots_alone(path):
        owners = {"user": user_name(state.st_uid), "group": group_name(state.st_gid)}
        replace(path, text, **owners, mode=stat.S_IMODE(state.st_mode) & 0o777)
    else:
        replace(path, text, user=user)
