"""The address of a real Pi, as an owner types it."""

from __future__ import annotations

import re
from typing import Any

from pyinfra.api import DeployError

# An IPv6 address has colons of its own, so a port needs brackets round it.
ADDRESS = re.compile(
    r"(?:(?P<user>.+)@)?"
    r"(?:\[(?P<bracketed>[^][]+)\](?::(?P<port6>\d+))?"
    r"|(?P<ipv6>[^][:@]*:[^][@]*:[^][@]*)"
    r"|(?P<name>[^][:@]+)(?::(?P<port>\d+))?)"
)
LAST_PORT = 65_535


def ssh_host(address: str) -> tuple[str, dict[str, Any]]:
    """Inventory entry for `user@host`, `user@host:port` or `user@[IPv6]:port`; the user may use
    sudo. Raises DeployError if it is none of these."""
    match = ADDRESS.fullmatch(address)
    port = int((match and (match["port"] or match["port6"])) or 0)
    if not match or port > LAST_PORT:
        raise DeployError(
            f"{address!r} is no address of a machine: HOST=pi@address, pi@address:port or "
            "pi@[IPv6 address]:port"
        )
    name = match["bracketed"] or match["ipv6"] or match["name"]
    data: dict[str, Any] = {"ssh_hostname": name, "_sudo": match["user"] != "root"}
    if match["user"]:
        data["ssh_user"] = match["user"]
    if port:
        data["ssh_port"] = port
    return name, data
