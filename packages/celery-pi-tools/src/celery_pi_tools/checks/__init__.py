"""Managed by celery-pi. The checks behind `celery-pi status`, `audit` and `doctor`.

A check is one function in a module here. Python's standard library alone, so that they work when
the app or its packages are broken.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from celery_pi_tools.checks.registry import CHECKS

# The order of causes: what may follow from the problems of another module stands after it. A module
# that is not named, such as one of a component that was added, comes last.
ORDER = (
    *("disk", "machine", "clock", "updates", "packages", "processes", "permissions", "secrets"),
    *("network", "redis_state", "redis_server", "redis_users", "redis_settings", "redis_memory"),
    *("env", "app", "units", "sandboxes", "task_state", "worker", "tasks"),
    *("escalation", "accounts", "jobs", "leftovers", "certificates", "restarts", "backups"),
    *("served", "drift"),
)


def load() -> None:
    """Imports the modules, which registers their checks, and puts the checks in order."""
    loaded = [import_module(f"{__name__}.{name}").__name__ for name in modules()]
    CHECKS.sort(key=lambda check: loaded.index(check.function.__module__))


def modules() -> tuple[str, ...]:
    """Names of the modules, in their order."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    return (*ORDER, *(name for name in names if name not in ORDER))
