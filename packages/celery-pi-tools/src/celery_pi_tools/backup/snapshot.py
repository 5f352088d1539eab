"""Managed by celery-pi. A snapshot of the running Redis, as a replica gets it.

`redis-cli --rdb` does the same, but keeps in memory whatever Redis replies before, and on the disk
whatever it sends: user redis could fill both.
https://redis.io/docs/latest/operate/oss_and_stack/management/replication/
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from celery_pi_tools.backup.common import BackupError
from celery_pi_tools.redis_client import Connection, Refused, login

TIMEOUT = 60  # seconds for a reply
HEADER = re.compile(rb"\$(?:EOF:(?P<mark>[0-9a-f]{40})|(?P<size>[0-9]{1,19}))\r\n")
LONGEST = 1024  # bytes of a header, or of an error in its place
# As `redis-cli --rdb` does: the data in the server's own memory are sent, and no commands follow.
CAPABILITIES = (("capa", "eof"), ("rdb-only", "1"))


@contextmanager
def redis(user: str) -> Iterator[Connection]:
    """A connection of that user. Raises BackupError for whatever fails in the body."""
    try:
        yield login(user, TIMEOUT)
    except Refused as error:
        raise BackupError(f"Redis refuses: {error}") from error
    except (ConnectionError, FileNotFoundError, TimeoutError) as error:
        reason = f"{error.strerror or error} {error.filename or ''}".strip()
        raise BackupError(f"Redis does not answer: {reason}") from error


def info(section: str, user: str = "backup") -> dict[str, str]:
    """A section of Redis' INFO. Raises BackupError."""
    with redis(user) as connection:
        reply = connection.ask("INFO", section)
    lines = reply.splitlines() if isinstance(reply, str) else ()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def copy(rdb: Path, limit: int, timeout: float) -> None:
    """Writes a snapshot to a new file. Raises BackupError for one of more than `limit` bytes, or
    that is not whole within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with redis("backup") as connection, rdb.open("xb") as file:
        for words in CAPABILITIES:
            connection.ask("REPLCONF", *words)
        connection.send("SYNC")
        _receive(connection.raw(deadline), file, limit)


def _receive(blocks: Iterator[bytes], file: IO[bytes], limit: int) -> None:
    """The data are framed by their size, or by a mark at the end that the header names."""
    start = b""
    while not (header := HEADER.match(start)):
        if start.startswith(b"-"):
            raise Refused(start[1:LONGEST].decode(errors="replace").strip())
        if len(start) > LONGEST:
            raise BackupError("Redis sends no snapshot")
        start = (start + next(blocks)).lstrip(b"\n")  # sent while the snapshot is prepared
    mark, size = header["mark"] or b"", int(header["size"] or limit)
    block, tail, received = start[header.end() :], b"", 0
    while True:
        received += len(block)
        if received > limit + len(mark) or (not mark and size > limit):
            raise BackupError(f"Redis sends more than {limit} bytes")
        file.write(block)
        tail = (tail + block)[-len(mark) :] if mark else b""
        if mark and tail == mark:
            file.truncate(received - len(mark))
            return
        if not mark and received >= size:
            file.truncate(size)
            return
        block = next(blocks)
