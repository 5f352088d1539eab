"""What the doctor tells an owner to add is what the guard offers."""

from __future__ import annotations

from celery_pi_tools.checks.app import HANGS, SITE_LINES
from celery_redis_guard import site_timeouts


def test_lines_of_the_doctor_are_those_of_the_guard() -> None:
    unset = dict.fromkeys(site_timeouts.SETTINGS)
    lines = site_timeouts.lines(list(unset), unset, "CELERY_")
    assert "; ".join(lines) == SITE_LINES
    assert HANGS == site_timeouts.HANGS
