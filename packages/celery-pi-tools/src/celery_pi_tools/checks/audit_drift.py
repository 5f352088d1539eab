"""Managed by celery-pi. Whether the files of ours, root's programs among them, are what was
deployed, and whether others lie beside them that root would load."""

from __future__ import annotations

from celery_pi_tools import installed_files, manifest
from celery_pi_tools.checks.registry import Result, check, ok, warn, wrong
from celery_pi_tools.system import System
from celery_pi_tools.table import count, few


@check("Escalation", "Drift")
def drift(_: System) -> Result:
    if not manifest.files():
        return warn("no deploy has told of its files yet", "deploy", files=[])
    found = installed_files.changed()
    if found:
        evidence = [f"{path} {how}" for path, how in found.items()]
        remedy = "`make plan` shows each; deploy again, which puts them back"
        return wrong(few(evidence), remedy, files=sorted(found))
    return ok(f"{count(len(manifest.files()), 'file')} as deployed", files=[])


@check("Escalation", "Strangers among root's programs")
def undeclared(_: System) -> Result:
    found = installed_files.undeclared()
    if found:
        remedy = "see whose it is; rm it, if it is none of yours (an earlier version's may be left)"
        return wrong(f"no deploy has put there: {few(found)}", remedy, files=found)
    return ok("none", files=[])
