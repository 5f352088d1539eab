"""Managed by celery-pi. The units that use what is restored: stopped, and started again."""

from __future__ import annotations

import subprocess
import time

from celery_pi_backup import Settings, Trouble
from celery_pi_backup.hands import run

REDIS = "redis-server.service"
OURS = ("celery-beat.service", "celery-worker.service", "celery-flower.service")
CLI = "/usr/local/lib/celery-pi/redis-cli"
UP = (b"active\n", b"activating\n", b"reloading\n")
PATIENCE = 120  # seconds until Redis answers


def users(settings: Settings) -> list[str]:
    """Of our units and the site's own, those that run."""
    named = (*OURS, *(settings["app_units"] or ()))
    return [unit for unit in named if run("systemctl", "show", "-P", "ActiveState", unit) in UP]


def stop(*units: str) -> None:
    if units:
        run("systemctl", "stop", *units)


def start(*units: str) -> None:
    if units:
        run("systemctl", "start", *units)


def start_redis() -> None:
    """Trouble unless it takes commands, and writes its append-only file."""
    run("systemctl", "start", REDIS)
    deadline = time.monotonic() + PATIENCE
    while not _answers():
        if time.monotonic() > deadline:
            raise Trouble("Redis does not answer; see: journalctl -u redis-server -n 50")
        time.sleep(0.5)


def _answers() -> bool:
    asked = (CLI, "admin", "INFO", "persistence")
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return "loading:0" in said and "aof_enabled:1" in said
