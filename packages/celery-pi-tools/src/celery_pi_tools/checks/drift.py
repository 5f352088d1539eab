"""Managed by celery-pi. Whether the files of ours, root's programs among them, are what was
deployed, and whether others lie beside them that root would load."""

from __future__ import annotations

from celery_pi_tools import installed_files, manifest
from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.system import System
from celery_pi_tools.table import count, few


@check("Escalation", "Drift", "audit")
@check("Drift", "Files differ from what was deployed", "doctor")
def drift(system: System) -> Finding:
    """Found whatever other problems there are, except for files that another problem concerns."""
    if not manifest.files():
        return warn("no deploy has noted its files yet", "deploy", files=[])
    changed = installed_files.changed()
    reported = {path: how for path, how in changed.items() if path not in system.concerned}
    if not reported:
        return ok(f"{count(len(manifest.files()), 'file')} as deployed", files=[])
    return Finding(
        "wrong",
        few([f"{path} {how}" for path, how in reported.items()]),
        "the next deploy puts them back, and with them whatever the change was made for; a change "
        "that nobody made is an intrusion",
        "see `make plan`; keep the change by a setting or a drop-in of your own, then deploy",
        values={"files": sorted(reported)},
    )


@check("Escalation", "Strangers among root's programs", "audit")
def undeclared(_: System) -> Finding:
    paths = installed_files.undeclared()
    if paths:
        remedy = "see whose it is; rm it, if it is none of yours (an earlier version's may be left)"
        return wrong(f"no deploy has put there: {few(paths)}", remedy, files=paths)
    return ok("none", files=[])
