"""Managed by celery-pi. The command `celery-pi check`: whether the worker would run the app."""

from __future__ import annotations

import sys

from celery_pi_tools import worker_sandbox
from celery_pi_tools.config import Settings

MODULE = "celery_redis_guard.check_app"


def main(settings: Settings, candidate: str | None = None) -> int:
    """Prints why the worker would not run the app as it lies on the disk; 1 in that case.

    With a candidate, as it would run with that directory's `.env`, unit and `sandbox`.
    """
    run = worker_sandbox.run_module(settings, MODULE, candidate=candidate)
    if run is None:
        lines = [f"celery-pi: the app did not load within {worker_sandbox.TIMEOUT} s"]
    else:
        lines = worker_sandbox.messages(run)
        if run.status and not lines:
            reason = f"the app cannot be started in the worker's sandbox (status {run.status})"
            lines = [f"celery-pi: {reason}"]
    for line in lines:
        print(line, file=sys.stderr)
    return 0 if run and run.status == 0 else 1
