"""A proxy before a Redis that knows the steps of a task's life, and can stop the world at each.

A step is a command that has been executed and whose reply has not arrived, or a command that has
not arrived itself. Commands that have to do with no task, such as those with which a worker asks
again and again for one, are none.
"""

from __future__ import annotations

import re
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

ID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
# What no task waits for.
IDLE = {
    *("AUTH", "CLIENT", "COMMAND", "EXISTS", "HELLO", "HGETALL", "INFO", "LLEN", "MGET", "MULTI"),
    *(
        "PING",
        "PSUBSCRIBE",
        "PUBLISH",
        "PUBSUB",
        "SCRIPT",
        "SELECT",
        "SMEMBERS",
        "SUBSCRIBE",
        "TIME",
    ),
    *("UNSUBSCRIBE", "UNWATCH", "WATCH", "ZRANGEBYSCORE", "ZREVRANGEBYSCORE"),
}
IDLE_KEYS = ("_kombu", "unacked_mutex", "set-aside")
FETCHING = ("BRPOP", "BLMOVE", "fetch")

# Gets a step's name and the process whose step it is; whether Redis is gone.
Stop = Callable[[str, int], bool]


class Incomplete(Exception):
    """The rest is not there yet."""


def parse(data: bytes, at: int = 0) -> tuple[Any, int]:
    """A value of Redis' protocol (RESP 2 and 3), and where the next one begins."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise Incomplete
    kind, line, at = data[at : at + 1], data[at + 1 : end], end + 2
    if kind in b"$=!":
        size = int(line)
        if size < 0:
            return None, at
        if len(data) < at + size + 2:
            raise Incomplete
        return data[at : at + size], at + size + 2
    if kind in b"*~>%":
        if int(line) < 0:
            return None, at
        values = []
        for _ in range(int(line) * (2 if kind == b"%" else 1)):
            value, at = parse(data, at)
            values.append(value)
        return values, at
    return (None if kind == b"_" else line), at


def name_of(words: list[bytes]) -> str:
    """What a command does, without the ids of tasks; nothing if no task waits for it."""
    texts = [word.decode(errors="replace") for word in words]
    command = texts[0].upper()
    if command in IDLE:
        return ""
    key = texts[3] if command in {"EVAL", "EVALSHA"} else texts[1] if len(texts) > 1 else ""
    if any(word in key for word in IDLE_KEYS):
        return ""
    if command == "EVAL":
        script = texts[1]
        if "RPOP" in script:
            command = "fetch" if "return false" in script else ""
        elif "grown:" in script:
            command = "grow"
        elif "ZADD" in script:
            command = "count" if "SADD" in script else "record"
        else:
            command = "finish" if "DEL" in script else "store"
    return f"{command} {ID.sub('*', key)}".strip() if command else ""


def _pass(_: str, __: int) -> bool:
    return False


class StepProxy:
    """Listens on a unix socket, and leads to another."""

    def __init__(self, path: Path, server: Path) -> None:
        self.path, self.server = path, server
        self.open = Event()  # while it is not set, nothing passes
        self.open.set()
        self.before: Stop = _pass
        self.after: Stop = _pass
        self.connections: set[Connection] = set()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        Thread(target=self._accept, daemon=True).start()

    def is_waiting(self) -> bool:
        """Whether the worker is idle: it waits for a task."""
        return any(connection.waits() for connection in list(self.connections))

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            upstream = socket.socket(socket.AF_UNIX)
            try:
                upstream.connect(str(self.server))
            except OSError:
                client.close()
                upstream.close()
                continue
            self.connections.add(Connection(self, client, upstream))


class Connection:
    """One client's connection to Redis."""

    def __init__(self, proxy: StepProxy, client: socket.socket, upstream: socket.socket) -> None:
        self.proxy, self.client, self.upstream = proxy, client, upstream
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid: int = struct.unpack("3i", credentials)[0]
        self.due: deque[tuple[str, bool]] = deque()  # name of a step; whether only with a reply
        self.queued: list[str] = []  # what a transaction does
        self.is_subscribed = False
        Thread(target=self._pump, args=(client, upstream, self._command), daemon=True).start()
        Thread(target=self._pump, args=(upstream, client, self._reply), daemon=True).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, handle: Callable[[Any], None]
    ) -> None:
        data = b""
        with suppress(OSError):
            while received := source.recv(1 << 16):
                data += received
                at = 0
                with suppress(Incomplete):
                    while at < len(data):
                        value, end = parse(data, at)
                        self.proxy.open.wait()
                        handle(value)  # raises ConnectionResetError if Redis is gone
                        target.sendall(data[at:end])
                        at = end
                data = data[at:]
        self.proxy.connections.discard(self)
        for end_ in (source, target):
            with suppress(OSError):
                end_.shutdown(socket.SHUT_RDWR)

    def waits(self) -> bool:
        return any(name.startswith(("BRPOP", "BLMOVE")) for name, _ in list(self.due))

    def _command(self, words: list[bytes]) -> None:
        command = words[0].upper()
        name = name_of(words)
        if command in {b"SUBSCRIBE", b"PSUBSCRIBE"}:
            self.is_subscribed = True
        if command == b"MULTI":
            self.queued = [""]
        elif command == b"EXEC":
            done = [name for name in self.queued if name]
            name, self.queued = ("EXEC " + ", ".join(done)) if done else "", []
        elif self.queued:
            self.queued.append(name)
            name = ""
        is_fetch = name.startswith(FETCHING)
        # A fetch that acknowledges a task is a step even if it finds no other.
        acknowledges = name.startswith("fetch") and len(words) > 5 + int(words[2])
        if name and not is_fetch and self.proxy.before(name, self.pid):
            raise ConnectionResetError
        self.due.append((name + " and ack" * acknowledges, is_fetch and not acknowledges))

    def _reply(self, reply: Any) -> None:
        if self.is_subscribed or not self.due:
            return
        name, needs_reply = self.due.popleft()
        done = name and (reply is not None or not needs_reply)
        if done and self.proxy.after(name, self.pid):
            raise ConnectionResetError
