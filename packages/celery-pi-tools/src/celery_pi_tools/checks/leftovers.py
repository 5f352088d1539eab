"""Managed by celery-pi. What a power cut, or an earlier installation, has left lying about."""

from __future__ import annotations

import os
import stat
import time
from functools import partial
from itertools import islice
from pathlib import Path

from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.checks.repairs import all_of
from celery_pi_tools.privileges import Refused, is_roots_alone, place, show, sole_owner, user_name
from celery_pi_tools.system import System
from celery_pi_tools.table import age

DAMAGED = Path("/var/lib/celery-beat/schedule.damaged")
PLACES = (Path("/run/celery"), Path("/var/lib/celery"))
FRESH = 60  # seconds in which who has written it may not be there yet
MOST = 20  # of such files; a directory may hold a million
LARGEST = 64  # bytes
PROC = Path("/proc")
NAMES = ("celery", "worker", "beat")  # Celery's; another program's may mean something else


@check("Leftovers", "Beat's schedule was damaged", "doctor")
def damaged(_: System) -> Finding | None:
    if not DAMAGED.exists():
        return None
    since = age(time.time() - DAMAGED.stat().st_mtime)
    return problem(
        f"{since} ago Beat could not read its schedule, and began a new one",
        "what was due while Beat was away is not made up for",
        f"run by hand what should have been; then rm {DAMAGED}",
    )


@check("Leftovers", "A PID file is stale", "doctor")
def stale(system: System) -> Finding | None:
    directories = (Path(system.settings["app_dir"]), *PLACES)
    files = [file for each in directories for file in pid_files(each) if is_stale(file)]
    if not files:
        return None
    return problem(
        f"{', '.join(map(str, files))} names no process that lives",
        "a Beat or worker that is started by hand takes another one to be there, and ends",
        "remove it; our units use none",
        all_of(*(partial(remove, file) for file in files)),
    )


def pid_files(directory: Path) -> list[Path]:
    named = (file for file in directory.glob("*.pid") if file.name.startswith(NAMES))
    return list(islice(named, MOST))


def is_stale(file: Path) -> bool:
    """Whether the file names no live process.

    Its owner reads it; one of root's, whoever may put another in its place.
    """
    try:
        state = os.lstat(file)
        if not stat.S_ISREG(state.st_mode) or time.time() - state.st_mtime < FRESH:
            return False
        reader = user_name(state.st_uid)
        if reader == "root" and not is_roots_alone(str(file), follow=False):
            reader = sole_owner(str(file), follow=False)
        shown = show(str(file), reader, LARGEST)
    except (FileNotFoundError, Refused):
        return False  # it was removed meanwhile, or is no such file
    if shown is None or not os.path.samestat(shown[0], state):
        return False  # another one was put there meanwhile
    text = shown[1].decode(errors="replace").strip()
    return text.isdigit() and not (PROC / text).exists()


def remove(file: Path) -> None:
    """Removes the name itself, if the file's owner may remove it."""
    with place(str(file), user_name(os.lstat(file).st_uid), follow=False) as entry:
        os.unlink(entry.name, dir_fd=entry.fd)
