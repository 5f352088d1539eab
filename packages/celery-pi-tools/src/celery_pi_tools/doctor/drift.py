"""Managed by celery-pi. Files that are no longer as they were deployed."""

from __future__ import annotations

from celery_pi_checks import declared
from celery_pi_checks.table import few

from celery_pi_doctor.look import Look
from celery_pi_doctor.registry import Found, problem


@problem("Drift", "Files differ from what was deployed")
def drift(look: Look) -> Found | None:
    """Whatever else stands; of a file that another problem concerns, that one tells."""
    found = declared.changed().items()
    told = [f"{path} {how}" for path, how in found if path not in look.concerned]
    if not told:
        return None
    return Found(
        few(told),
        "the next deploy puts them back, and with them whatever the change was made for; a change "
        "that nobody made is an intrusion",
        "see `make plan`; keep the change by a setting or a drop-in of your own, then deploy",
    )
