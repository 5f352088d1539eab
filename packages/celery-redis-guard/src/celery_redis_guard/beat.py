"""Managed by celery-pi. Beat: one on the machine, and a schedule that a power cut does not harm.

The schedule says when each task was sent last. Celery keeps it in a kind of database that depends
on the version of Python, that a power cut may tear, and that is written every three minutes: a Beat
that is killed sends again what it has sent since. Here it is a JSON file, which is replaced as a
whole after each task.
"""

import fcntl
import functools
import json
import os
import sys
from datetime import datetime, timedelta
from logging import getLogger
from pathlib import Path

from celery import beat

DEFAULT = "celery.beat:PersistentScheduler"
STATE = "/var/lib/celery-beat"

# Redis may be away when a task is due: it is sent when Redis is back.
PATIENT = {"max_retries": None, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 2}

# How far the clock may be set back without a word, for a time server's usual corrections.
STEP = timedelta(minutes=1)

logger = getLogger(__name__)


@functools.cache
def stay_alone():
    """Keep a lock as long as this process lives; end it if another Beat has that lock."""
    lock = os.open(STATE, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Celery may have made a logger of sys.stderr, which is gone before that speaks.
        print(
            "celery-pi: a Beat runs on this machine; a second one would send each task twice",
            file=sys.__stderr__,
        )
        sys.exit(1)


class Scheduler(beat.Scheduler):
    """Sends what the app's configuration lists, and remembers what it has sent."""

    def __init__(self, *args, schedule_filename, **options):
        stay_alone()
        self.path = Path(schedule_filename)
        self.written = None
        super().__init__(*args, sync_every_tasks=1, **options)
        self.app.conf.task_publish_retry_policy = PATIENT
        # Celery listens for the result of what it sends, and without Redis gives up after 20 s.
        self.app.backend.on_task_call = lambda *_: None

    def setup_schedule(self):
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        for name, (when, count) in self.read().items():
            if name in self.schedule:
                entry = self.schedule[name]
                entry.last_run_at, entry.total_run_count = when, count
        self.sync()

    def read(self):
        """Name, time and count of what was sent; nothing if there is no file that can be read."""
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

    def sync(self):
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
            # Tasks are due all the same.
            logger.error("celery-pi: the schedule cannot be written: %s", error)

    def tick(self, *args, **options):
        now = self.app.now()
        for entry in self.schedule.values():
            if entry.last_run_at > now + STEP:
                logger.warning(
                    "celery-pi: the clock was set back: %s was last sent at %s and is from now on "
                    "due by the new time",
                    *(entry.name, entry.last_run_at),
                )
                entry.last_run_at = now
                self._heap = None  # is ordered by time, and made again
        return super().tick(*args, **options)

    @property
    def info(self):
        return f"    . db -> {self.path}"
