"""Connection to a real Pi."""

from __future__ import annotations

import socket
from typing import Any

import paramiko


def ssh_host(address: str) -> tuple[str, dict[str, Any]]:
    """Inventory entry for `user@host` or `user@host:port`; the user may use sudo."""
    user, _, place = address.rpartition("@")
    name, _, port = place.partition(":")
    data: dict[str, Any] = {
        "ssh_hostname": name,
        "ssh_paramiko_connect_kwargs": {"transport_factory": undelayed_transport},
        "_sudo": user != "root",
    }
    if user:
        data["ssh_user"] = user
    if port:
        data["ssh_port"] = int(port)
    return name, data


def undelayed_transport(sock: socket.socket, **kwargs: Any) -> paramiko.Transport:
    """Transport that sends small packets at once.

    paramiko leaves Nagle's algorithm on, which makes each command wait for the Pi's delayed
    acknowledgement: 16 s instead of 2.5 s for 100 unchanged files.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return paramiko.Transport(sock, **kwargs)
