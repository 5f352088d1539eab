"""Managed by celery-pi. Whether memcached answers, and how full it is."""

from __future__ import annotations

import socket

from celery_pi_tools.checks.registry import Finding, check, ok, wrong
from celery_pi_tools.system import System

TIMEOUT = 1  # seconds
END = b"END\r\n"


@check("memcached", "Answers", "status")
def answers(system: System) -> Finding | None:
    if "memcached" not in system.units:
        return None
    port = system.settings["memcached_port"]
    try:
        found = stats(port)
    except OSError as error:
        return wrong(f"port {port}: {error.strerror}", "journalctl -u memcached -n 50", port=port)
    return ok(f"{found['curr_items']} items at port {port}", items=int(found["curr_items"]))


def stats(port: int) -> dict[str, str]:
    """Figures that memcached gives."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(b"stats\r\n")
        reply = b""
        while not reply.endswith(END) and (more := connection.recv(4096)):
            reply += more
    return dict(line.split(" ", 2)[1:] for line in reply.decode().splitlines() if " " in line)
