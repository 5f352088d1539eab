"""Managed by celery-pi. How all problems are looked for and repaired, one after the other."""

from __future__ import annotations

import time
from typing import NamedTuple

from celery_pi_tools.checks.registry import Check, Finding, explained, of_view, run_check
from celery_pi_tools.system import System

INTERVAL = 0.5  # seconds between two readings
REPAIR_TIMEOUT = 30  # seconds within which a repair must take effect
UNKNOWN_GRACE = 5  # seconds for which a busy machine may be unreadable
NOTHING = Finding("unknown", "")


class Outcome(NamedTuple):
    """The result for one problem.

    `state` is one of

        fixable      it has a repair, which was not requested
        manual       a person must act
        fixed        the repair succeeded
        unresolved   the repair failed, or did not help; `reason` says why
        unknown      it could not be looked for; `reason` says why
        suppressed   it was not looked for, because a cause of it, `reason`, stands
    """

    check: Check
    state: str
    finding: Finding
    reason: str = ""


def examine(system: System, fix: bool) -> list[Outcome]:
    """Looks for every problem. With `fix` it also makes the repairs, and verifies each."""
    outcomes: list[Outcome] = []
    standing: set[str] = set()
    for check in of_view("doctor"):
        if check.only_if_healthy and outcomes:
            continue
        outcome = _examine(check, system, fix, standing)
        if outcome is None:
            continue
        outcomes.append(outcome)
        system = system.refresh(*(outcome.finding.files if outcome.state != "fixed" else ()))
        if outcome.state != "fixed":
            standing |= {check.section, check.name}
    return outcomes


def _examine(check: Check, system: System, fix: bool, standing: set[str]) -> Outcome | None:
    if causes := [cause for cause in check.after if cause in standing]:
        return Outcome(check, "suppressed", NOTHING, causes[0])
    finding = _find_lasting(check, system)
    if finding is None:
        return None
    if finding.level == "unknown":
        return Outcome(check, "unknown", NOTHING, finding.evidence)
    if not finding.fix:
        return Outcome(check, "manual", finding)
    return _repair(check, finding, system) if fix else Outcome(check, "fixable", finding)


def _find_lasting(check: Check, system: System) -> Finding | None:
    """The problem, if it lasts for longer than its grace period."""
    begun = time.monotonic()
    while True:
        finding = _find(check, system)
        if finding is None or time.monotonic() - begun >= finding.grace:
            return finding
        time.sleep(INTERVAL)
        system = system.refresh()


def _find(check: Check, system: System) -> Finding | None:
    """What the check finds in one reading, if it is a problem or could not be read."""
    finding = run_check(check.function, system)
    if finding is not None and finding.level == "unknown":
        return finding._replace(grace=UNKNOWN_GRACE)
    return finding if finding is not None and finding.impact else None


def _repair(check: Check, finding: Finding, system: System) -> Outcome:
    """Makes the repair, and verifies it."""
    if reason := _fix(finding):
        return Outcome(check, "unresolved", finding, reason)
    deadline = time.monotonic() + REPAIR_TIMEOUT
    while True:
        system = system.refresh()
        remaining = _find(check, system)
        if remaining is None:
            return Outcome(check, "fixed", finding)
        if time.monotonic() >= deadline:
            if remaining.level == "unknown":
                return Outcome(check, "unresolved", finding, remaining.evidence)
            return Outcome(check, "unresolved", remaining, "it is still there")
        time.sleep(INTERVAL)


def _fix(finding: Finding) -> str:
    """Makes the repair. Returns why it failed, or nothing."""
    assert finding.fix
    try:
        finding.fix()
    except Exception as error:  # the repairs made so far must be reported all the same
        return explained(error)[0]
    return ""
