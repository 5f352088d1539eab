"""Managed by celery-pi. The command `celery-pi doctor`.

Exit status: 0 healthy, 1 there are problems, or some are left, 2 it could not look.
"""

from __future__ import annotations

import fcntl
import os
import sys
from typing import Any

from celery_pi_tools.config import SETTINGS
from celery_pi_tools.doctor import report


def main(settings: dict[str, Any], fix: bool, as_json: bool) -> int:
    if fix and not lock():
        print("celery-pi: another doctor is repairing this Pi", file=sys.stderr)
        return 2
    return report.main(settings, fix, as_json)


def lock() -> bool:
    """Takes the lock of repairs, until this process ends; whether that succeeded."""
    directory = os.open(SETTINGS.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
