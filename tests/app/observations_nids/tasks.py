"""Tasks that leave marks a test can find by another road than Celery's."""

import os
import signal
import time
from pathlib import Path

from celery import Task, shared_task
from celery.signals import task_received
from celery.utils.log import get_task_logger
from django.conf import settings

logger = get_task_logger(__name__)


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@shared_task
def fail(message: str) -> None:
    raise RuntimeError(message)


@shared_task(bind=True, default_retry_delay=1)
def retry(self: Task, times: int) -> int:
    """Ask to be run again that many times."""
    if self.request.retries < times:
        raise self.retry()
    return times


@shared_task(bind=True)
def widen(self: Task, x: int) -> int:
    """Add a task to the chord that this one is part of."""
    self.add_to_chord(add.s(x, x))
    return x


@shared_task(bind=True)
def trace(self: Task, name: str, seconds: float = 0) -> int:
    """Append `<task id> <run number>` to media/<name>, once before and once after the wait."""
    path = Path(settings.MEDIA_ROOT) / name
    run = 1 + sum(1 for line in _lines(path) if line.startswith(f"{self.request.id} start"))
    _append(path, f"{self.request.id} start {run}")
    time.sleep(seconds)
    _append(path, f"{self.request.id} end {run}")
    return run


@shared_task
def allocate(megabytes: int) -> int:
    """Hold that many MiB for a moment and return the number of bytes held."""
    block = bytearray(megabytes * 1024 * 1024)
    for page in range(0, len(block), 4096):
        block[page] = 1
    return len(block)


@shared_task
def log(message: str) -> None:
    logger.info(message)


@shared_task
def note(name: str, number: int) -> None:
    """Append the number to media/<name>; quick, for a task that is sent thousands of times."""
    _append(Path(settings.MEDIA_ROOT) / name, str(number))


@shared_task(bind=True)
def mark(self: Task, name: str, seconds: float) -> None:
    """Append `<task id> start|end <time> <process>` to media/<name>, before and after the wait."""
    path = Path(settings.MEDIA_ROOT) / name
    for event, wait in (("start", seconds), ("end", 0)):
        _append(path, f"{self.request.id} {event} {time.time():.3f} {os.getpid()}")
        time.sleep(wait)


@shared_task(bind=True)
def poison(self: Task, name: str) -> None:
    """Leave a mark in media/<name> and kill the process that runs this."""
    _append(Path(settings.MEDIA_ROOT) / name, f"{self.request.id} start")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task
def stall(name: str) -> None:
    """Its arrival stops the worker, as a consumer that hangs; later ones go through."""
    _append(Path(settings.MEDIA_ROOT) / name, "ran")


@task_received.connect
def hang(request, **_: object) -> None:
    """What `stall` promises, in the worker's main process; media/stalled tells that it was so."""
    if request.name == stall.name:
        try:
            (Path(settings.MEDIA_ROOT) / "stalled").open("x").close()
        except FileExistsError:
            return
        time.sleep(3600)


@shared_task
def tick() -> None:
    """The periodic task: one line, with the time in seconds, each time Beat sends it."""
    _append(Path(settings.MEDIA_ROOT) / "ticks", f"{time.time():.3f}")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")
