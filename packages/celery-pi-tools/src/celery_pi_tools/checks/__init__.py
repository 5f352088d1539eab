"""Managed by celery-pi. The checks behind `celery-pi status` and `celery-pi audit`.

A check is one function in a module that is named here; they are shown in this order. Python's
standard library alone, so that they work when the app or its packages are broken.
"""

from __future__ import annotations

from importlib import import_module

MODULES = {
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
    for name in MODULES[command]:
        import_module(f"{__name__}.{name}")
