"""The library of the services, `files/usr/local/lib/celery-pi`, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from celery_pi.render import ROOT

LIBRARY = ROOT / "files/usr/local/lib/celery-pi"


def last_words(code: str) -> str:
    """What Python code that imports the services' library says when it ends with status 1; one
    sentence of ours."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("celery-pi: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
