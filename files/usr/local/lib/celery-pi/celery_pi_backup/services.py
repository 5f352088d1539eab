"""Managed by celery-pi. The units that use what is restored: stopped, and started again."""

from __future__ import annotations

import time

from celery_pi_checks import manifest
from celery_pi_privileges import attempt

from celery_pi_backup import Settings, Trouble
from celery_pi_backup.hands import CLI, by_root

REDIS = "redis-server.service"
UP = ("active\n", "activating\n", "reloading\n")
STATE = ("show", "-P", "ActiveState")
PATIENCE = 660  # seconds until Redis answers, which loads its data first
STARTING = 330  # seconds until a unit is up
STOPPING = 3600  # seconds; the worker lets its tasks end
TRIES = 3  # of systemd to start Redis, after which it would go on for ever


def users(settings: Settings) -> list[str]:
    """Of our units and the site's own, those that run; what was started last comes first. Trouble
    where no deploy has noted ours: they would go on with data that is no more."""
    ours = [f"{unit.name}.service" for unit in manifest.units().values() if unit.uses_data]
    if not ours:
        raise Trouble(f"{manifest.FILE} names no units: deploy again")
    named = (*reversed(ours), *(settings["app_units"] or ()))
    return [unit for unit in named if by_root("systemctl", *STATE, unit) in UP]


def stop(*units: str) -> None:
    if units:
        by_root("systemctl", "stop", *units, timeout=STOPPING)


def start(*units: str, wait: bool = True) -> None:
    """Trouble unless they come up, if they are waited for. systemd itself would wait for as long as
    it tries to start Redis, which they need."""
    if units:
        by_root("systemctl", "start", "--no-block", *units)
    if not wait:
        return
    deadline = time.monotonic() + STARTING
    for unit in units:
        while by_root("systemctl", *STATE, unit) != "active\n":
            if time.monotonic() > deadline:
                raise Trouble(f"{unit} is not up; see: journalctl -u {unit} -n 50")
            time.sleep(0.5)


def start_redis() -> None:
    """Trouble unless it takes commands, and writes its append-only file."""
    by_root("systemctl", "start", "--no-block", REDIS)
    tries = _tries()
    deadline = time.monotonic() + PATIENCE
    while not _answers():
        if time.monotonic() > deadline or _tries() > tries + TRIES:
            raise Trouble("Redis does not answer; see: journalctl -u redis-server -n 50")
        time.sleep(0.5)


def _tries() -> int:
    """How often systemd has started it again; from 0 on when it is started by hand."""
    return int(by_root("systemctl", "show", "-P", "NRestarts", REDIS) or 0)


def _answers() -> bool:
    said = attempt("root", (CLI, "admin", "INFO", "persistence")).out
    return b"loading:0" in said and b"aof_enabled:1" in said
