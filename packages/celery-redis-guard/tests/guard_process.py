"""The package in a process of its own, as a service loads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"


def last_words(code: str) -> str:
    """The one sentence with which Python code that imports the package ends, with status 1."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("celery-pi: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
