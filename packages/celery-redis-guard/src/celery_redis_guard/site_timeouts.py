"""How long a site may wait for Redis when it sends a task: settings for the site, and what lacks.

Without them `.delay()` waits for ever while Redis is frozen or out of reach, and 20 seconds while
it is stopped. With them it raises within 5 seconds; which exceptions: README.md. In the settings of
Django, whatever the namespace, or of Celery:

    from celery_redis_guard.site_timeouts import *
    from celery_redis_guard.site_timeouts import SETTINGS; app.conf.update(SETTINGS)

Standard library alone. A worker, which should wait, does not take them over: `forced_defaults`.
"""

from collections.abc import Mapping
from typing import Any

SOCKET_TIMEOUT = 1.0  # seconds; a send waits up to three times before it raises
LONGEST = 5  # seconds of a timeout, above which a send is said to hang
MOST_RETRIES = 2  # of a policy
HANGS = "sends of the site hang while Redis does not answer"

broker_transport_options = {
    "socket_timeout": SOCKET_TIMEOUT,
    "socket_connect_timeout": SOCKET_TIMEOUT,
}
redis_socket_timeout = redis_socket_connect_timeout = SOCKET_TIMEOUT
# A Redis that is started again within a second is not noticed.
result_backend_transport_options = {
    "retry_policy": {
        "timeout": 1.0,
        "interval_start": 0.1,
        "interval_step": 0.1,
        "interval_max": 0.2,
    }
}
task_publish_retry_policy = {
    "max_retries": 1,
    "interval_start": 0.5,
    "interval_step": 0.1,
    "interval_max": 0.5,
}

SETTINGS: dict[str, Any] = {
    "broker_transport_options": broker_transport_options,
    "redis_socket_timeout": redis_socket_timeout,
    "redis_socket_connect_timeout": redis_socket_connect_timeout,
    "result_backend_transport_options": result_backend_transport_options,
    "task_publish_retry_policy": task_publish_retry_policy,
}

# By the names with namespace="CELERY", which are also the old ones but for the last.
CELERY_BROKER_TRANSPORT_OPTIONS = broker_transport_options
CELERY_REDIS_SOCKET_TIMEOUT = redis_socket_timeout
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = redis_socket_connect_timeout
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = result_backend_transport_options
CELERY_TASK_PUBLISH_RETRY_POLICY = task_publish_retry_policy
BROKER_TRANSPORT_OPTIONS = broker_transport_options

__all__ = [  # for `import *` in the settings of Django
    "BROKER_TRANSPORT_OPTIONS",
    "CELERY_BROKER_TRANSPORT_OPTIONS",
    "CELERY_REDIS_SOCKET_CONNECT_TIMEOUT",
    "CELERY_REDIS_SOCKET_TIMEOUT",
    "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS",
    "CELERY_TASK_PUBLISH_RETRY_POLICY",
]


def lacking(stated: Mapping[str, Any]) -> list[str]:
    """Which of `SETTINGS` an app lacks whose own settings are these, lest its sends hang."""
    broker, results = stated["broker_transport_options"], stated["result_backend_transport_options"]
    bounded = {
        "broker_transport_options": _is_short(broker.get("socket_timeout"))
        and _is_short(broker.get("socket_connect_timeout")),
        "redis_socket_timeout": _is_short(stated["redis_socket_timeout"]),
        "redis_socket_connect_timeout": _is_short(stated["redis_socket_connect_timeout"]),
        "result_backend_transport_options": _is_few(results.get("retry_policy", {})),
        "task_publish_retry_policy": _is_few(stated["task_publish_retry_policy"]),
    }
    return [key for key in SETTINGS if not bounded[key]]


def lines(keys: list[str], stated: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What to add to the settings of an app, with the prefix that its names have, if any."""
    names = {key: f"{prefix}{key.upper()}" if prefix else f"app.conf.{key}" for key in keys}
    return [f"{names[key]} = {_text(SETTINGS[key], stated[key], names[key])}" for key in keys]


def _text(value: Any, present: Any, name: str) -> str:
    if not isinstance(value, dict) or not present:
        return repr(value)
    return f"{{**{name}, {repr(value)[1:]}"


def _is_short(timeout: float | None) -> bool:
    return bool(timeout) and float(timeout or 0) <= LONGEST


def _is_few(policy: Mapping[str, Any]) -> bool:
    retries = policy.get("max_retries", MOST_RETRIES + 1)
    return _is_short(policy.get("timeout")) or (retries is not None and retries <= MOST_RETRIES)
