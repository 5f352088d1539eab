"""Forks: a process that a task forks ends with the task, and holds nothing of the worker's.

What `os.fork` returns in is a second pool process: at the end of the task it would store a result,
send the task's callbacks once more, and read the next task from the same pipe. While it lives, the
main process does not notice that the pool process has ended, nor another worker that this one has
died. Whoever forks by `multiprocessing`, or calls `os._exit`, sees nothing of this.
"""

import functools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from logging import getLogger
from pathlib import Path
from typing import Any

logger = getLogger(__name__)

# Pipes and sockets that the app had before the pool was started: file descriptor and inode.
_of_app: set[tuple[int, int]] = set()


def ending_forks(run: Callable[..., Any]) -> Callable[..., Any]:
    """A task's `run`, at whose end each process ends that was forked meanwhile."""

    @functools.wraps(run)
    def wrapped(*args: Any, **options: Any) -> Any:
        process = os.getpid()
        try:
            return run(*args, **options)
        finally:
            if os.getpid() != process:
                _end(sys.exc_info()[1])

    return wrapped


def _end(error: BaseException | None) -> None:
    """End this process as Python would end a program."""
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    logger.warning(
        "celery-pi: process %d, which a task has forked, ends with the task",
        os.getpid(),
        exc_info=error,
    )
    os._exit(status)


def remember_apps_pipes() -> None:
    """What is open now stays open in a fork: called before the pool is started."""
    _of_app.update(_pipes())


def release_pipes() -> None:
    """Let forks of this pool process close the worker's pipes and sockets."""
    ours = set(_pipes()) - _of_app
    os.register_at_fork(after_in_child=functools.partial(_release, ours))


def _pipes() -> Iterator[tuple[int, int]]:
    for path in Path("/proc/self/fd").iterdir():
        try:
            found = os.fstat(int(path.name))
        except OSError:  # the directory itself, which is closed by now
            continue
        if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
            yield int(path.name), found.st_ino


def _release(pipes: set[tuple[int, int]]) -> None:
    """Close them. The numbers stay taken, because Python's objects still have them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, _ in pipes.intersection(_pipes()):
        os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
