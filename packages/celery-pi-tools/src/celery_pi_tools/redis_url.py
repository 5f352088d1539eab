"""Managed by celery-pi. URLs of the deployed Redis, as kombu takes them: a deploy writes them, and
the doctor compares what is in `.env` with them. The settings are those of `celery_pi/settings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from celery_pi_tools.redis_client import SOCKET

CA = "/etc/celery-pi/tls/ca.crt"


def broker_url(password: str, settings: Mapping[str, Any]) -> str:
    """URL of the app's user for broker and results; whatever characters the password has, it
    parses."""
    login, database = f"celery:{quote(password, safe='')}", settings["redis_database"]
    if settings["redis_socket"]:
        return socket_url("celery", password, settings)
    if settings["redis_tls"]:
        # Celery checks no certificate unless the URL demands it, and knows only the public CAs.
        checks = f"ssl_cert_reqs=required&ssl_ca_certs={CA}"
        return f"rediss://{login}@127.0.0.1:{settings['redis_tls_port']}/{database}?{checks}"
    return f"redis://{login}@127.0.0.1:{settings['redis_port']}/{database}"


def socket_url(user: str, password: str, settings: Mapping[str, Any]) -> str:
    """URL of the unix socket, which is there whatever ports are open."""
    login = f"{user}:{quote(password, safe='')}"
    return f"redis+socket://{login}@{SOCKET}?virtual_host={settings['redis_database']}"
