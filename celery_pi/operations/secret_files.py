"""Files of Redis' passwords on the Pi; `secrets.py` decides what is in them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import OperationError, StringCommand, operation

from celery_pi.secrets import DIRECTORY, USERS, Passwords, secret, stored
from celery_pi.shell import replace_file


@operation()
def secret_files(passwords: Passwords) -> Generator[StringCommand]:
    """Every user's password is on the Pi, 0600 root, and the one it replaces is beside it.

    Fails when what this run found there is no longer what is there.
    """
    files = stored(host)
    stale = not files.closed
    if stale:
        yield StringCommand("install -d -m 0700 -o root -g root", DIRECTORY)
    for user, desired in passwords.desired.items():
        password = files.password(user)
        if password == desired and files[secret(user)][0] == "600:root:root":
            continue
        if password not in (desired, passwords.stored.password(user)):
            raise OperationError(f"{secret(user)} was set by another deploy: run this one again")
        stale = True
        if password not in ("", desired):
            yield _write(f"{secret(user)}.old", [*files.old(user), password])
        yield _write(secret(user), [desired])
    if not stale:
        host.noop("all passwords are stored")


@operation()
def no_old_secrets() -> Generator[StringCommand]:
    """No old password is kept."""
    yield StringCommand("rm -f", *(f"{DIRECTORY}/{secret(user)}.old" for user in USERS))


def _write(name: str, lines: Sequence[str]) -> StringCommand:
    # One password has no line end behind it, so that `$(cat)` and every other reader get it whole.
    content = "\n".join(lines).encode()
    return replace_file(f"{DIRECTORY}/{name}", content, user="root", group="root", mode="0600")
