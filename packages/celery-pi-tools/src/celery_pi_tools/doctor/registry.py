"""Managed by celery-pi. What a problem is.

    @problem("Redis", "Redis is down", needs=("Disk",))
    def redis_is_down(look: Look) -> Found | None:
        return Found("it is failed", "no task is accepted", "start it", fix=start)

A `need` is the name or the section of a problem that would bring this one about: while that one
stands, this one is not looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from celery_pi_doctor.look import Look


class Found(NamedTuple):
    """A problem that is there.

    `will` says what `fix` does; without one, what a person is to do. `passing` are the seconds
    within which it may go away by itself, as a service does that is being started. `files` are
    those that it concerns: that they were changed is no other problem.
    """

    saw: str
    why: str
    will: str
    fix: Callable[[], object] | None = None
    passing: float = 0
    files: tuple[str, ...] = ()


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


def problem(
    section: str, name: str, needs: tuple[str, ...] = (), alone: bool = False
) -> Callable[[Find], Find]:
    """Have the function look for the problem of that name."""

    def register(find: Find) -> Find:
        PROBLEMS.append(Problem(section, name, find, needs, alone))
        return find

    return register
