"""Managed by celery-pi. The checks behind `celery-pi status` and `celery-pi audit`.

A check is one function in a module `status_*` or `audit_*`. They are shown in the order of `ORDER`;
a module that it does not name, such as one of a component that was added, comes behind. Python's
standard library alone, so that they work when the app or its packages are broken.
"""

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


def _others(command: str) -> list[str]:
    there = sorted(path.stem for path in Path(__file__).parent.glob(f"{command}_*.py"))
    return [name for name in there if name not in {*ORDER["status"], *ORDER["audit"]}]


MODULES = {command: (*names, *_others(command)) for command, names in ORDER.items()}
