"""Where a process of its own finds the package."""

from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"

GUARDED = {"CELERY_PI_WORKER_GUARD": "on"}  # whatever set of versions the suite runs with
