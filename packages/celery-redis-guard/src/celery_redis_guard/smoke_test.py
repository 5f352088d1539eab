"""Managed by celery-pi. Send a task, await its result, and tell which worker ran it.

`celery.accumulate` is registered in every Celery app, so no task of the owner's is needed. The
argument is the main PID of the deployed worker: a result that another worker produced, one
that somebody started by hand, would prove nothing.
"""

import sys
import time
import uuid

from celery.exceptions import TimeoutError as NoResult
from kombu.exceptions import OperationalError

from celery_redis_guard.app import app

TASK = "celery.accumulate"
PATIENCE = 30  # seconds; a worker needs some to come back after a restart of Redis


def deployed_worker(pid: int) -> str:
    """Name of the worker with that PID, which must be the only one that answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        workers = app.control.inspect(timeout=2).stats() or {}
        strangers = [name for name, stats in workers.items() if stats["pid"] != pid]
        if strangers:
            sys.exit(f"celery-pi: a worker that was not deployed answers: {', '.join(strangers)}")
        if workers:
            return next(iter(workers))
    sys.exit(f"celery-pi: the deployed worker does not answer within {PATIENCE} s")


def prove(worker: str) -> None:
    """Send a task and print how it went; anything but its result ends the process."""
    token = uuid.uuid4().hex
    start = time.monotonic()
    result = app.send_task(TASK, args=[token], kwargs={"index": 0})
    returned = result.get(timeout=PATIENCE)
    seconds = time.monotonic() - start
    result.forget()
    if returned != token:
        sys.exit("celery-pi: the result is not what was sent")
    print(f"{TASK}[{result.id}] SUCCESS in {seconds:.2f} s by {worker}")


try:
    prove(deployed_worker(int(sys.argv[1])))
except NoResult:
    sys.exit(f"celery-pi: no result within {PATIENCE} s")
except OperationalError as error:
    sys.exit(f"celery-pi: the broker refuses: {type(error.__cause__).__name__}")
