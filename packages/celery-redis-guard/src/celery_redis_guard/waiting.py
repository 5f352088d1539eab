"""Waiting: an idle worker learns that a message is there, and does not take it.

BRPOP takes the message: if Redis or the worker is killed before the worker has recorded it, nobody
has it. Here the worker waits with `BLMOVE list list RIGHT RIGHT`, which puts what it takes where it
was, and then fetches with a script. BLMOVE waits for one list, so there is a connection for each.
"""

import select
from collections.abc import Iterable
from typing import Any

from redis import ConnectionPool

TIMEOUT = 1  # seconds after which Redis replies that nothing has come, as kombu's BRPOP


class Waiting:
    """Connections that wait. Its file descriptor is readable when one of them has a reply."""

    def __init__(self, options: dict[str, Any]) -> None:
        # There are as many as lists, whatever limit a channel's pool has: kombu's is 10.
        self.pool = ConnectionPool(**{**options, "max_connections": None})
        self.poller = select.epoll()
        self.connections: dict[str, Any] = {}  # by name of the list
        self.lists: dict[int, str] = {}  # by file descriptor
        self.waits_for: set[str] = set()  # lists for which a reply is due

    def fileno(self) -> int:
        return self.poller.fileno()

    def start(self, lists: Iterable[str]) -> None:
        """Wait for a message in each of these lists. Raises what redis-py does."""
        for name in lists:
            if name not in self.waits_for:
                words = ("BLMOVE", name, name, "RIGHT", "RIGHT", TIMEOUT)
                self._connection(name).send_command(*words)
                self.waits_for.add(name)

    def _connection(self, name: str) -> Any:
        if name not in self.connections:
            made: Any = self.pool.make_connection()
            self.connections[name] = made
            made.connect()
            descriptor = made._sock.fileno()
            self.lists[descriptor] = name
            self.poller.register(descriptor, select.EPOLLIN)
        return self.connections[name]

    def read(self) -> tuple[list[str], list[str]]:
        """Lists in which a message is, and lists in which none has come in time.

        Raises redis-py's ResponseError if Redis refuses to wait, as when its memory is full.
        """
        found: tuple[list[str], list[str]] = ([], [])
        for descriptor, _ in self.poller.poll(0):
            name = self.lists[descriptor]
            self.waits_for.discard(name)
            reply = self.connections[name].read_response()
            found[reply is None].append(name)
        return found

    def has_reply(self) -> bool:
        """Whether `read` would find anything."""
        return bool(self.poller.poll(0))

    def close(self) -> None:
        self.poller.close()
        for connection in self.connections.values():
            connection.disconnect()
