"""Notifications to systemd (sd_notify(3))."""

import os
import socket

_sent: set[str] = set()


def notify(message: str) -> None:
    """Send a message such as `READY=1`, if systemd listens.

    Nothing is sent after `STOPPING=1`: a `WATCHDOG=1` would start the watchdog again, which systemd
    disables for the stop. Raises OSError if systemd's socket cannot be reached.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or "STOPPING=1" in _sent:
        return
    _sent.add(message)
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(address)
        connection.send(message.encode())
