"""Managed by celery-pi. What a problem is, and how all of them are looked for and repaired.

    @problem("Redis", "Redis is down", needs=("Disk",))
    def redis_is_down(look: Look) -> Found | None:
        return Found("it is failed", "no task is accepted", "start it", fix=start)

A `need` is the name or the section of a problem that would bring this one about: while that one
stands, this one is not looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from celery_pi_checks.registry import CannotLook
from celery_pi_checks.resp import Refused

from celery_pi_doctor.act import Failed

if TYPE_CHECKING:
    from celery_pi_doctor.look import Look

BETWEEN = 0.5  # seconds between two looks
MENDED = 30  # seconds after which a repair must show


class Found(NamedTuple):
    """A problem that is there.

    `will` says what `fix` does; without one, what a person is to do. `passing` are the seconds
    within which it may go away by itself, as a service does that is being started.
    """

    saw: str
    why: str
    will: str
    fix: Callable[[], object] | None = None
    passing: float = 0


Find = Callable[["Look"], "Found | None"]


class Problem(NamedTuple):
    """What is looked for; `alone` only while nothing else was found, which may have caused it."""

    section: str
    name: str
    find: Find
    needs: tuple[str, ...]
    alone: bool = False


class Outcome(NamedTuple):
    """What came of a problem.

    `state` is fixable, explained, fixed or left, which a repair did not help; or unknown, when it
    could not be looked for; or behind, when a cause of it stands. `said` is what a failed repair
    said.
    """

    problem: Problem
    state: str
    found: Found
    said: str = ""


PROBLEMS: list[Problem] = []
NOTHING = Found("", "", "")


def problem(
    section: str, name: str, needs: tuple[str, ...] = (), alone: bool = False
) -> Callable[[Find], Find]:
    """Have the function look for the problem of that name."""

    def register(find: Find) -> Find:
        PROBLEMS.append(Problem(section, name, find, needs, alone))
        return find

    return register


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
        look = look.again()
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
        if unknown or found is None or time.monotonic() - begun >= found.passing:
            return found, unknown
        time.sleep(BETWEEN)
        look = look.again()


def judged(each: Problem, look: Look) -> tuple[Found | None, str]:
    """The same of one look."""
    try:
        return each.find(look), ""
    except (CannotLook, Failed) as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.strerror or type(error).__name__} {error.filename or ''}".strip()
    except Exception as error:  # one that is broken must not hide what the others find
        # Without its text, in which may stand what was read.
        return None, f"{type(error).__name__}: a fault of celery-pi"


def mended(each: Problem, found: Found, look: Look) -> Outcome:
    """What is left of it once its repair has been made."""
    assert found.fix
    try:
        found.fix()
    except (CannotLook, Failed, Refused) as error:
        return Outcome(each, "left", found, str(error))
    except OSError as error:
        return Outcome(each, "left", found, error.strerror or type(error).__name__)
    deadline = time.monotonic() + MENDED
    while True:
        look = look.again()
        left, unknown = judged(each, look)
        if left is None and not unknown:
            return Outcome(each, "fixed", found)
        if time.monotonic() >= deadline:
            return Outcome(each, "left", left or found, unknown or "it is still there")
        time.sleep(BETWEEN)
