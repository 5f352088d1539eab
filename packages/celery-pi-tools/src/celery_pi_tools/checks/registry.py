"""Managed by celery-pi. What a check is, and how all of them are run.

    @check("Redis", "Memory")
    def memory(system: System) -> Result:
        return ok("1.2 MiB of 256.0 MiB", used=1258291, limit=268435456)

A check that does not apply to this machine returns None. No check ends the run: one that fails
is `wrong`, with the reason.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_pi_tools.commands import CannotRead
from celery_pi_tools.privileges import Refused

if TYPE_CHECKING:
    from celery_pi_tools.system import System

TIMEOUT = 120  # seconds for a check; apt may take 60


class Result(NamedTuple):
    """`state` is ok, warn or wrong; `values` are the evidence for programs, in base units."""

    state: str
    evidence: str
    remedy: str
    values: dict[str, Any]


class Row(NamedTuple):
    """A result, with the check's section and name."""

    section: str
    name: str
    result: Result


Function = Callable[["System"], "Result | None"]
CHECKS: list[tuple[str, str, Function]] = []


def check(section: str, name: str) -> Callable[[Function], Function]:
    """Registers the function as the check of that name."""

    def register(function: Function) -> Function:
        CHECKS.append((section, name, function))
        return function

    return register


def ok(evidence: str, **values: Any) -> Result:
    return Result("ok", evidence, "", values)


def warn(evidence: str, remedy: str, **values: Any) -> Result:
    """Something that will go wrong, or did. The exit status stays 0."""
    return Result("warn", evidence, remedy, values)


def wrong(evidence: str, remedy: str, **values: Any) -> Result:
    return Result("wrong", evidence, remedy, values)


def rows(system: System) -> Iterator[Row]:
    """Every check's result, in the order in which they were registered."""
    for section, name, function in CHECKS:
        result = judged(function, system)
        if result is not None:
            yield Row(section, name, result)


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


def judged(function: Function, system: System) -> Result | None:
    """The check's result, or `wrong` with the reason why it failed."""
    try:
        with within(TIMEOUT):
            return function(system)
    except CannotRead as error:
        return wrong(f"cannot be read: {error}", error.remedy)
    except Refused as error:
        return wrong(f"cannot be read: {error}", "see who has put that there; deploy again")
    except OSError as error:
        reason = f"{error.strerror or type(error).__name__} {error.filename or ''}".strip()
        return wrong(f"cannot be read: {reason}", "deploy again")
    except Exception as error:  # one that is broken must not hide what the others found
        # Without its text, in which may stand what was read.
        evidence = f"cannot be read: {type(error).__name__}"
        return wrong(evidence, "deploy again; if it stays, it is a fault of celery-pi")
