"""A directory of another user's, where he may write: root follows none of his names there."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.plan import will
from celery_pi.privileges import privileged
from celery_pi.shell import assign, read_quietly

ACCOUNTS_EXIST = """
id -u "$user" >/dev/null 2>&1 && getent group "$group" >/dev/null || exit 0
"""


class DirectoryOwners(FactBase[str]):
    """`user:group` of a directory, which is not a link to one; else nothing."""

    default = str

    def command(self, path: str) -> StringCommand:
        # A missing one is an answer, not an error.
        return StringCommand("stat -c '%F|%U:%G' --", QuoteString(path), "2>/dev/null || true")

    def process(self, output: list[str]) -> str:
        kind, _, owners = output[0].partition("|")
        return owners if kind == "directory" else ""


@operation()
def owned_directory(path: str, user: str, group: str) -> Generator[StringCommand]:
    """There is a directory, of that user and group; the mode of one that was there stays.

    Fails with a sentence where something else is, such as a link, or where root would have to go
    into a directory that somebody else leads it to. One of root's with something in it is given to
    nobody where others may have moved it there; the plan fails then. Raises OperationError.
    """
    owners = host.get_fact(DirectoryOwners, path=path)
    if owners == f"{user}:{group}":
        host.noop(f"{path} is there")
        return
    if owners:
        # Before anything is changed; a user who is yet to be made is judged when it is done.
        accounts_exist = StringCommand(assign(user=user, group=group), ACCOUNTS_EXIST)
        read_quietly(
            host, StringCommand(accounts_exist, privileged("judge", user, group, "-", path))
        )
        will(host, "change", path, f"its owner {owners} becomes {user}:{group}", is_owners=True)
    yield privileged("make", user, group, "0755", path)
