"""Managed by celery-pi. What repairs are made of: programs, and files that are replaced whole."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from grp import getgrnam
from pathlib import Path
from pwd import getpwnam

PATIENCE = 120  # seconds; an emulated Pi takes 30 to start the worker

# The candidate lies beside its target, so that the last step is a rename. It has the modes of the
# file that it replaces, and is nobody else's to read before.
REPLACE = """
set -eu
umask 077
new=$(mktemp "$1.celery-pi.XXXXXX")
trap 'rm -f "$new"' EXIT
cat >"$new"
chmod "$2" "$new"
[ "$(id -u)" != 0 ] || chown "$3" "$new"
sync "$new"
mv -fT "$new" "$1"
"""


class Failed(Exception):
    """What a program said when it failed; no secret is in it."""


def do(*command: str, patience: float = PATIENCE, **options: object) -> str:
    """What a program prints. Raises Failed, with its last line, when it does not succeed."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
            **options,  # type: ignore[call-overload]
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} does not end within {patience} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(said[-1] if said else f"{command[0]} ended with {done.returncode}")
    return str(done.stdout)


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


def as_user(user: str) -> dict[str, object]:
    """Options by which a program runs as that user, with his group alone, and where he may be."""
    known = getpwnam(user)
    return {"user": known.pw_uid, "group": known.pw_gid, "extra_groups": [], "cwd": "/"}


def replace(path: Path, content: str, user: str) -> None:
    """Give the file other content, with the owner and mode that it has; whole or not at all.

    Bytes that are no UTF-8 are in the content as Python's surrogateescape has them.

    Where that user may write its directory it is he who writes: what he could do to root's steps
    there, by a link, he can then only do to his own. Raises Failed.
    """
    real = path.resolve()
    shown = real.stat()
    mode, owner = f"{stat.S_IMODE(shown.st_mode):o}", f"{shown.st_uid}:{shown.st_gid}"
    who = as_user(user) if may_write(str(real.parent), user) else {}
    exact = {"encoding": "utf-8", "errors": "surrogateescape"}
    do("sh", "-c", REPLACE, "sh", str(real), mode, owner, input=content, **exact, **who)


def may_write(path: str, user: str) -> bool:
    """Whether that user may write there."""
    asked = ("test", "-w", path, "-a", "-x", path)
    return subprocess.run(asked, check=False, **as_user(user)).returncode == 0  # type: ignore[call-overload,no-any-return]


def give(path: str, mode: int, user: str, group: str) -> None:
    """Set owners and mode of a file or directory that may lie in a directory of somebody else's.

    A link, or a file with a second name, may be anybody's: it is refused. Raises Failed, OSError.
    """
    place = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if os.readlink(f"/proc/self/fd/{place}") != path:  # noqa: PTH115
            raise Failed(f"a link leads to {path}: set it there, to {mode:o} {user}:{group}")
        shown = os.fstat(place)
        if stat.S_ISREG(shown.st_mode) and shown.st_nlink > 1:
            raise Failed(f"{path} has a second name")
        os.fchown(place, getpwnam(user).pw_uid, getgrnam(group).gr_gid)
        os.fchmod(place, mode)
    finally:
        os.close(place)
