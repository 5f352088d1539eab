"""Managed by celery-pi. What a check is, and how one is run.

    @check("Redis", "Memory", "status")
    def memory(system: System) -> Finding:
        return ok("1.2 MiB of 256.0 MiB", used=1258291, limit=268435456)

    @check("Redis", "Redis is down", "doctor", after=("Disk",))
    def down(system: System) -> Finding | None:
        return problem("it is failed", "no task is accepted", "start it", fix=start)

`status`, `audit` and `doctor` are views of the one list. The first two show every finding; the
doctor shows those that have an impact. Two decorators give one function a name in each view. A
check that does not apply to this machine returns None. No check ends the run: one that fails is
`unknown`, with the reason.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from celery_pi_tools import redis_client
from celery_pi_tools.commands import CannotRead
from celery_pi_tools.privileges import Refused

if TYPE_CHECKING:
    from celery_pi_tools.system import System

TIMEOUT = 240  # seconds for a check; to load the app may take 150
# Sections of the views that show all, in their order; one that is not named comes last.
SECTIONS = (
    *("Network", "Secrets", "Redis", "Tasks", "Units", "Escalation", "Machine", "Updates"),
    *("Backups", "Web"),
)


class Finding(NamedTuple):
    """What a check has found.

    `level` is ok, warn, wrong or unknown. `remedy` is what `fix` does or, without a `fix`, what a
    person is to do. The doctor reports a finding only if it lasts for `grace` seconds, as a service
    that is being started does not. Changes of the `files` that it concerns are not reported as
    drift. `values` are the evidence for programs, in base units.
    """

    level: str
    evidence: str
    impact: str = ""
    remedy: str = ""
    fix: Callable[[], object] | None = None
    grace: float = 0
    files: tuple[str, ...] = ()
    values: Mapping[str, Any] = MappingProxyType({})


View = Literal["status", "audit", "doctor"]
Function = Callable[["System"], "Finding | None"]


class Check(NamedTuple):
    """A check of some views.

    `after` are names or sections of checks whose problems would cause this one: while one of them
    stands, the doctor does not look for this one. One that is `only_if_healthy` it looks for only
    while no other problem was found, which may have caused it.
    """

    section: str
    name: str
    function: Function
    views: tuple[View, ...]
    after: tuple[str, ...] = ()
    only_if_healthy: bool = False


class Row(NamedTuple):
    """A finding, with the check's section and name."""

    section: str
    name: str
    finding: Finding


VIEWS: tuple[View, ...] = get_args(View)
CHECKS: list[Check] = []


def check(
    section: str,
    name: str,
    view: View,
    *views: View,
    after: tuple[str, ...] = (),
    only_if_healthy: bool = False,
) -> Callable[[Function], Function]:
    """Registers the function as the check of that name in these views."""

    def register(function: Function) -> Function:
        CHECKS.append(Check(section, name, function, (view, *views), after, only_if_healthy))
        return function

    return register


def ok(evidence: str, **values: Any) -> Finding:
    return Finding("ok", evidence, values=values)


def warn(evidence: str, remedy: str, **values: Any) -> Finding:
    """Something that will go wrong, or did. The exit status stays 0."""
    return Finding("warn", evidence, remedy=remedy, values=values)


def wrong(evidence: str, remedy: str, **values: Any) -> Finding:
    return Finding("wrong", evidence, remedy=remedy, values=values)


def problem(
    evidence: str,
    impact: str,
    remedy: str,
    fix: Callable[[], object] | None = None,
    grace: float = 0,
    files: tuple[str, ...] = (),
    level: str = "wrong",
    **values: Any,
) -> Finding:
    """Something that the doctor reports, because it has that impact."""
    return Finding(level, evidence, impact, remedy, fix, grace, files, values)


def of_view(view: View) -> list[Check]:
    """The checks of a view: the doctor's in the order of causes, the others' by section."""
    checks = [each for each in CHECKS if view in each.views]
    return checks if view == "doctor" else sorted(checks, key=lambda each: _place(each.section))


def _place(section: str) -> int:
    return SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)


def rows(system: System, view: View) -> Iterator[Row]:
    """Every finding of a view that shows all."""
    for each in of_view(view):
        finding = judged(each.function, system)
        if finding is not None:
            yield Row(each.section, each.name, finding)


def judged(function: Function, system: System) -> Finding | None:
    """The check's finding; what could not be read counts as wrong."""
    finding = run_check(function, system)
    if finding is None or finding.level != "unknown":
        return finding
    return finding._replace(level="wrong", evidence=f"cannot be read: {finding.evidence}")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the body after so many seconds, whatever it waits for (SIGALRM)."""

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(errno.ETIMEDOUT, f"does not end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_check(function: Function, system: System) -> Finding | None:
    """The check's finding; one that is `unknown`, with the reason, if it failed."""
    try:
        with within(TIMEOUT):
            return function(system)
    except Exception as error:  # one that is broken must not hide what the others find
        reason, remedy = explained(error)
        return Finding("unknown", reason, remedy=remedy)


def explained(error: Exception) -> tuple[str, str]:
    """The reason why a check or a repair failed, without what it has read; and what to do."""
    match error:
        case CannotRead():
            return str(error), error.remedy
        case Refused():
            return str(error), "see who has put that there; deploy again"
        case redis_client.Refused():
            return str(error), "deploy again"
        case OSError():
            reason = error.strerror or type(error).__name__
            return f"{reason} {error.filename or ''}".strip(), "deploy again"
    return f"{type(error).__name__}: a fault of celery-pi", "deploy again"
