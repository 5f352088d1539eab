"""Managed by celery-pi. Owners and modes without which a service cannot read or write."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from celery_pi_tools.commands import execute
from celery_pi_tools.doctor.disk import writable
from celery_pi_tools.doctor.registry import Found, problem
from celery_pi_tools.doctor.repairs import all_of
from celery_pi_tools.file_access import access
from celery_pi_tools.privileges import (
    give,
    is_roots_alone,
    is_roots_empty_directory,
    may_write,
    run,
    sole_owner,
    user_name,
)
from celery_pi_tools.system import System

RUN = Path("/run/redis-celery")
FIND = "/usr/bin/find"
LOGS = ("-maxdepth", "1", "-type", "f", "-name", "*.log", "!", "-writable", "-print0")
PATIENCE = 10  # seconds
TMPFILES = "/etc/tmpfiles.d/celery-pi-redis.conf"


class Wanted(NamedTuple):
    """Expected mode and owners of a file."""

    path: Path
    mode: int
    user: str
    group: str

    @property
    def described(self) -> str:
        return f"{self.mode:o} {self.user}:{self.group}"


def wanted(system: System) -> list[Wanted]:
    """Mode and owners that a deploy sets."""
    app, secrets = system.value("app_user"), Path("/etc/celery-pi/secrets")
    redis = [Path("/etc/celery-pi", f"redis{end}") for end in (".acl", ".conf", "-live.conf")]
    return [
        Wanted(Path(system.value("app_dir"), ".env"), 0o600, app, app),
        *(Wanted(path, 0o640, "root", "redis") for path in redis),
        Wanted(Path("/var/lib/redis"), 0o750, "redis", "redis"),
        Wanted(RUN, 0o2750, "redis", app),
        Wanted(secrets, 0o700, "root", "root"),
        *(Wanted(path, 0o600, "root", "root") for path in sorted(secrets.glob("*"))),
    ]


@problem("Permissions", "A file has another owner or mode")
def drifted(system: System) -> Found | None:
    found = [
        each
        for each in wanted(system)
        if each.path.exists() and access(each.path) != each.described
    ]
    if not found:
        return None
    symptom = ", ".join(
        f"{each.path} is {access(each.path)}, not {each.described}" for each in found
    )
    impact = "the service that needs it cannot use it, or others can read a password"
    files = tuple(str(each.path) for each in found)
    if any(each.path.is_symlink() for each in found):
        by_hand = "it is a link: set the owner and mode of the file that it leads to"
        return Found(symptom, impact, by_hand, files=files)
    if roots := [path for path in files if is_put_there(path, system.value("app_user"))]:
        by_hand = f"see whether it is what it should be, then: {theirs(roots, system)}"
        return Found(symptom, impact, by_hand, files=files)
    fixes = [
        partial(give, str(each.path), user=each.user, group=each.group, mode=each.mode)
        for each in found
    ]
    return Found(symptom, impact, "set them as the deploy did", all_of(*fixes), files=files)


def is_put_there(path: str, user: str) -> bool:
    """Whether it belongs to root or a third user in a directory that others may write. They could
    have put any file of that owner there, so root does not give it away."""
    shown = os.lstat(path)
    if is_roots_alone(path, follow=False) or is_roots_empty_directory(path, shown):
        return False
    return user_name(shown.st_uid) not in (user, sole_owner(path, follow=False))


def theirs(paths: list[str], system: System) -> str:
    """The command by which a person may do it all the same."""
    return f"chown -h {system.value('app_user')} {' '.join(map(quote, paths))}"


@problem("Permissions", "The app cannot write", needs=("Disk",))
def unwritable(system: System) -> Found | None:
    """Of the files only logs are checked: media may hold a hundred thousand."""
    user, app = system.value("app_user"), system.value("app_dir") + "/"
    places = [path for path in writable(system) if Path(path).is_dir()]
    closed = [path for path in places if not may_write(user, path)]
    within = [path for path in places if path not in closed]
    found_there = run(user, (FIND, *within, *LOGS), timeout=PATIENCE) if within else b""
    # The app's process may print anything: only files in these directories are accepted.
    printed = os.fsdecode(found_there).split("\0")
    logs = [path for path in printed if os.path.dirname(path) in within]  # noqa: PTH120
    found = [*closed, *logs]
    if not found:
        return None
    symptom = f"{user} cannot write {', '.join(found)}"
    impact = (
        "tasks that write there fail with PermissionError, and logging that fails stops the app"
    )
    if roots := [path for path in found if is_put_there(path, user)]:
        by_hand = f"see whether it is what it should be, then: {theirs(roots, system)}"
        return Found(symptom, impact, by_hand)
    if any(not path.startswith(app) for path in found):
        return Found(
            symptom, impact, f"give it to {user}: it lies outside the app and is its owner's"
        )
    return Found(
        symptom, impact, f"give it to {user}", all_of(*(partial(own, p, user) for p in found))
    )


def own(path: str, user: str) -> None:
    """Makes the user its owner, who may write it; the other rights stay."""
    mode = os.stat(path, follow_symlinks=False).st_mode & 0o777  # noqa: PTH116
    give(path, user=user, mode=mode | (0o700 if Path(path).is_dir() else 0o600))


@problem("Permissions", "Redis' directory is missing")
def run_missing(_: System) -> Found | None:
    if RUN.is_dir():
        return None
    return Found(
        f"{RUN} is missing",
        "worker, Beat and Flower reach Redis by a socket in it",
        "make it and start Redis again, which makes its socket; running tasks go on",
        all_of(
            lambda: execute("systemd-tmpfiles", "--create", TMPFILES),
            lambda: execute("systemctl", "restart", "redis-server"),
        ),
    )
