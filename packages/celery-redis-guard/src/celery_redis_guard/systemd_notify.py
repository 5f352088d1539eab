"""Managed by celery-pi. Word to systemd (sd_notify(3))."""

import os
import socket

_said = set()


def notify(said):
    """Say that, such as `READY=1`, if systemd listens.

    Nothing is said any more after `STOPPING=1`: a `WATCHDOG=1` would start the watchdog again,
    which systemd has switched off for the stop.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or "STOPPING=1" in _said:
        return
    _said.add(said)
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.connect(address)
        listener.send(said.encode())
