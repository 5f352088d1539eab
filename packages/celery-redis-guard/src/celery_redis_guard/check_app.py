"""Managed by celery-pi. Say whether the worker would run the app as it lies on the disk.

Only sentences of our own: a traceback of the app may show its settings.
"""

import errno
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


def forbidden(error):
    """What the app may not write, if that is the reason."""
    while error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return f": it may not use {error.filename}; is its directory in app_writable?"
        error = error.__cause__ or error.__context__
    return ""


try:
    from celery_redis_guard.app import app, refuse

    app.loader.import_default_modules()
    app.finalize()
except Exception as error:
    reason = f"{type(error).__name__}{place(error)}{forbidden(error)}"
    sys.exit(f"celery-pi: the app cannot be loaded: {reason}")
refuse()
