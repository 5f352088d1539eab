"""Sends a task and awaits its result: `python -m celery_redis_guard.smoke_test PID`.

`celery.accumulate` is registered in every Celery app, so no task of the owner's is needed. PID is
the main process of the deployed worker: a result from another worker, one that somebody started by
hand, would prove nothing. Prints one line and exits with status 0, or 1 with one sentence.
"""

import sys
import time
import uuid

from celery.exceptions import TimeoutError as ResultTimeoutError
from kombu.exceptions import OperationalError

from celery_redis_guard.app import app

TASK = "celery.accumulate"
TIMEOUT = 30  # seconds; a worker needs some to reconnect after a restart of Redis


def deployed_worker(pid: int) -> str:
    """Name of the worker with that PID, which must be the only one that answers."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        workers = app.control.inspect(timeout=2).stats() or {}
        others = [name for name, stats in workers.items() if stats["pid"] != pid]
        if others:
            sys.exit(f"celery-pi: a worker that was not deployed answers: {', '.join(others)}")
        if workers:
            return str(next(iter(workers)))
    sys.exit(f"celery-pi: the deployed worker does not answer within {TIMEOUT} s")


def run_task(worker: str) -> None:
    """Send a task and print its outcome; end the process if its result is another."""
    token = uuid.uuid4().hex
    start = time.monotonic()
    result = app.send_task(TASK, args=[token], kwargs={"index": 0})
    returned = result.get(timeout=TIMEOUT)
    seconds = time.monotonic() - start
    result.forget()
    if returned != token:
        sys.exit("celery-pi: the result is not what was sent")
    print(f"{TASK}[{result.id}] SUCCESS in {seconds:.2f} s by {worker}")


def main() -> None:
    try:
        run_task(deployed_worker(int(sys.argv[1])))
    except ResultTimeoutError:
        sys.exit(f"celery-pi: no result within {TIMEOUT} s")
    except OperationalError as error:
        sys.exit(f"celery-pi: the broker refuses: {type(error.__cause__).__name__}")


if __name__ == "__main__":
    main()
