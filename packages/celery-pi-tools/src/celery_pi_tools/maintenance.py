"""Managed by celery-pi. Maintenance mode: the site shows a page, and no task is begun.

    celery-pi maintenance                        prints whether it is on
    celery-pi maintenance on [--message TEXT]    finishes the running tasks, takes no other
    celery-pi maintenance off

Exit status: 0 done, 1 the worker has not followed, 2 it could not be done.
"""

from __future__ import annotations

import html
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable

from celery_pi_tools.commands import CannotRead
from celery_pi_tools.config import MAINTENANCE_PAGE, Settings
from celery_pi_tools.privileges import replace
from celery_pi_tools.system import System
from celery_pi_tools.worker_control import ask_workers

PAGE = MAINTENANCE_PAGE
UNIT = "celery-worker.service"
START = 330  # seconds that a start may take, and a stop beyond a task's time limit
RESUME = 60  # seconds within which the worker takes tasks again
MESSAGE = "The site is being worked on, and will be back soon."
TEXT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Maintenance</title>
<style>body {{ font: 1.2em sans-serif; max-width: 30em; margin: 20vh auto; padding: 0 1em }}</style>
</head>
<body><p>{}</p></body>
</html>
"""


def main(settings: Settings, state: str | None, message: str | None) -> int:
    try:
        if state == "on":
            return on(settings, message or MESSAGE)
        if state == "off":
            return off(settings)
    except KeyboardInterrupt:
        print("\ncelery-pi: it goes on; no longer waited for", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"celery-pi: {error}", file=sys.stderr)
        return 2
    print("on" if PAGE.exists() else "off")
    return 0


def on(settings: Settings, message: str) -> int:
    """Shows the page, and restarts the worker unless it takes no task already."""
    write(message)
    if not is_stopped() and consumes(settings) is not False:
        systemctl("try-restart", "--no-block")
        print("The page is shown; the running tasks are waited for", flush=True)
    patience = settings["celery_time_limit"] + START
    if wait_for(lambda: is_stopped() or consumes(settings) is False, patience):
        print("Maintenance is on: no task is taken, those that are sent wait")
        return 0
    print(f"celery-pi: the worker is not back; see: journalctl -u {UNIT} -n 50", file=sys.stderr)
    return 1


def off(settings: Settings) -> int:
    """Removes the page; the worker notices that by itself."""
    PAGE.unlink(missing_ok=True)
    if wait_for(lambda: is_stopped() or consumes(settings), RESUME):
        end = f", and {UNIT} is not running" if is_stopped() else ": tasks are taken again"
        print(f"Maintenance is off{end}")
        return 0
    print(f"celery-pi: the worker takes no task; see: journalctl -u {UNIT} -n 50", file=sys.stderr)
    return 1


def write(message: str) -> None:
    """Writes the page atomically, for nginx to read. Its time stays that of the first one, since
    when maintenance is on."""
    PAGE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    PAGE.parent.chmod(0o755)
    since = PAGE.stat().st_mtime if PAGE.exists() else 0
    replace(str(PAGE), TEXT.format(html.escape(message)).encode(), user="root", mode=0o644)
    if since:
        os.utime(PAGE, (since, since))


def consumes(settings: Settings) -> bool | None:
    """Whether the worker takes tasks; None while it does not answer."""
    try:
        answers, _ = ask_workers(System(settings), ("active_queues",))
    except (CannotRead, KeyError, TypeError):  # the answer may be of any form
        return None
    here = f"@{platform.node()}"
    own = [queues for name, queues in answers["active_queues"].items() if name.endswith(here)]
    return any(own) if own else None


def is_stopped() -> bool:
    process = subprocess.run(
        ["systemctl", "show", "-p", "ActiveState", "--value", UNIT],
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.strip() in ("inactive", "failed")


def systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words, UNIT], check=True)


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition comes true in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True
