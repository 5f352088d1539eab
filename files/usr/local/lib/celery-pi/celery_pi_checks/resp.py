"""Managed by celery-pi. A client of Redis in few lines: python3-redis takes longer to import than
all of this takes to run. https://redis.io/docs/latest/develop/reference/protocol-spec/"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

SOCKET = "/run/redis-celery/redis.sock"
SECRETS = "/etc/celery-pi/secrets"


class Refused(Exception):
    """Redis' reply is an error; its text."""


class Connection:
    """One connection by a unix socket; OSError when there is no answer within the time-out."""

    def __init__(self, timeout: float, path: str = "") -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(path or SOCKET)
        self._file = self._socket.makefile("rb")

    def ask(self, *words: str) -> Any:
        """The reply: text, number, list or None. Raises Refused."""
        self.send(*words)
        return self.reply()

    def send(self, *words: str) -> None:
        encoded = [word.encode() for word in words]
        bulk = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
        self._socket.sendall(b"*%d\r\n" % len(bulk) + b"".join(bulk))

    def reply(self) -> Any:
        line = self._file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise Refused(rest.decode())
        if kind not in (b":", b"$", b"*"):
            raise ConnectionError("Redis closed the connection")
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"$":
            return self._file.read(number + 2)[:-2].decode(errors="replace")
        return [self.reply() for _ in range(number)]


def stored(user: str) -> list[str]:
    """Passwords of that user that may be valid: while they change, the old ones too."""
    path = Path(SECRETS, f"redis_{user}_password")
    old = path.with_name(f"{path.name}.old")
    return [path.read_text().rstrip("\n"), *(old.read_text().splitlines() if old.exists() else [])]


def login(user: str, timeout: float) -> Connection:
    """A connection of that user of Redis. Raises Refused or OSError."""
    connection = Connection(timeout)
    for password in stored(user):
        try:
            connection.ask("AUTH", user, password)
        except Refused as error:
            if not str(error).startswith("WRONGPASS"):
                raise
        else:
            return connection
    raise Refused(f"it does not take the stored password of its user {user}")
