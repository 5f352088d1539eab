"""A real Redis of the test's own, on a unix socket, which writes nothing to the disk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError


@contextmanager
def redis_server(port: int = 0) -> Iterator[tuple[Redis, str]]:
    """A client, and what follows the transport's name in a broker's URL."""
    with TemporaryDirectory(prefix="guard-") as directory:  # a socket's path must be short
        path = Path(directory, "redis.sock")
        with started(path, "--port", str(port), "--save", ""):
            yield Redis(unix_socket_path=str(path)), f"socket://{path}?virtual_host=0"


@contextmanager
def started(socket: Path, *options: str) -> Iterator[None]:
    """A Redis that answers; it is killed at the end. Its data are beside its socket."""
    directory = socket.parent
    process = subprocess.Popen(
        [
            *("redis-server", "--unixsocket", str(socket), "--dir", str(directory)),
            *("--logfile", f"{directory}/log", *options),
        ]
    )
    try:
        _wait_for(Redis(unix_socket_path=str(socket)))
        yield
    finally:
        process.kill()
        process.wait()


def guarded_broker(place: str) -> str:
    """`broker_url` of that server, as our transport takes it."""
    path = place.removeprefix("socket://").partition("?")[0]
    return f"redis://{quote(path, safe='')}/0"


def _wait_for(client: Redis) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
        except (RedisConnectionError, FileNotFoundError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
