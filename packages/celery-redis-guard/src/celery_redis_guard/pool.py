"""Managed by celery-pi. A worker whose Redis went away still reads what its processes say.

The main process reads a result from a process' pipe in pieces. Celery forgets the pieces when it
connects to Redis anew, and reads the rest as something else: nothing comes from that process any
more. While it stops, it waits for processes but reads only the pipes of tasks it remembers, and it
remembers none after the connection was lost: a process with more to say than a pipe holds, such as
a long traceback, never ends, and nor does the stop.
"""

import gc
import sys
from importlib.metadata import version
from select import select

try:
    from billiard.pool import TERMINATE, WorkersJoined
    from celery.concurrency.asynpool import AsynPool, ResultHandler
    from celery.concurrency.prefork import TaskPool
except ImportError as error:
    sys.exit(f"celery-pi: no safe way for results from a worker's processes: {error}")

USED = ("_recv_message", "on_stop_not_started", "_make_process_result")
PATIENCE = 0.5  # seconds between two looks at processes that say nothing


class WholeResultHandler(ResultHandler):
    """Goes on with a half-read result, and reads until the last process has ended."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.half_read = {}  # by file number: the process, and what reads its result

    def _recv_message(self, add_reader, fd, callback):
        process = self.fileno_to_outq.get(fd)
        owner, reading = self.half_read.pop(fd, (None, None))
        if owner is not process or reading is None:
            reading = super()._recv_message(add_reader, fd, callback)
        try:
            for _ in reading:
                self.half_read[fd] = process, reading
                yield
        finally:
            if not reading.gi_frame:  # read to its end, or to an error
                self.half_read.pop(fd, None)

    def on_stop_not_started(self):
        """As Celery's own, but for every process there is, whatever tasks are remembered."""
        while self._state != TERMINATE:
            if self.check_timeouts is not None:
                self.check_timeouts()
            for fd in select(list(self.fileno_to_outq), [], [], PATIENCE)[0]:
                self._read_what_is_there(fd)
            try:
                self.join_exited_workers(shutdown=True)
            except WorkersJoined:
                return

    def _read_what_is_there(self, fd):
        try:
            next(self._recv_message(lambda *_: None, fd, self.on_state_change), None)
        except (OSError, EOFError):  # it has ended
            self.fileno_to_outq.pop(fd, None)


class KeepingPool(AsynPool):
    """Remembers, when the connection is lost, which tasks run; Celery 5.5 forgets them."""

    ResultHandler = WholeResultHandler

    def __init__(self, *args, **options):
        # Celery collects garbage before each fork, and to look at an object is to write to it: no
        # process would share its memory with those that came before. The app is no garbage.
        gc.collect()
        gc.freeze()
        super().__init__(*args, **options)

    def flush(self):
        running = {number: job for number, job in self._cache.items() if job._accepted}
        super().flush()
        for number, job in running.items():
            if not job.ready():
                self._cache.setdefault(number, job)
                self._busy_workers.add(job._write_to.inqW_fd)


def protect():
    """Let every pool that Celery makes read whole results, of all its tasks."""
    for name in USED:
        if not hasattr(ResultHandler, name):
            sys.exit(
                f"celery-pi: celery {version('celery')} has no ResultHandler.{name}, "
                "by which a worker stops also when Redis went away"
            )
    TaskPool.Pool = KeepingPool
