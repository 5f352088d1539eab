"""Managed by celery-pi. What of this machine can be reached from beyond it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from celery_pi_checks.look import Look
from celery_pi_checks.registry import Result, check, ok, wrong

PUBLIC = {22, 80, 443}
LISTENS = "0A"
PROC = Path("/proc")


@check("Network", "Listening TCP sockets")
def listening(_: Look) -> Result:
    open_ports = {
        port: address
        for name in ("tcp", "tcp6")
        for address, port in sockets((PROC / "net" / name).read_text())
        if not is_loopback(address)
    }
    strangers = sorted(set(open_ports) - PUBLIC)
    if strangers:
        told = ", ".join(f"{open_ports[port]} port {port}" for port in strangers)
        remedy = "ss -Htlnp shows whose they are; bind them to 127.0.0.1 or stop them"
        return wrong(f"beyond loopback: {told}", remedy, ports=strangers)
    told = ", ".join(map(str, sorted(open_ports))) or "nothing"
    return ok(f"beyond loopback: {told}", ports=sorted(open_ports))


def sockets(table: str) -> list[tuple[str, int]]:
    """Address and port of each socket that listens, of a table of /proc/net."""
    lines = (line.split() for line in table.splitlines()[1:])
    return [parsed(words[1]) for words in lines if words[3] == LISTENS]


def parsed(local: str) -> tuple[str, int]:
    """The kernel writes an address as words of 32 bits in the machine's own order of bytes."""
    address, port = local.split(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


def is_loopback(address: str) -> bool:
    return address == "::1" or address.removeprefix("::ffff:").startswith("127.")
