"""Whether the worker would run the app as it is on the disk.

`python -m celery_redis_guard.check_app`, in the worker's environment. Exit status 0, or 1 with
one sentence for each reason. No traceback, because one of the app's may show its settings.
"""

import errno
import os
import sys
import traceback
from pathlib import Path

from celery_redis_guard import memory_limit


def main() -> None:
    try:
        from celery_redis_guard.app import app, mode, site_lines, site_timeouts, validate

        if not mode.current().guarded:
            print(f"celery-pi: {mode.current().sentence}", file=sys.stderr)
        app.loader.import_default_modules()
        app.finalize()
        validate()
        tell_memory_limit()
        if missing := site_lines():
            advice = f"{site_timeouts.HANGS}: add to the settings of the app"
            print(*(f"celery-pi: {line}" for line in (advice, *missing)), sep="\n", file=sys.stderr)
    except Exception as error:  # the app's own code may raise any
        reason = f"{type(error).__name__}{app_location(error)}{denied_path(error)}"
        sys.exit(f"celery-pi: the app cannot be loaded: {reason}")


def tell_memory_limit() -> None:
    """Say so if the app is larger than a process of the pool may be."""
    limit = os.environ.get("CELERY_PI_MEMORY_PER_CHILD")
    if limit and (told := memory_limit.sentence(int(limit), memory_limit.app_size())):
        print(f"celery-pi: {told}", file=sys.stderr)


def app_location(error: BaseException) -> str:
    """File and line of the app's own code that ran last, or nothing."""
    here = Path.cwd()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(here) and "site-packages" not in path.parts:
            return f" in {path.relative_to(here)}, line {frame.lineno}"
    return ""


def denied_path(error: BaseException | None) -> str:
    """The path that the app may not write, if that is the reason, or nothing."""
    while error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return f": it may not use {error.filename}; is its directory in app_writable?"
        error = error.__cause__ or error.__context__
    return ""


if __name__ == "__main__":
    main()
