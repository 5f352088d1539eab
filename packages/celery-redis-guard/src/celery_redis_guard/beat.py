"""Celery Beat: one per machine, with a schedule that survives a power cut.

The schedule records when each task was last sent. Celery keeps it in a shelve, whose format depends
on the version of Python, which a power cut may corrupt, and which is written every three minutes: a
Beat that is killed sends again what it has sent since. Here it is a JSON file, replaced atomically
after each task.
"""

import fcntl
import functools
import json
import os
import sys
from datetime import datetime, timedelta
from logging import getLogger
from pathlib import Path
from typing import Any

from celery import beat

from celery_redis_guard.forced_defaults import force

CELERY_DEFAULT = "celery.beat:PersistentScheduler"
STATE = "/var/lib/celery-beat"

# Redis may be away when a task is due: retry for ever. Seconds.
RETRY_POLICY = {"max_retries": None, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 2}

# Backward steps of the clock up to this are a time server's usual corrections and not logged.
CLOCK_TOLERANCE = timedelta(minutes=1)

logger = getLogger(__name__)


@functools.cache
def acquire_lock() -> None:
    """Hold a lock for the life of this process; end the process if another Beat holds it."""
    lock = os.open(STATE, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Celery may have redirected sys.stderr to a logger, which is closed before it flushes.
        print(
            "celery-pi: a Beat runs on this machine; a second one would send each task twice",
            file=sys.__stderr__,
        )
        sys.exit(1)


class Scheduler(beat.Scheduler):
    """Sends what `beat_schedule` lists, and records what it has sent."""

    def __init__(self, *args: Any, schedule_filename: str, **options: Any) -> None:
        acquire_lock()
        self.path = Path(schedule_filename)
        self.written: str | None = None
        super().__init__(*args, sync_every_tasks=1, **options)
        force(self.app, {"task_publish_retry_policy": RETRY_POLICY})
        # Celery subscribes to the result of what it sends, and gives up after 20 s without Redis.
        self.app.backend.on_task_call = lambda *_: None

    def setup_schedule(self) -> None:
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        for name, (when, count) in self.read().items():
            if name in self.schedule:
                entry = self.schedule[name]
                entry.last_run_at, entry.total_run_count = when, count
        self.sync()

    def read(self) -> dict[str, tuple[datetime, int]]:
        """By name, when each task was last sent and how often; empty without a readable file."""
        try:
            stored = json.loads(self.path.read_text())
            return {
                name: (datetime.fromisoformat(when).astimezone(self.app.timezone), int(count))
                for name, (when, count) in dict(stored).items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, OverflowError, RecursionError, TypeError, ValueError) as error:
            damaged = self.path.with_name(f"{self.path.name}.damaged")
            logger.error(
                "celery-pi: the schedule cannot be read (%s) and begins anew: what was due while "
                "Beat was away is not made up for; the file is now %s",
                *(error, damaged),
            )
            self.path.replace(damaged)
            return {}

    def sync(self) -> None:
        sent = {
            name: (entry.last_run_at.isoformat(), entry.total_run_count)
            for name, entry in self.schedule.items()
        }
        text = json.dumps(sent, indent=1)
        if text == self.written:
            return
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            with new.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
            self.written = text
        except OSError as error:
            # A full disk must not stop the schedule: tasks are sent all the same.
            logger.error("celery-pi: the schedule cannot be written: %s", error)

    def tick(self, *args: Any, **options: Any) -> float:
        """Seconds until the next task is due. Entries in the future are due by the new time."""
        now = self.app.now()
        for entry in self.schedule.values():
            if entry.last_run_at > now + CLOCK_TOLERANCE:
                logger.warning(
                    "celery-pi: the clock was set back: %s was last sent at %s and is from now on "
                    "due by the new time",
                    *(entry.name, entry.last_run_at),
                )
                entry.last_run_at = now
                self._heap = None  # ordered by time; the parent class rebuilds it
        seconds: float = super().tick(*args, **options)
        return seconds

    @property
    def info(self) -> str:
        return f"    . db -> {self.path}"
