"""Managed by celery-pi. The checks behind `celery-pi status` and `celery-pi audit`.

A check is one function in a module `status_*` or `audit_*`. They are shown in the order of `ORDER`;
a module that it does not name, such as one of a component that was added, comes last. Python's
standard library alone, so that they work when the app or its packages are broken.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

ORDER = {
    "status": (
        *("status_redis", "status_tasks", "status_units", "status_machine"),
        "status_backups",
    ),
    "audit": (
        *("audit_network", "audit_secrets", "audit_redis", "audit_units"),
        *("audit_escalation", "audit_accounts", "audit_jobs", "audit_drift"),
        *("audit_updates", "audit_backups", "audit_served"),
    ),
}


def load(command: str) -> None:
    """Imports the modules of a command, which registers what they look for."""
    for name in modules(command):
        import_module(f"{__name__}.{name}")


def modules(command: str) -> tuple[str, ...]:
    """Names of the modules of a command, in their order."""
    found = sorted(path.stem for path in Path(__file__).parent.glob(f"{command}_*.py"))
    return (*ORDER[command], *(name for name in found if name not in ORDER[command]))
