"""Managed by celery-pi. Runs the checks of a command and prints what they found."""

from __future__ import annotations

import os
import sys
from typing import Any

from celery_pi_tools import checks
from celery_pi_tools.checks.registry import View, rows
from celery_pi_tools.system import System
from celery_pi_tools.table import as_json, as_table


def main(command: View, settings: dict[str, Any], for_programs: bool) -> int:
    """Exit status: 0 all is well, 1 something is wrong."""
    checks.load()
    findings = list(rows(System(settings), command))
    show(as_json(command, findings) if for_programs else as_table(findings))
    return 1 if any(row.finding.level == "wrong" for row in findings) else 0


def show(text: str) -> None:
    """Prints the text; a reader may close the pipe, as in `celery-pi status | head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
