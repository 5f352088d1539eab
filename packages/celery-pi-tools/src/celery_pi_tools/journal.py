"""Managed by celery-pi. Lines of a unit's journal, within a time and a size."""

from __future__ import annotations

from io import BytesIO

from celery_pi_tools.privileges import Failed, Refused, attempt

JOURNALCTL = "/usr/bin/journalctl"
TIMEOUT = 10  # seconds
LARGEST = 4 * 2**20  # bytes; a service may write as much as it likes


def matching(unit: str, since: str, pattern: str, until: str = "now") -> list[str]:
    """Lines of the unit that match the pattern, the newest first. The times are journalctl's.

    What exceeds TIMEOUT or LARGEST is left out: the newest lines count. Raises Failed.
    """
    times = ("--since", since, "--until", until)
    command = (JOURNALCTL, "-q", "-r", "-o", "cat", "-u", unit, *times, "-g", pattern)
    output = BytesIO()
    try:
        done = attempt("root", command, sink=output, timeout=TIMEOUT, limit=LARGEST)
    except Refused:
        return _lines(output.getvalue())
    if done.err:  # the exit status does not distinguish an error from no match
        raise Failed(_lines(done.err)[-1])
    return _lines(output.getvalue())


def _lines(text: bytes) -> list[str]:
    return text.decode(errors="replace").splitlines()
