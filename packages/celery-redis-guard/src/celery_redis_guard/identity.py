"""Names of this worker, by which others see that it lives."""

import os
from functools import cache
from pathlib import Path
from socket import gethostname
from uuid import uuid4

CHANNEL = "celery-pi.alive."  # before the worker's name: the channel that it is subscribed to


@cache
def slot_id() -> str:
    """What only one worker at a time can be: a systemd unit of this machine, or else a process."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except FileNotFoundError:  # as in most containers
        machine = gethostname()
    return f"{machine}/{os.environ.get('CELERY_PI_UNIT') or uuid4().hex}"


@cache
def worker_id() -> str:
    """Name of this worker, unique among all that ever take tasks."""
    return f"{slot_id()}/{uuid4().hex}"
