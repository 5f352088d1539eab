"""Managed by celery-pi. Run as user redis, who alone reads what he may have written himself:

    scratch_server.py DATA yes|no ROOM    JSON: what a throw-away server that loads DATA holds

By the append-only file (`yes`) or the snapshot (`no`). The server is a replica of nobody, so that
it drops no key whose time has come: whenever they are counted, the same data give the same counts
and the same digest. ROOM is for its socket and log.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from celery_pi_tools.redis_client import Connection, Refused

PATIENCE = 600  # seconds to load all
REPLY_TIMEOUT = 300  # seconds for one; the digest reads every key
TAIL = 4096  # bytes of its log
SERVER = (
    *("redis-server", "--port", "0", "--unixsocketperm", "700", "--save", "", "--maxmemory", "0"),
    *("--replicaof", "127.0.0.1", "1", "--enable-debug-command", "yes", "--daemonize", "no"),
    *("--logfile", "", "--pidfile", ""),
)


@contextmanager
def server(data: str, append_only: str, room: Path) -> Iterator[Connection]:
    """A connection, once all is loaded."""
    paths = ("--dir", data, "--unixsocket", str(room / "socket"), "--appendonly", append_only)
    with (room / "log").open("wb") as log:
        process = subprocess.Popen(
            (*SERVER, *paths), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield _ready(process, room)
    finally:
        process.kill()
        process.wait()


def _ready(process: subprocess.Popen[bytes], room: Path) -> Connection:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            connection = Connection(REPLY_TIMEOUT, str(room / "socket"))
            connection.ask("PING")
        except (OSError, Refused):  # not up yet, or still loading
            time.sleep(0.1)
        else:
            return connection
    with (room / "log").open("rb") as log:
        log.seek(max(0, log.seek(0, 2) - TAIL))
        lines = log.read(TAIL).decode(errors="replace").strip().splitlines()
    sys.exit(f"Redis does not load the data: {lines[-1] if lines else 'it says nothing'}")


def counts(line: str) -> tuple[str, dict[str, int]]:
    """`db0:keys=8,expires=2,…` by its number."""
    name, _, text = line.partition(":")
    values = dict(pair.split("=") for pair in text.split(","))
    return name[2:], {"keys": int(values["keys"]), "expiring": int(values["expires"])}


def main(data: str, append_only: str, room: str) -> None:
    with server(data, append_only, Path(room)) as connection:
        lines = connection.ask("INFO", "keyspace").splitlines()
        databases = dict(counts(line) for line in lines if line.startswith("db"))
        print(json.dumps({"databases": databases, "digest": connection.ask("DEBUG", "DIGEST")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
