"""Managed by celery-pi. Owners and modes without which a service cannot read or write."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from celery_pi_tools import manifest
from celery_pi_tools.checks.disk import writable
from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.checks.repairs import all_of
from celery_pi_tools.commands import execute
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

STORE = Path("/etc/celery-pi/secrets")
RUN = Path("/run/redis-celery")
FIND = "/usr/bin/find"
LOGS = ("-maxdepth", "1", "-type", "f", "-name", "*.log", "!", "-writable", "-print0")
PATIENCE = 10  # seconds
TMPFILES = "/etc/tmpfiles.d/celery-pi-redis.conf"


class Expected(NamedTuple):
    """Expected mode and owners of a file."""

    path: Path
    mode: int
    user: str
    group: str

    @property
    def described(self) -> str:
        return f"{self.mode:o} {self.user}:{self.group}"

    def differs(self) -> str:
        """Mode and owners of the file that is there, if they are others."""
        current = access(self.path)
        return "" if current == self.described else current


def secrets() -> list[Expected]:
    """Mode and owners of the files that hold secrets, as the components state them."""
    return [
        Expected(Path(each["path"]), int(each["mode"], 8), each["owner"], each["group"])
        for each in manifest.secrets()
    ]


def stored() -> list[Expected]:
    """The same of each stored password. Raises OSError where there are none."""
    return [Expected(path, 0o600, "root", "root") for path in sorted(STORE.iterdir())]


def expected(system: System) -> list[Expected]:
    """Mode and owners that a deploy sets."""
    redis = [Path("/etc/celery-pi", f"redis{end}.conf") for end in ("", "-live")]
    return [
        *(each for each in secrets() if each.path.parent != STORE),
        *(Expected(path, 0o640, "root", "redis") for path in redis),
        Expected(Path("/var/lib/redis"), 0o750, "redis", "redis"),
        Expected(RUN, 0o2750, "redis", system.settings["app_user"]),
        *(stored() if STORE.is_dir() else ()),
    ]


@check("Permissions", "A file has another owner or mode", "doctor")
def drifted(system: System) -> Finding | None:
    differing = [each for each in expected(system) if each.path.exists() and each.differs()]
    if not differing:
        return None
    symptom = ", ".join(
        f"{each.path} is {access(each.path)}, not {each.described}" for each in differing
    )
    impact = "the service that needs it cannot use it, or others can read a password"
    files = tuple(str(each.path) for each in differing)
    if any(each.path.is_symlink() for each in differing):
        by_hand = "it is a link: set the owner and mode of the file that it leads to"
        return problem(symptom, impact, by_hand, files=files)
    if roots := [path for path in files if is_put_there(path, system.settings["app_user"])]:
        by_hand = f"see whether it is what it should be, then: {chown_command(roots, system)}"
        return problem(symptom, impact, by_hand, files=files)
    fixes = [
        partial(give, str(each.path), user=each.user, group=each.group, mode=each.mode)
        for each in differing
    ]
    return problem(symptom, impact, "set them as the deploy did", all_of(*fixes), files=files)


def is_put_there(path: str, user: str) -> bool:
    """Whether it belongs to root or a third user in a directory that others may write. They could
    have put any file of that owner there, so root does not give it away."""
    state = os.lstat(path)
    if is_roots_alone(path, follow=False) or is_roots_empty_directory(path, state):
        return False
    return user_name(state.st_uid) not in (user, sole_owner(path, follow=False))


def chown_command(paths: list[str], system: System) -> str:
    """The command by which a person may do it all the same."""
    return f"chown -h {system.settings['app_user']} {' '.join(map(quote, paths))}"


@check("Permissions", "The app cannot write", "doctor", after=("Disk",))
def unwritable(system: System) -> Finding | None:
    """Of the files only logs are checked: media may hold a hundred thousand."""
    user, app = system.settings["app_user"], system.settings["app_dir"] + "/"
    places = [path for path in writable(system) if Path(path).is_dir()]
    closed = [path for path in places if not may_write(user, path)]
    open_places = [path for path in places if path not in closed]
    output = run(user, (FIND, *open_places, *LOGS), timeout=PATIENCE) if open_places else b""
    # The app's process may print anything: only files in these directories are accepted.
    printed = os.fsdecode(output).split("\0")
    logs = [path for path in printed if os.path.dirname(path) in open_places]  # noqa: PTH120
    paths = [*closed, *logs]
    if not paths:
        return None
    symptom = f"{user} cannot write {', '.join(paths)}"
    impact = (
        "tasks that write there fail with PermissionError, and logging that fails stops the app"
    )
    if roots := [path for path in paths if is_put_there(path, user)]:
        by_hand = f"see whether it is what it should be, then: {chown_command(roots, system)}"
        return problem(symptom, impact, by_hand)
    if any(not path.startswith(app) for path in paths):
        return problem(
            symptom, impact, f"give it to {user}: it lies outside the app and is its owner's"
        )
    return problem(
        symptom, impact, f"give it to {user}", all_of(*(partial(own, p, user) for p in paths))
    )


def own(path: str, user: str) -> None:
    """Makes the user its owner, who may write it; the other rights stay."""
    mode = os.stat(path, follow_symlinks=False).st_mode & 0o777  # noqa: PTH116
    give(path, user=user, mode=mode | (0o700 if Path(path).is_dir() else 0o600))


@check("Permissions", "Redis' directory is missing", "doctor")
def run_missing(_: System) -> Finding | None:
    if RUN.is_dir():
        return None
    return problem(
        f"{RUN} is missing",
        "worker, Beat and Flower reach Redis by a socket in it",
        "make it and start Redis again, which makes its socket; running tasks go on",
        all_of(
            lambda: execute("systemd-tmpfiles", "--create", TMPFILES),
            lambda: execute("systemctl", "restart", "redis-server"),
        ),
    )
