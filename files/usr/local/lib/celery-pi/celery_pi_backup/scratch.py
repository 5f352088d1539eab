"""Managed by celery-pi. What is in data of Redis, told by a throw-away server that loads them.

It is a replica of nobody, so that it drops no key whose time has come: whenever they are counted,
the same data give the same counts and the same digest. The digest is Redis' own (DEBUG DIGEST): of
names, values, and whether they expire, in whatever order and on whatever version.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery_pi_checks.resp import Connection, Refused

from celery_pi_backup import Trouble
from celery_pi_backup.hands import become, hand_over, room_for, run, workspace

USER = "redis"
PATIENCE = 600  # seconds to load all
ANSWER = 300  # seconds for one; the digest reads every key
SERVER = (
    *("redis-server", "--port", "0", "--unixsocketperm", "770", "--save", "", "--maxmemory", "0"),
    *("--replicaof", "127.0.0.1", "1", "--enable-debug-command", "yes", "--daemonize", "no"),
    *("--logfile", "", "--pidfile", ""),
)


def look(rdb: Path) -> dict[str, Any]:
    """What an RDB file, `dump.rdb` in a workspace, holds: `databases` and `digest`."""
    if subprocess.run(("redis-check-rdb", rdb), capture_output=True, check=False).returncode:
        raise Trouble(f"{rdb.name} is damaged: redis-check-rdb refuses it")
    with workspace() as work:
        place = room_for(USER, work / "data")
        hand_over(rdb, USER, place)
        return look_in(place, "no")


def look_in(data: Path, append_only: str) -> dict[str, Any]:
    """The same of a directory of data, by the append-only file (`yes`) or the snapshot (`no`)."""
    with _server(data, append_only) as server:
        told = server.ask("INFO", "keyspace").splitlines()
        databases = dict(_counts(line) for line in told if line.startswith("db"))
        return {"databases": databases, "digest": server.ask("DEBUG", "DIGEST")}


def _counts(line: str) -> tuple[str, dict[str, int]]:
    """`db0:keys=8,expires=2,…` by its number."""
    name, _, told = line.partition(":")
    values = dict(pair.split("=") for pair in told.split(","))
    return name[2:], {"keys": int(values["keys"]), "expiring": int(values["expires"])}


def version() -> str:
    """Of the installed server, such as 8.0.2."""
    said = run("redis-server", "--version").decode()
    return next(word[2:] for word in said.split() if word.startswith("v="))


@contextmanager
def _server(data: Path, append_only: str) -> Iterator[Connection]:
    with workspace() as work:
        place = room_for(USER, work / "run")
        socket = str(place / "socket")
        paths = ("--dir", str(data), "--unixsocket", socket, "--appendonly", append_only)
        log = work / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                (*SERVER, *paths), stdout=output, stderr=output, umask=0o077, **become(USER)
            )
        try:
            yield _ready(process, socket, log)
        finally:
            _end(process)


def _ready(process: subprocess.Popen[bytes], socket: str, log: Path) -> Connection:
    """A connection, once all is loaded."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            connection = Connection(ANSWER, socket)
            connection.ask("PING")
        except (OSError, Refused):  # not up yet, or still loading
            time.sleep(0.1)
        else:
            return connection
    said = log.read_text(errors="replace").strip().splitlines()
    raise Trouble(f"Redis does not load the data: {said[-1] if said else 'it says nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """As its own user, because who may send it a signal is he."""
    if process.poll() is None:
        command = ("sh", "-c", 'kill -KILL "$0"', str(process.pid))
        subprocess.run(command, check=False, **become(USER))
    process.wait(timeout=30)


def difference(found: dict[str, Any], promised: dict[str, Any]) -> str:
    """In what they differ, or nothing."""
    counted, wanted = _keys(found), _keys(promised)
    if counted != wanted:
        return f"{counted} keys instead of {wanted}"
    if found["databases"] != promised["databases"]:
        return "as many keys, but in other databases, or other ones that expire"
    return "" if found["digest"] == promised["digest"] else "as many keys, but another content"


def _keys(told: dict[str, Any]) -> int:
    return sum(database["keys"] for database in told["databases"].values())
