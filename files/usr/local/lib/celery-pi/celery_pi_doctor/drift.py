"""Managed by celery-pi. Files that are no longer as they were deployed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from celery_pi_checks.table import count

from celery_pi_doctor.look import Look
from celery_pi_doctor.permissions import access
from celery_pi_doctor.registry import Found, problem

RECORDS = Path("/var/lib/celery-pi/deploys")
WHOLE = "deploy.py"
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
    """The files that are to be there: mode, user, group and SHA-256, none of a secret's. A deploy
    of everything says it anew; one of a component adds to that."""
    files: dict[str, State | None] = {}
    for path in sorted(RECORDS.glob("*.json")):
        record = json.loads(path.read_text())
        files = {**({} if WHOLE in record["what"] else files), **record["files"]}
    return {path: state for path, state in files.items() if state}


def differs(path: str, wanted: State) -> str:
    """How it is another, or nothing."""
    file = Path(path)
    if file.is_symlink() or not file.is_file():
        return "is missing" if not file.exists() else "is no file any more"
    mode, user, group, digest = wanted
    if digest and hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        return "was changed"
    told = f"{mode} {user}:{group}"
    return "" if access(file) == told else f"is {access(file)}, not {told}"
