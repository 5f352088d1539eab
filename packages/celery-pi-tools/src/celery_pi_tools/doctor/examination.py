"""Managed by celery-pi. How all problems are looked for, and repaired, one after the other."""

from __future__ import annotations

import time

from celery_pi_checks import resp
from celery_pi_checks.registry import CannotLook, within
from celery_pi_privileges import Refused

from celery_pi_doctor.look import Look
from celery_pi_doctor.registry import PROBLEMS, Found, Outcome, Problem

BETWEEN = 0.5  # seconds between two looks
MENDED = 30  # seconds after which a repair must show
LONGEST = 240  # seconds for one look; to load the app may take 150
UNSEEN = 5  # seconds for which a machine that is busy may keep a look from being made
NOTHING = Found("", "", "")


def examine(look: Look, fix: bool) -> list[Outcome]:
    """What is the matter; with `fix`, what is safe to repair is repaired and looked for again."""
    outcomes: list[Outcome] = []
    standing: set[str] = set()
    for each in PROBLEMS:
        if each.alone and outcomes:
            continue
        outcome = _outcome(each, look, fix, standing)
        if outcome is None:
            continue
        outcomes.append(outcome)
        look = look.again(*(outcome.found.files if outcome.state != "fixed" else ()))
        if outcome.state != "fixed":
            standing |= {each.section, each.name}
    return outcomes


def _outcome(each: Problem, look: Look, fix: bool, standing: set[str]) -> Outcome | None:
    if causes := [need for need in each.needs if need in standing]:
        return Outcome(each, "behind", NOTHING, causes[0])
    found, unknown = looked_for(each, look)
    if unknown:
        return Outcome(each, "unknown", NOTHING, unknown)
    if found is None:
        return None
    if not found.fix:
        return Outcome(each, "explained", found)
    return mended(each, found, look) if fix else Outcome(each, "fixable", found)


def looked_for(each: Problem, look: Look) -> tuple[Found | None, str]:
    """What is found once it can no longer pass by itself; or why it cannot be looked for."""
    begun = time.monotonic()
    while True:
        found, unknown = judged(each, look)
        passing = UNSEEN if unknown else found.passing if found else 0
        if time.monotonic() - begun >= passing:
            return found, unknown
        time.sleep(BETWEEN)
        look = look.again()


def judged(each: Problem, look: Look) -> tuple[Found | None, str]:
    """The same of one look."""
    try:
        with within(LONGEST):
            return each.find(look), ""
    except (CannotLook, Refused, resp.Refused) as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.strerror or type(error).__name__} {error.filename or ''}".strip()
    except Exception as error:  # one that is broken must not hide what the others find
        # Without its text, in which may stand what was read.
        return None, f"{type(error).__name__}: a fault of celery-pi"


def mended(each: Problem, found: Found, look: Look) -> Outcome:
    """What is left of it once its repair has been made."""
    if said := tried(found):
        return Outcome(each, "left", found, said)
    deadline = time.monotonic() + MENDED
    while True:
        look = look.again()
        left, unknown = judged(each, look)
        if left is None and not unknown:
            return Outcome(each, "fixed", found)
        if time.monotonic() >= deadline:
            return Outcome(each, "left", left or found, unknown or "it is still there")
        time.sleep(BETWEEN)


def tried(found: Found) -> str:
    """Make the repair; why it could not be made."""
    assert found.fix
    try:
        found.fix()
    except (CannotLook, Refused, resp.Refused) as error:
        return str(error)
    except OSError as error:
        return error.strerror or type(error).__name__
    except Exception as error:  # what has been done so far must be told all the same
        return f"{type(error).__name__}: a fault of celery-pi"
    return ""
