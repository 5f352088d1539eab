"""The site's tasks. Each one writes that it began and that it ended, so that one which is lost, or
run twice, is seen afterwards, whatever became of Redis."""

import functools
import logging
import os
import time

from celery import shared_task
from django.conf import settings

from observations.models import Observation
from observations_nids.config import config

RUNS = settings.MEDIA_ROOT / "runs.txt"
log = logging.getLogger(__name__)


def note(what: str, task: str) -> None:
    """Append a line, in one write, so that lines of two processes do not mix."""
    fd = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(fd, f"{what} {task} {os.getpid()} {time.time():.3f}\n".encode())
    finally:
        os.close(fd)


def noted(function):
    @functools.wraps(function)
    def run(self, *args):
        note("begun", self.request.id)
        result = function(self, *args)
        note("ended", self.request.id)
        log.info("%s ended", self.name)
        return result

    return run


@shared_task(bind=True)
@noted
def quick(self):
    return self.request.id


@shared_task(bind=True)
@noted
def slow(self, seconds):
    time.sleep(seconds)
    return seconds


@shared_task(bind=True)
@noted
def row(self, seconds=0):
    """A row in MariaDB, for which there must be one at the task's end as well."""
    Observation.objects.create(task=self.request.id, nest="begun")
    time.sleep(seconds)
    Observation.objects.create(task=self.request.id, nest="ended")
    return Observation.objects.filter(task=self.request.id).count()


@shared_task(bind=True)
@noted
def seen(self):
    """What `.env` says, as the worker reads it."""
    return [config.mail_host, config.mail_port, config.lang_]


@shared_task
def count():
    """Beat's."""
    return Observation.objects.count()
