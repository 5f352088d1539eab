"""The process pool: results are read whole, also when the connection to Redis was lost.

The main process reads a result from a pool process' pipe in pieces. When Celery reconnects it drops
the pieces and reads the rest as a new message: nothing arrives from that process any more. During a
shutdown it waits for its processes but reads only the pipes of tasks that it remembers, and after a
lost connection it remembers none: a process with more to write than a pipe holds, such as a long
traceback, never ends, and neither does the shutdown.
"""

import gc
from collections.abc import Callable, Iterator
from select import select
from typing import Any

from billiard.pool import TERMINATE, WorkersJoined
from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool, ResultHandler
from celery.signals import task_prerun, worker_process_init, worker_shutting_down

from celery_redis_guard import backend

POLL_INTERVAL = 0.5  # seconds that a shutdown waits for output before it looks for ended processes


class ResumingResultHandler(ResultHandler):
    """Resumes a partial read after a reconnect, and reads until the last process has ended."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # By file descriptor: the process, and the generator that reads its result.
        self.partial_reads: dict[int, tuple[Any, Any]] = {}

    def _recv_message(
        self, add_reader: Callable[..., Any], fd: int, callback: Callable[..., Any]
    ) -> Iterator[None]:
        process = self.fileno_to_outq.get(fd)
        owner, reading = self.partial_reads.pop(fd, (None, None))
        if owner is not process or reading is None:
            reading = super()._recv_message(add_reader, fd, callback)
        try:
            for _ in reading:
                self.partial_reads[fd] = process, reading
                yield
        finally:
            if not reading.gi_frame:  # finished, or raised
                self.partial_reads.pop(fd, None)

    def on_stop_not_started(self) -> None:
        """As Celery's own, but for every process, not only those of remembered tasks."""
        while self._state != TERMINATE:
            if self.check_timeouts is not None:
                self.check_timeouts()
            for fd in select(list(self.fileno_to_outq), [], [], POLL_INTERVAL)[0]:
                self._read_available(fd)
            try:
                self.join_exited_workers(shutdown=True)
            except WorkersJoined:
                return

    def _read_available(self, fd: int) -> None:
        try:
            next(self._recv_message(lambda *_: None, fd, self.on_state_change), None)
        except (OSError, EOFError):  # the process has ended
            self.fileno_to_outq.pop(fd, None)


class JobKeepingPool(AsynPool):
    """Remembers running jobs when the connection is lost; Celery 5.5 forgets them."""

    ResultHandler = ResumingResultHandler

    def __init__(self, *args: Any, **options: Any) -> None:
        # Celery collects garbage before each fork, and a collection writes to every object: no
        # process would share memory with those forked before. The app is not garbage.
        gc.collect()
        gc.freeze()
        super().__init__(*args, **options)

    def flush(self) -> None:
        running = {number: job for number, job in self._cache.items() if job._accepted}
        super().flush()
        for number, job in running.items():
            if not job.ready():
                self._cache.setdefault(number, job)
                self._busy_workers.add(job._write_to.inqW_fd)


class TaskPool(prefork.TaskPool):
    """Named by `worker_pool`."""

    Pool = JobKeepingPool

    def on_start(self) -> None:
        task_prerun.connect(backend.hold_what_follows, weak=False)
        worker_process_init.connect(backend.retry_until_redis_returns, weak=False)
        worker_shutting_down.connect(backend.begin_shutdown, weak=False)
        super().on_start()
