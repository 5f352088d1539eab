"""Managed by celery-pi. Owners and modes without which a service cannot read or write."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from grp import getgrgid
from pathlib import Path
from pwd import getpwuid
from typing import NamedTuple

from celery_pi_doctor.act import all_of, as_user, do, give, may_write
from celery_pi_doctor.disk import writable
from celery_pi_doctor.look import Look
from celery_pi_doctor.registry import Found, problem

RUN = Path("/run/redis-celery")
TMPFILES = "/etc/tmpfiles.d/celery-pi-redis.conf"


class Wanted(NamedTuple):
    """What is to be the file's."""

    path: Path
    mode: int
    user: str
    group: str

    @property
    def told(self) -> str:
        return f"{self.mode:o} {self.user}:{self.group}"


def access(path: Path) -> str:
    """Mode and owners of what the path leads to: `600 root:root`."""
    shown = path.stat()
    user, group = str(shown.st_uid), str(shown.st_gid)
    with suppress(KeyError):  # who has been removed has a number only
        user = getpwuid(shown.st_uid).pw_name
    with suppress(KeyError):
        group = getgrgid(shown.st_gid).gr_name
    return f"{shown.st_mode & 0o7777:o} {user}:{group}"


def wanted(look: Look) -> list[Wanted]:
    """What a deploy gives these files and directories."""
    app, secrets = look.value("app_user"), Path("/etc/celery-pi/secrets")
    redis = [Path("/etc/celery-pi", f"redis{end}") for end in (".acl", ".conf", "-live.conf")]
    return [
        Wanted(Path(look.value("app_dir"), ".env"), 0o600, app, app),
        *(Wanted(path, 0o640, "root", "redis") for path in redis),
        Wanted(Path("/var/lib/redis"), 0o750, "redis", "redis"),
        Wanted(RUN, 0o2750, "redis", app),
        Wanted(secrets, 0o700, "root", "root"),
        *(Wanted(path, 0o600, "root", "root") for path in sorted(secrets.glob("*"))),
    ]


@problem("Permissions", "A file has another owner or mode")
def drifted(look: Look) -> Found | None:
    found = [each for each in wanted(look) if each.path.exists() and access(each.path) != each.told]
    if not found:
        return None
    saw = ", ".join(f"{each.path} is {access(each.path)}, not {each.told}" for each in found)
    why = "the service that needs it cannot use it, or others can read a password"
    if any(each.path.is_symlink() for each in found):
        return Found(saw, why, "it is a link: set the owner and mode of the file that it leads to")
    fixes = [partial(give, str(each.path), *each[1:]) for each in found]
    return Found(saw, why, "set them as the deploy did", all_of(*fixes))


@problem("Permissions", "The app cannot write", needs=("Disk",))
def unwritable(look: Look) -> Found | None:
    """Of files only logs are looked at: media may hold a hundred thousand of them."""
    user, app = look.value("app_user"), look.value("app_dir") + "/"
    places = [path for path in writable(look) if Path(path).is_dir()]
    closed = [path for path in places if not may_write(path, user)]
    asked = ("-maxdepth", "1", "-type", "f", "-name", "*.log", "!", "-writable")
    within = [path for path in places if path not in closed]
    logs = do("find", *within, *asked, **as_user(user)).splitlines() if within else []
    found = [*closed, *logs]
    if not found:
        return None
    saw = f"{user} cannot write {', '.join(found)}"
    why = "tasks that write there fail with PermissionError, and logging that fails stops the app"
    if any(not path.startswith(app) for path in found):
        return Found(saw, why, f"give it to {user}: it lies outside the app and is its owner's")
    return Found(saw, why, f"give it to {user}", all_of(*(partial(own, p, user) for p in found)))


def own(path: str, user: str) -> None:
    """Give it to the user, who may then write it; the other rights stay."""
    mode = os.stat(path, follow_symlinks=False).st_mode & 0o7777  # noqa: PTH116
    give(path, mode | (0o700 if Path(path).is_dir() else 0o600), user, user)


@problem("Permissions", "Redis' directory is missing")
def run_missing(_: Look) -> Found | None:
    if RUN.is_dir():
        return None
    return Found(
        f"{RUN} is missing",
        "worker, Beat and Flower reach Redis by a socket in it",
        "make it and start Redis again, which makes its socket; running tasks go on",
        all_of(
            lambda: do("systemd-tmpfiles", "--create", TMPFILES),
            lambda: do("systemctl", "restart", "redis-server"),
        ),
    )
