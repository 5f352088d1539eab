"""Managed by celery-pi. The problems that `celery-pi doctor` finds, and what it does about them.

A problem is one function in a module that is named here. The order is that of causes: what may
follow from another problem comes behind it, and names it among its `needs`.
"""

from __future__ import annotations

from importlib import import_module

MODULES = (
    *("disk", "clock", "packages", "processes", "permissions"),
    *("redis_server", "redis_settings", "redis_memory", "env", "app"),
    *("services", "worker", "tasks", "leftovers", "certificates", "restarts"),
    "drift",
)


def load() -> None:
    """Imports the modules, which registers what they look for."""
    for name in MODULES:
        import_module(f"{__name__}.{name}")
