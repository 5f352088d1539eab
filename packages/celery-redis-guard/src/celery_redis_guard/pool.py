"""The process pool.

Results: the main process reads a result from a pool process' pipe in pieces. When Celery reconnects
it drops the pieces and reads the rest as a new message: nothing arrives from that process any more.
During a shutdown it waits for its processes but reads only the pipes of tasks that it remembers,
and after a lost connection it remembers none: a process with more to write than a pipe holds, such
as a long traceback, never ends, and neither does the shutdown. Here they are read whole.

Processes that do not come up: Celery starts others at once, for ever, and answers pings. Here it
waits in between, and the worker ends when none has come up for a while: systemd tells of that.

Forks: see `forks`.
"""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from logging import getLogger
from select import select
from time import monotonic
from typing import Any

from billiard.pool import TERMINATE, WorkersJoined
from celery.concurrency import asynpool, prefork
from celery.exceptions import WorkerTerminate
from celery.signals import task_postrun, task_prerun, worker_process_init, worker_shutting_down

from celery_redis_guard import backend, begun, forks, memory_limit

POLL_INTERVAL = 0.5  # seconds that a shutdown waits for output before it looks for ended processes
EXIT_TIME = 0.2  # seconds that a process needs to end
START_INTERVAL = 4  # seconds between two starts of processes while none comes up; see `timers`
MAX_STARTS = 3  # then the worker ends, if no process is up

logger = getLogger(__name__)


class ResumingResultHandler(asynpool.ResultHandler):
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


class Worker(asynpool.Worker):
    """What runs in a pool process."""

    def after_fork(self) -> None:
        forks.release_pipes()
        super().after_fork()


class JobKeepingPool(asynpool.AsynPool):
    """Remembers running jobs when the connection is lost; Celery 5.5 forgets them."""

    ResultHandler = ResumingResultHandler
    Worker = Worker

    created = 0  # processes since one has come up
    starts = 0  # of those that were created in place of others
    next_start_at = 0.0  # by the monotonic clock

    def __init__(self, *args: Any, **options: Any) -> None:
        # Celery collects garbage before each fork, and a collection writes to every object: no
        # process would share memory with those forked before. The app is not garbage.
        gc.collect()
        gc.freeze()
        self.up: set[int] = set()  # pids
        self.starting_since: dict[int, float] = {}  # by pid, of those that are not up yet
        super().__init__(*args, **options)

    def flush(self) -> None:
        running = {number: job for number, job in self._cache.items() if job._accepted}
        super().flush()
        for number, job in running.items():
            if not job.ready():
                self._cache.setdefault(number, job)
                self._busy_workers.add(job._write_to.inqW_fd)

    # -- processes that do not come up

    def WorkerProcess(self, worker: Any) -> Any:  # the name is billiard's
        self.created += 1
        return super().WorkerProcess(worker)

    def on_process_alive(self, pid: int) -> None:
        self.created = self.starts = 0
        self.up.add(pid)
        super().on_process_alive(pid)

    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        """Look again in a while: what tells that a process has ended is closed before the process
        can be waited for, and else it would be noticed within five seconds only."""
        super()._event_process_exit(hub, proc)
        hub.call_later(EXIT_TIME, self.maintain_pool)

    def _end_hanging(self) -> None:
        """Celery does so, but not with the processes that it starts first."""
        now = monotonic()
        pids = {process.pid for process in self._pool}
        self.up &= pids
        self.starting_since = {pid: self.starting_since.get(pid, now) for pid in pids - self.up}
        for pid, since in self.starting_since.items():
            if now - since > self._proc_alive_timeout:
                _kill(pid)

    def maintain_pool(self) -> None:
        """Called when a process has ended, and each five seconds."""
        self._end_hanging()
        if self.created < self._processes:
            super().maintain_pool()
        elif monotonic() >= self.next_start_at:
            self._start_in_vain()

    def _start_in_vain(self) -> None:
        created = self.created
        super().maintain_pool()
        if self.created == created:  # those that start take their time
            return
        self.next_start_at = monotonic() + START_INTERVAL
        self.starts += 1
        logger.error("celery-pi: %d pool processes in a row ended before they were up", created)
        if self.starts >= MAX_STARTS and not self.up:
            logger.critical(
                "celery-pi: no pool process comes up, so the worker ends: what does the app do "
                "when one starts (worker_process_init)?"
            )
            for process in self._pool:  # a stop would wait for those that hang
                _kill(process.pid)
            raise WorkerTerminate


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended by now
        os.kill(pid, signal.SIGKILL)


class TaskPool(prefork.TaskPool):
    """Named by `worker_pool`."""

    Pool = JobKeepingPool

    def on_start(self) -> None:
        begun.prepare()
        task_prerun.connect(begun.begin, weak=False)
        task_postrun.connect(begun.end, weak=False)
        task_prerun.connect(backend.hold_what_follows, weak=False)
        worker_process_init.connect(backend.retry_until_redis_returns, weak=False)
        worker_shutting_down.connect(backend.begin_shutdown, weak=False)
        if limit := self.options.get("max_memory_per_child"):
            self.options["max_memory_per_child"] = memory_limit.applied(limit)
        forks.remember_apps_pipes()
        for task in self.app.tasks.values():
            task.run = forks.ending_forks(task.run)
        super().on_start()

    def did_start_ok(self) -> bool:
        """Whatever has ended until now: see `JobKeepingPool.maintain_pool`."""
        return True
