"""Managed by celery-pi. Files that are no longer as they were deployed."""

from __future__ import annotations

from celery_pi_tools import installed_files
from celery_pi_tools.doctor.registry import Found, problem
from celery_pi_tools.system import System
from celery_pi_tools.table import few


@problem("Drift", "Files differ from what was deployed")
def drift(system: System) -> Found | None:
    """Found whatever other problems there are, except for files that another problem concerns."""
    found = installed_files.changed().items()
    differences = [f"{path} {how}" for path, how in found if path not in system.concerned]
    if not differences:
        return None
    return Found(
        few(differences),
        "the next deploy puts them back, and with them whatever the change was made for; a change "
        "that nobody made is an intrusion",
        "see `make plan`; keep the change by a setting or a drop-in of your own, then deploy",
    )
