"""Guarded or plain: whether this process uses the guard's classes, or Celery's own.

The classes override private parts of celery, kombu and billiard, so they are used with versions on
which the whole suite of this package passes (`tested_sets`), and with others only if the owner says
so. A plain app has the same safe settings, by Celery's own classes: an upgrade of Celery must not
leave its owner without a worker. Standard library alone: a deploy asks for the sentences too.
"""

import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from celery_redis_guard.tested_sets import TESTED_SETS, PackageSet

VARIABLE = "CELERY_PI_WORKER_GUARD"
NAMES = tuple(PackageSet.__annotations__)
CHOICES = ("auto", "on", "off")
NOT_INSTALLED = "none"

NOT_PROMISED = (
    "not promised then: that no task or chord is lost when a process, the worker or Redis is "
    "killed, that a killed worker's tasks come back before the visibility timeout (an hour or "
    "more), that revoked tasks stay revoked over a restart, that no task ends the worker, that "
    "tasks of unknown names and those that crash become dead letters, and that the worker goes on "
    "when Redis' memory is full"
)


class Mode(NamedTuple):
    """Whether the app is guarded, and a sentence that says so and why."""

    guarded: bool
    sentence: str


def decide(choice: str, versions: PackageSet) -> Mode:
    """What holds for these versions, by the owner's choice of `CHOICES`."""
    listed = ", ".join(map(" ".join, zip(NAMES, versions, strict=True)))
    if choice == "off":
        return Mode(False, f"plain Celery, because worker_guard is off; {NOT_PROMISED}")
    names = [name for name, tested in TESTED_SETS.items() if tested == versions]
    if names:
        return Mode(True, f"guarded: tested set {names[0]} ({listed})")
    if choice == "on":
        return Mode(True, f"guarded, because worker_guard is on: no tested set is {listed}")
    return Mode(False, f"plain Celery, because no tested set is {listed}; {NOT_PROMISED}")


def installed() -> PackageSet:
    """The versions that this process has."""
    return PackageSet(*map(_version, NAMES))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # installed by other means than pip's: no set that was tested
        return NOT_INSTALLED


@cache
def current() -> Mode:
    """What holds for this process. Ends it if the variable has none of `CHOICES`."""
    choice = os.environ.get(VARIABLE) or CHOICES[0]
    if choice not in CHOICES:
        sys.exit(f"celery-pi: {VARIABLE} must be one of {', '.join(CHOICES)}")
    return decide(choice, installed())
