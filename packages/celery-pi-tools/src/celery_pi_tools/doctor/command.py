#!/usr/bin/python3
"""Managed by celery-pi. Finds the known problems of this Pi, and repairs those that it safely can.

    celery-pi doctor           say what is the matter, and what would be done
    celery-pi doctor --fix     do what is safe, and look again
    celery-pi doctor --json    for programs; with --fix too

Exit status: 0 healthy, 1 there are problems, or some are left, 2 it could not look.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

from celery_pi_doctor import report

SETTINGS = Path("/etc/celery-pi/settings.json")


def main(options: list[str]) -> int:
    try:
        settings = json.loads(SETTINGS.read_text())
    except (OSError, ValueError) as error:
        print(f"celery-pi: {SETTINGS} cannot be read: {error}", file=sys.stderr)
        return 2
    if "--fix" in options and not alone():
        print("celery-pi: another doctor is repairing this Pi", file=sys.stderr)
        return 2
    return report.main(settings, "--fix" in options, "--json" in options)


def alone() -> bool:
    """Whether no other one repairs; nor can until this process ends."""
    place = os.open(SETTINGS.parent, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
