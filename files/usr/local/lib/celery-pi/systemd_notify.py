"""Managed by celery-pi. Word to systemd (sd_notify(3))."""

import os
import socket


def notify(said):
    """Say that, such as `READY=1`, if systemd listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.connect(address)
        listener.send(said.encode())
