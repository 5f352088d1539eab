"""Managed by celery-pi. What a problem is.

    @problem("Redis", "Redis is down", needs=("Disk",))
    def redis_is_down(system: System) -> Found | None:
        return Found("it is failed", "no task is accepted", "start it", fix=start)

A `need` is the name or the section of a problem that would cause this one: while that one stands,
this one is not looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from celery_pi_tools.system import System


class Found(NamedTuple):
    """A problem that exists.

    `action` is what `fix` does or, without a `fix`, what a person is to do. A problem is reported
    only if it lasts for `grace` seconds, as a service that is being started does not. Changes of
    the `files` that it concerns are not reported as drift.
    """

    symptom: str
    impact: str
    action: str
    fix: Callable[[], object] | None = None
    grace: float = 0
    files: tuple[str, ...] = ()


Find = Callable[["System"], "Found | None"]


class Problem(NamedTuple):
    """A known problem. One that is `only_if_healthy` is looked for only while no other was found,
    which may have caused it."""

    section: str
    name: str
    find: Find
    needs: tuple[str, ...]
    only_if_healthy: bool = False


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

    problem: Problem
    state: str
    found: Found
    reason: str = ""


PROBLEMS: list[Problem] = []


def problem(
    section: str, name: str, needs: tuple[str, ...] = (), only_if_healthy: bool = False
) -> Callable[[Find], Find]:
    """Registers the function that looks for the problem of that name."""

    def register(find: Find) -> Find:
        PROBLEMS.append(Problem(section, name, find, needs, only_if_healthy))
        return find

    return register
