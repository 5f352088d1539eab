"""Results of pool processes are read whole, until the last process has ended."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pickle import dumps
from typing import Any

import pytest
from billiard.pool import WorkersJoined
from celery.concurrency import asynpool

from celery_redis_guard import pool

pytestmark = pytest.mark.fast


RESULT = ("result", "\0" * 200_000)  # more than a pipe holds
MESSAGE = struct.pack("!i", len(dumps(RESULT))) + dumps(RESULT)


class Pipe:
    """A process as far as the handler looks at it: what it writes comes out at `reader`."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        self.rest = MESSAGE

    def write(self, limit: int | None = None) -> None:
        """Write on, as much as the pipe takes."""
        self.rest = self.rest[os.write(self.writer, self.rest[:limit]) :]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    opened = Pipe()
    yield opened
    for end in (opened.reader, opened.writer):
        os.close(end)


def handler(kind: Any, pipe: Pipe) -> tuple[Any, list[object]]:
    """One that reads that pipe, and what it has read."""
    made = kind.__new__(kind)
    made.fileno_to_outq = {pipe.reader: pipe}
    made.partial_reads = {}
    made.handle_event = None
    made.check_timeouts = None
    made._state = None
    read: list[object] = []
    made.on_state_change = read.append
    return made, read


def read_anew(made: Any, pipe: Pipe) -> None:
    """Read what is there, as after a new connection: nothing is known of what went before."""
    next(made._recv_message(lambda *_: None, pipe.reader, made.on_state_change), None)


@pytest.mark.parametrize("first", [2, 4, 1000], ids=["half a header", "header", "some of it"])
def test_partial_read_is_resumed(pipe: Pipe, first: int) -> None:
    made, read = handler(pool.ResumingResultHandler, pipe)
    pipe.write(first)
    while not read:
        read_anew(made, pipe)
        pipe.write()
        read_anew(made, pipe)
    assert read == [RESULT]
    assert made.partial_reads == {}


def test_celery_alone_loses_a_partial_read(pipe: Pipe) -> None:
    made, read = handler(asynpool.ResultHandler, pipe)
    pipe.write(1000)
    read_anew(made, pipe)
    pipe.write()
    with pytest.raises(EOFError):
        read_anew(made, pipe)
    assert read == []


def test_partial_read_of_an_ended_process_is_not_mixed_with_anothers(pipe: Pipe) -> None:
    made, read = handler(pool.ResumingResultHandler, pipe)
    pipe.write(1000)
    read_anew(made, pipe)
    made.fileno_to_outq[pipe.reader] = object()  # a new process, with the same number of file
    pipe.rest = MESSAGE
    while not read:
        pipe.write()
        read_anew(made, pipe)
    assert read == [RESULT]


def test_shutdown_reads_until_the_last_process_has_ended(pipe: Pipe) -> None:
    """Also when no task is remembered."""
    made, read = handler(pool.ResumingResultHandler, pipe)
    made.cache = {}

    def join_exited_workers(shutdown: bool) -> None:
        assert shutdown
        if read:
            raise WorkersJoined
        pipe.write()

    made.join_exited_workers = join_exited_workers
    made.on_stop_not_started()
    assert read == [RESULT]
