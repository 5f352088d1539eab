"""Connections by TCP: one that is half open is noticed.

The other side is gone, or a firewall has forgotten the connection, and no packet tells of it. The
kernel notices within 25 s, and no reply is waited for longer. A unix socket cannot be half open.
"""

import socket
from typing import Any

OPTIONS = {
    "socket_timeout": 5,  # seconds
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "socket_keepalive_options": {
        socket.TCP_KEEPIDLE: 10,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 3,
        socket.TCP_USER_TIMEOUT: 20_000,  # milliseconds
    },
}
CELERY_TIMEOUT = 120  # seconds, which Celery takes for `redis_socket_timeout` if none is set


def with_tcp_options(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a client of redis-py; what the app has set stays."""
    stated = {key: value for key, value in parameters.items() if value is not None}
    if stated.get("socket_timeout") == CELERY_TIMEOUT:
        del stated["socket_timeout"]
    return {**parameters, **OPTIONS, **stated}
