"""Managed by celery-pi. The units that use what is restored: stopped, and started again."""

from __future__ import annotations

import time

from celery_pi_tools import manifest
from celery_pi_tools.backup import snapshot
from celery_pi_tools.backup.common import BackupError
from celery_pi_tools.backup.workspace import run_as_root
from celery_pi_tools.config import CannotLoad, Settings

REDIS = "redis-server.service"
UP = ("active\n", "activating\n", "reloading\n")
STATE = ("show", "-P", "ActiveState")
PATIENCE = 660  # seconds until Redis answers, which loads its data first
STARTING = 330  # seconds until a unit is up
STOPPING = 3600  # seconds; the worker lets its tasks end
TRIES = 3  # of systemd to start Redis, after which it would go on for ever


def users(settings: Settings) -> list[str]:
    """Those of our units and the site's that are running; ours in the reverse of the order in which
    they start.

    Raises BackupError where no deploy has noted ours: they would go on with data that is gone.
    """
    try:
        units = manifest.units().values()
    except CannotLoad as error:
        raise BackupError(str(error)) from error
    ours = [f"{unit.name}.service" for unit in units if unit.uses_data]
    if not ours:
        raise BackupError(f"{manifest.FILE} names no units: deploy again")
    named = (*reversed(ours), *(settings["app_units"] or ()))
    return [unit for unit in named if run_as_root("systemctl", *STATE, unit) in UP]


def stop(*units: str) -> None:
    if units:
        run_as_root("systemctl", "stop", *units, timeout=STOPPING)


def start(*units: str, wait: bool = True) -> None:
    """Starts the units and, with `wait`, raises BackupError unless they come up within STARTING.

    systemctl itself would wait for as long as systemd tries to start Redis, which they need.
    """
    if units:
        run_as_root("systemctl", "start", "--no-block", *units)
    if not wait:
        return
    deadline = time.monotonic() + STARTING
    for unit in units:
        while run_as_root("systemctl", *STATE, unit) != "active\n":
            if time.monotonic() > deadline:
                raise BackupError(f"{unit} is not up; see: journalctl -u {unit} -n 50")
            time.sleep(0.5)


def start_redis() -> None:
    """Starts Redis. Raises BackupError unless it takes commands and writes its append-only file."""
    run_as_root("systemctl", "start", "--no-block", REDIS)
    tries = _tries()
    deadline = time.monotonic() + PATIENCE
    while not _answers():
        if time.monotonic() > deadline or _tries() > tries + TRIES:
            raise BackupError("Redis does not answer; see: journalctl -u redis-server -n 50")
        time.sleep(0.5)


def _tries() -> int:
    """How often systemd has restarted it; a start by hand resets the number."""
    return int(run_as_root("systemctl", "show", "-P", "NRestarts", REDIS) or 0)


def _answers() -> bool:
    try:
        persistence = snapshot.info("persistence", "admin")
    except (BackupError, OSError):  # not up yet, or still loading
        return False
    return (persistence.get("loading"), persistence.get("aof_enabled")) == ("0", "1")
