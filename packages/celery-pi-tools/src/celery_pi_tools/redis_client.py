"""Managed by celery-pi. A client of Redis in few lines: python3-redis takes longer to import than
all of this takes to run. https://redis.io/docs/latest/develop/reference/protocol-spec/

Whoever holds the other end of the socket may be hostile: a reply has a time, a size and a depth.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOCKET = "/run/redis-celery/redis.sock"
SECRETS = "/etc/celery-pi/secrets"
LARGEST = 8 * 2**20  # bytes of a reply
MOST = 2**16  # values in a reply
DEEPEST = 8  # lists within each other; INFO has none, ACL LOG two
BLOCK = 2**16
END = b"\r\n"


class Refused(Exception):
    """Redis' reply is an error; its text."""


class Unreadable(ConnectionError):
    """Redis' reply is too large, or is none; the connection is of no more use."""


class Connection:
    """One connection by a unix socket; OSError when there is no whole answer within the time."""

    def __init__(self, timeout: float, path: str = "") -> None:
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(path or SOCKET)
        self._buffer = bytearray()
        self._deadline, self._bytes, self._values = 0.0, 0, 0  # of the reply that is being read

    def ask(self, *words: str) -> Any:
        """The reply: text, number, list or None. Raises Refused."""
        self.send(*words)
        return self.reply()

    def send(self, *words: str) -> None:
        encoded = [word.encode(errors="surrogatepass") for word in words]
        bulk = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
        self._socket.settimeout(self._timeout)
        self._socket.sendall(b"*%d\r\n" % len(bulk) + b"".join(bulk))

    def raw(self, deadline: float) -> Iterator[bytes]:
        """Whatever comes until that monotonic time, for what is no reply. Raises OSError."""
        self._deadline = deadline
        while True:
            if not self._buffer:
                self._more()
            block = bytes(self._buffer)
            self._buffer.clear()
            yield block

    def reply(self) -> Any:
        self._deadline = time.monotonic() + self._timeout
        self._bytes = self._values = 0
        try:
            return self._value(0)
        except Unreadable:
            self._socket.close()
            raise

    def _value(self, depth: int) -> Any:
        self._values += 1
        if self._values > MOST or depth > DEEPEST:
            raise Unreadable(f"its reply has more than {MOST} values, or {DEEPEST} levels")
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode(errors="replace")
        if kind == b"-":
            raise Refused(rest.decode(errors="replace"))
        number = self._number(kind, rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"$":
            return self._take(number + len(END))[: -len(END)].decode(errors="replace")
        return [self._value(depth + 1) for _ in range(number)]

    def _number(self, kind: bytes, text: bytes) -> int:
        if kind not in (b":", b"$", b"*") or len(text) > 20:
            raise Unreadable("its reply is not of Redis' protocol")
        try:
            return int(text)
        except ValueError:
            raise Unreadable("its reply is not of Redis' protocol") from None

    def _line(self) -> bytes:
        """The next line, without its end."""
        searched = 0
        while (end := self._buffer.find(END, searched)) < 0:
            searched = max(0, len(self._buffer) - 1)
            self._more()
        return self._take(end + len(END))[:end]

    def _take(self, number: int) -> bytes:
        """So many of the bytes that come."""
        self._bytes += number
        if self._bytes > LARGEST:
            raise Unreadable(f"its reply is larger than {LARGEST} bytes")
        while len(self._buffer) < number:
            self._more()
        taken = bytes(self._buffer[:number])
        del self._buffer[:number]
        return taken

    def _more(self) -> None:
        if len(self._buffer) > LARGEST:
            raise Unreadable(f"its reply is larger than {LARGEST} bytes")
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        block = self._socket.recv(BLOCK)
        if not block:
            raise ConnectionError("Redis closed the connection")
        self._buffer += block


def stored(user: str) -> list[str]:
    """Passwords of that user that may be valid: while they change, the old ones too."""
    path = Path(SECRETS, f"redis_{user}_password")
    old = path.with_name(f"{path.name}.old")
    return [path.read_text().rstrip("\n"), *(old.read_text().splitlines() if old.exists() else [])]


def login(user: str, timeout: float, database: int = 0) -> Connection:
    """A connection of that user of Redis, in that database. Raises Refused or OSError."""
    connection = Connection(timeout)
    for password in stored(user):
        try:
            connection.ask("AUTH", user, password)
        except Refused as error:
            if not str(error).startswith("WRONGPASS"):
                raise
        else:
            if database:
                connection.ask("SELECT", str(database))
            return connection
    raise Refused(f"it does not take the stored password of its user {user}")
