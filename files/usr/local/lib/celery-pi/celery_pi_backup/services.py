"""Managed by celery-pi. The units that use what is restored: stopped, and started again."""

from __future__ import annotations

import time

from celery_pi_privileges import attempt

from celery_pi_backup import Settings, Trouble
from celery_pi_backup.hands import CLI, by_root

REDIS = "redis-server.service"
OURS = ("celery-beat.service", "celery-worker.service", "celery-flower.service")
UP = ("active\n", "activating\n", "reloading\n")
STATE = ("show", "-P", "ActiveState")
PATIENCE = 120  # seconds until Redis answers
STOPPING = 3600  # seconds; the worker lets its tasks end


def users(settings: Settings) -> list[str]:
    """Of our units and the site's own, those that run."""
    named = (*OURS, *(settings["app_units"] or ()))
    return [unit for unit in named if by_root("systemctl", *STATE, unit) in UP]


def stop(*units: str) -> None:
    if units:
        by_root("systemctl", "stop", *units, timeout=STOPPING)


def start(*units: str) -> None:
    if units:
        by_root("systemctl", "start", *units, timeout=STOPPING)


def start_redis() -> None:
    """Trouble unless it takes commands, and writes its append-only file."""
    by_root("systemctl", "start", REDIS, timeout=STOPPING)
    deadline = time.monotonic() + PATIENCE
    while not _answers():
        if time.monotonic() > deadline:
            raise Trouble("Redis does not answer; see: journalctl -u redis-server -n 50")
        time.sleep(0.5)


def _answers() -> bool:
    said = attempt("root", (CLI, "admin", "INFO", "persistence"), timeout=PATIENCE).out
    return b"loading:0" in said and b"aof_enabled:1" in said
