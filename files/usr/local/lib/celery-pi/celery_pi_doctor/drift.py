"""Managed by celery-pi. Files that are no longer as they were deployed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from celery_pi_checks.table import count

from celery_pi_doctor.look import Look
from celery_pi_doctor.permissions import access
from celery_pi_doctor.registry import Found, problem

DECLARED = Path("/var/lib/celery-pi/declared")
SHOWN = 3  # of the files; `make plan` shows each, with its difference
State = list[str]


@problem("Drift", "Files differ from what was deployed", alone=True)
def drift(_: Look) -> Found | None:
    found = [
        f"{path} {how}" for path, wanted in deployed().items() if (how := differs(path, wanted))
    ]
    if not found:
        return None
    more = f" and {count(len(found) - SHOWN, 'other')}" if len(found) > SHOWN else ""
    return Found(
        f"{', '.join(found[:SHOWN])}{more}",
        "the next deploy puts them back, and with them whatever the change was made for",
        "see `make plan`; keep the change by a setting or a drop-in of your own, then deploy",
    )


def deployed() -> dict[str, State]:
    """The files that are to be there: mode, user, group and SHA-256, a dash for a secret's."""
    if not DECLARED.exists():
        return {}
    kept = [line.split("\t") for line in DECLARED.read_text().splitlines()]
    return {path: state for path, *state in kept}


def differs(path: str, wanted: State) -> str:
    """How it is another, or nothing."""
    file = Path(path)
    if file.is_symlink() or not file.is_file():
        return "is missing" if not file.exists() else "is no file any more"
    mode, user, group, digest = wanted
    if digest != "-" and hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        return "was changed"
    told = f"{mode} {user}:{group}"
    return "" if access(file) == told else f"is {access(file)}, not {told}"
