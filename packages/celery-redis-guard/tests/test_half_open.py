"""Connections that are half open: the other side is gone, and no packet tells of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis

from redis_server import redis_server
from test_guarded_worker import SIX_LINES, URL, Site, guarded, wait_for

pytestmark = pytest.mark.fast

NOTICED = 30  # seconds


class Proxy:
    """Forwards to a Redis, until it stops: then what was open stays open, and nothing gets through.

    Its kernel acknowledges each packet, so the worker's cannot notice anything."""

    def __init__(self, port: int) -> None:
        self.port, self.pairs, self.stopped = port, [], set[int]()  # type: ignore[var-annotated]
        self.listener = socket.create_server(("localhost", 0))
        self.place = f"redis://localhost:{self.listener.getsockname()[1]}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # the test is over
            while True:
                near = self.listener.accept()[0]
                far = socket.create_connection(("localhost", self.port))
                number = len(self.pairs)
                self.pairs.append((near, far))
                for ends in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._forward, args=(number, *ends), daemon=True
                    ).start()

    def _forward(self, number: int, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                while number in self.stopped:
                    time.sleep(0.1)
                target.sendall(data)
            if number not in self.stopped:
                target.close()

    def stop(self) -> None:
        """For the connections that there are; new ones get through."""
        self.stopped |= set(range(len(self.pairs)))

    def close(self) -> None:
        self.listener.close()
        for pair in self.pairs:
            for end in pair:
                end.close()


@pytest.fixture
def through(tmp_path: Path) -> Iterator[tuple[Site, Proxy, Site]]:
    """A site whose worker's connections go through a proxy, and how it sends beside that."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with redis_server(port) as (redis, place):
        proxy = Proxy(port)
        yield made(tmp_path / "worker", redis, proxy.place), proxy, made(tmp_path, redis, place)
        proxy.close()


def made(directory: Path, redis: Redis, place: str) -> Site:
    directory.mkdir(exist_ok=True)
    lines = guarded(place) if place.startswith("socket") else SIX_LINES.replace(URL, place)
    return Site(directory, redis, lines)


def test_half_open_connection_is_noticed_in_time(through: tuple[Site, Proxy, Site]) -> None:
    site, proxy, sender = through
    with site.worker("one") as worker:
        assert sender.send("print(write.delay('before').get(timeout=30))") == "before"
        time.sleep(1)  # until it blocks
        proxy.stop()
        stopped_at = time.monotonic()
        sender.send("write.delay('after')")
        wait_for(lambda: "end" in site.lines("after"), NOTICED - (time.monotonic() - stopped_at))
        sender.send("[write.delay(str(number)) for number in range(10)]")
        wait_for(lambda: all("end" in site.lines(str(number)) for number in range(10)))
        wait_for(lambda: not site.left())
        assert worker.poll() is None
    assert site.lines("after").count("end") == 1


def test_task_that_runs_when_its_connection_becomes_half_open_ends_once(
    through: tuple[Site, Proxy, Site],
) -> None:
    site, proxy, sender = through
    with site.worker("one") as worker:
        sender.send("write.delay('runs', 5)")
        wait_for(lambda: site.lines("runs"))
        proxy.stop()
        wait_for(lambda: "end" in site.lines("runs"))
        wait_for(lambda: not site.redis.exists("unacked"), 60)
        assert worker.poll() is None
    assert site.lines("runs").count("end") == 1
