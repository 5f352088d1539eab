"""Which tasks a worker has begun, for whoever finds it dead.

A task that ends its worker each time has to become a dead letter, and those that lay beside it must
not. Redis knows only what a worker has taken. So each pool process keeps the id of the task that it
runs in a file of its own; the worker that gives a dead one's tasks back reads these files if it is
on the same machine, as it is when systemd has started it again.

The directory is $RUNTIME_DIRECTORY, which systemd makes and keeps over a restart
(`RuntimeDirectoryPreserve=restart`), or else one of this user's in the directory for temporary
files.
"""

import os
import tempfile
from pathlib import Path
from shutil import rmtree
from typing import Any

from celery_redis_guard.identity import worker_id

END = b"\0"

_descriptor: list[int] = []  # of this pool process' file, once it has run a task
os.register_at_fork(after_in_child=_descriptor.clear)


def directory(worker: str) -> Path:
    """Where the processes of that worker keep their files."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    place = Path(given or Path(tempfile.gettempdir(), f"celery-redis-guard-{os.getuid()}"))
    return place / worker.rpartition("/")[2]


def prepare() -> None:
    """Make this worker's directory. Raises PermissionError if its parent is somebody else's."""
    own = directory(worker_id())
    own.parent.mkdir(mode=0o700, exist_ok=True)
    if own.parent.lstat().st_uid != os.getuid():
        raise PermissionError(f"{own.parent} is not this user's")
    own.mkdir(mode=0o700, exist_ok=True)


def begin(task_id: str, **_: Any) -> None:
    """On task_prerun."""
    if not _descriptor:
        path = directory(worker_id()) / str(os.getpid())
        _descriptor.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.pwrite(_descriptor[0], task_id.encode(errors="surrogateescape") + END, 0)


def end(**_: Any) -> None:
    """On task_postrun."""
    if _descriptor:
        os.pwrite(_descriptor[0], END, 0)


def of(worker: str) -> set[str]:
    """Ids of the tasks that ran when that worker died; none if it was on another machine."""
    found = (path.read_bytes().partition(END)[0] for path in directory(worker).glob("*"))
    return {task_id.decode(errors="surrogateescape") for task_id in found if task_id}


def forget(worker: str) -> None:
    """Remove its directory, if it is there."""
    rmtree(directory(worker), ignore_errors=True)
