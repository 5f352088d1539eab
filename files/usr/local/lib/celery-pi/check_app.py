"""Managed by celery-pi. Say whether the worker would run the app as it lies on the disk.

Only sentences of our own: a traceback of the app may show its settings.
"""

import sys
import traceback
from pathlib import Path


def place(error):
    """The last line of the app's own that was run."""
    here = Path.cwd()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(here) and "site-packages" not in path.parts:
            return f" in {path.relative_to(here)}, line {frame.lineno}"
    return ""


try:
    from celery_pi_app import app, refuse

    app.loader.import_default_modules()
    app.finalize()
except Exception as error:
    sys.exit(f"celery-pi: the app cannot be loaded: {type(error).__name__}{place(error)}")
refuse()
