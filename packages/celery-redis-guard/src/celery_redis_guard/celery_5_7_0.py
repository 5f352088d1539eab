"""The consumer of a plain worker with celery 5.7.0, which ends when Redis restarts under a task.

It closes a lost connection whose parts are gone, and whoever acknowledges a task by it asks `None`
for a host name. Celery 5.6 leaves it to the garbage collector. The guard's own classes need none of
this (`ownership`).
"""

from contextlib import suppress
from typing import Any

from celery.utils.threads import bound_open_broker_sockets
from celery.worker import consumer
from celery.worker.consumer.consumer import COLLECT_SOCKET_TIMEOUT


class Consumer(consumer.Consumer):
    """Keeps a lost connection until there is another."""

    connection: Any

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        connection, self.connection = self.connection, None  # Celery would close it
        bound_open_broker_sockets(connection, COLLECT_SOCKET_TIMEOUT)
        with suppress(Exception):  # as Celery does: the connection is broken in any way
            connection.collect(socket_timeout=COLLECT_SOCKET_TIMEOUT)
        super().on_connection_error_after_connected(exc)
        self.connection = connection
