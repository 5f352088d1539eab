"""A user for a service, made by systemd-sysusers."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.plan import will


class UserExists(FactBase[bool]):
    """Whether there is a user of that name.

    pyinfra's own fact of users runs ten programs for each of them: 30 s on the emulated Pi.
    """

    default = bool

    def command(self, user: str) -> StringCommand:
        return StringCommand(f"getent passwd {user} || [ $? = 2 ]")

    def process(self, output: list[str]) -> bool:
        return bool(output)


@operation()
def system_user(user: str, sysusers: str, present: bool = True) -> Generator[StringCommand]:
    """The user of that name, in its own group, is there as the drop-in in /etc/sysusers.d says.

    Or it is not, after which the drop-in is for another operation to remove.
    """
    if host.get_fact(UserExists, user=user) is present:
        host.noop(f"{user} is {'there' if present else 'not there'}")
    elif present:
        will(host, "change", "users", f"adds {user}")
        yield StringCommand("systemd-sysusers", sysusers)
    else:
        will(host, "remove", f"the user {user}")
        yield StringCommand("userdel", user)
