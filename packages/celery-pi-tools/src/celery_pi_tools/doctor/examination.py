"""Managed by celery-pi. How all problems are looked for and repaired, one after the other."""

from __future__ import annotations

import time

from celery_pi_tools import redis_client
from celery_pi_tools.checks.registry import within
from celery_pi_tools.commands import CannotRead
from celery_pi_tools.doctor.registry import PROBLEMS, Found, Outcome, Problem
from celery_pi_tools.privileges import Refused
from celery_pi_tools.system import System

INTERVAL = 0.5  # seconds between two readings
REPAIR_TIMEOUT = 30  # seconds within which a repair must take effect
TIMEOUT = 240  # seconds for one reading; to load the app may take 150
UNKNOWN_GRACE = 5  # seconds for which a busy machine may be unreadable
NOTHING = Found("", "", "")


def examine(system: System, fix: bool) -> list[Outcome]:
    """Looks for every problem. With `fix` it also makes the repairs, and verifies each."""
    outcomes: list[Outcome] = []
    standing: set[str] = set()
    for problem in PROBLEMS:
        if problem.only_if_healthy and outcomes:
            continue
        outcome = _examine(problem, system, fix, standing)
        if outcome is None:
            continue
        outcomes.append(outcome)
        system = system.refresh(*(outcome.found.files if outcome.state != "fixed" else ()))
        if outcome.state != "fixed":
            standing |= {problem.section, problem.name}
    return outcomes


def _examine(problem: Problem, system: System, fix: bool, standing: set[str]) -> Outcome | None:
    if causes := [need for need in problem.needs if need in standing]:
        return Outcome(problem, "suppressed", NOTHING, causes[0])
    found, unknown = _find_lasting(problem, system)
    if unknown:
        return Outcome(problem, "unknown", NOTHING, unknown)
    if found is None:
        return None
    if not found.fix:
        return Outcome(problem, "manual", found)
    return _repair(problem, found, system) if fix else Outcome(problem, "fixable", found)


def _find_lasting(problem: Problem, system: System) -> tuple[Found | None, str]:
    """The problem, if it lasts for longer than its grace period; or why it cannot be looked for."""
    begun = time.monotonic()
    while True:
        found, unknown = _find(problem, system)
        grace = UNKNOWN_GRACE if unknown else found.grace if found else 0
        if time.monotonic() - begun >= grace:
            return found, unknown
        time.sleep(INTERVAL)
        system = system.refresh()


def _find(problem: Problem, system: System) -> tuple[Found | None, str]:
    """The same for one reading."""
    try:
        with within(TIMEOUT):
            return problem.find(system), ""
    except (CannotRead, Refused, redis_client.Refused) as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.strerror or type(error).__name__} {error.filename or ''}".strip()
    except Exception as error:  # a broken check must not hide what the others find
        # Without its message, which may contain what was read.
        return None, f"{type(error).__name__}: a fault of celery-pi"


def _repair(problem: Problem, found: Found, system: System) -> Outcome:
    """Makes the repair, and verifies it."""
    if reason := _fix(found):
        return Outcome(problem, "unresolved", found, reason)
    deadline = time.monotonic() + REPAIR_TIMEOUT
    while True:
        system = system.refresh()
        remaining, unknown = _find(problem, system)
        if remaining is None and not unknown:
            return Outcome(problem, "fixed", found)
        if time.monotonic() >= deadline:
            reason = unknown or "it is still there"
            return Outcome(problem, "unresolved", remaining or found, reason)
        time.sleep(INTERVAL)


def _fix(found: Found) -> str:
    """Makes the repair. Returns why it failed, or nothing."""
    assert found.fix
    try:
        found.fix()
    except (CannotRead, Refused, redis_client.Refused) as error:
        return str(error)
    except OSError as error:
        return error.strerror or type(error).__name__
    except Exception as error:  # the repairs made so far must be reported all the same
        return f"{type(error).__name__}: a fault of celery-pi"
    return ""
