"""The machines from which a Pi is deployed, which must not be locked out of it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pyinfra.api import FactBase, StringCommand

from celery_pi.shell import assign

if TYPE_CHECKING:
    from pyinfra.api.host import Host

PATH = "/etc/celery-pi/deployers"
KEPT = 8  # who has not deployed for so many machines is one whose address may be another's now

# The known addresses, and the one that this connection comes from, which sshd has in a variable.
SHOW = r"""
[ ! -e "$path" ] || cat "$path" || exit 1
echo "now ${SSH_CONNECTION%% *}"
"""


class AdminAddresses(FactBase[list[str]]):
    """Addresses on the Pi's list, and this machine's, as the Pi sees it, at its end."""

    default = list

    def command(self, path: str) -> StringCommand:
        return StringCommand(assign(path=path), SHOW)

    def process(self, output: list[str]) -> list[str]:
        return with_this([line for line in output[:-1] if line], output[-1].partition(" ")[2])


def admin_addresses(host: Host) -> list[str]:
    """What the list is to be: as it was, and with this machine, if it comes over ssh.

    A deploy from a machine that is on it changes nothing.
    """
    # sudo would take SSH_CONNECTION away.
    return host.get_fact(AdminAddresses, path=PATH, _sudo=False)


def with_this(listed: list[str], connection: str) -> list[str]:
    """The addresses, the last new one at the end; a link-local one without its interface."""
    address = connection.partition("%")[0]
    if address in listed or not _is_address(address):
        return listed
    return [*listed, address][-KEPT:]


def _is_address(text: str) -> bool:
    """Not of a connection without ssh, nor of one by a pipe (UNKNOWN to sshd)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
