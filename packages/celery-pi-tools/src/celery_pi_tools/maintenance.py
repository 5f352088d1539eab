#!/usr/bin/python3
"""Managed by celery-pi. The site shows a page, and no task is begun, until it is switched off.

    celery-pi maintenance                        tell whether it is on
    celery-pi maintenance on [--message TEXT]    finish the running tasks, take no other
    celery-pi maintenance off

Exit status: 0 it is as it was asked for, 1 not all of it, 2 it could not be done.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from celery_pi_checks.control import tell
from celery_pi_checks.look import Look
from celery_pi_checks.registry import CannotLook

SETTINGS = Path("/etc/celery-pi/settings.json")
PAGE = Path("/var/lib/celery-pi/maintenance/page.html")
UNIT = "celery-worker.service"
START = 330  # seconds: what its start may take, and what its stop may beyond a task's limit
BACK = 60  # seconds in which the worker begins again
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="celery-pi maintenance")
    parser.add_argument("state", nargs="?", choices=("on", "off"))
    parser.add_argument("--message", default=MESSAGE, help="what the page says")
    arguments = parser.parse_args()
    try:
        settings = json.loads(SETTINGS.read_text())
        if arguments.state == "on":
            return on(settings, arguments.message)
        if arguments.state == "off":
            return off(settings)
    except KeyboardInterrupt:
        print("\ncelery-pi: it goes on; no longer waited for", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"celery-pi: {error}", file=sys.stderr)
        return 2
    print("on" if PAGE.exists() else "off")
    return 0


def on(settings: dict[str, object], message: str) -> int:
    """Show the page, and start the worker again, unless it has been since."""
    write(message)
    if not is_stopped() and consumes(settings) is not False:
        systemctl("try-restart", "--no-block")
        print("The page is shown; the running tasks are waited for", flush=True)
    patience = int(str(settings["celery_time_limit"])) + START
    if wait_for(lambda: is_stopped() or consumes(settings) is False, patience):
        print("Maintenance is on: no task is taken, those that are sent wait")
        return 0
    print(f"celery-pi: the worker is not back; see: journalctl -u {UNIT} -n 50", file=sys.stderr)
    return 1


def off(settings: dict[str, object]) -> int:
    """Take the page away; the worker sees it by itself."""
    PAGE.unlink(missing_ok=True)
    if wait_for(lambda: is_stopped() or consumes(settings), BACK):
        told = f", and {UNIT} is not running" if is_stopped() else ": tasks are taken again"
        print(f"Maintenance is off{told}")
        return 0
    print(f"celery-pi: the worker takes no task; see: journalctl -u {UNIT} -n 50", file=sys.stderr)
    return 1


def write(message: str) -> None:
    """The page, whole or not at all, for nginx to read; since when it is on is told by its time."""
    PAGE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    PAGE.parent.chmod(0o755)
    new = PAGE.with_name("page.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(TEXT.format(html.escape(message)))
        file.flush()
        os.fsync(file.fileno())
    new.chmod(0o644)
    if PAGE.exists():
        os.utime(new, (PAGE.stat().st_mtime, PAGE.stat().st_mtime))
    new.replace(PAGE)


def consumes(settings: dict[str, object]) -> bool | None:
    """Whether the worker takes tasks; None while it does not say."""
    try:
        told, _ = tell(Look(settings), ("active_queues",))
    except (CannotLook, KeyError, TypeError):  # it may say what it likes
        return None
    here = f"@{platform.node()}"
    own = [queues for name, queues in told["active_queues"].items() if name.endswith(here)]
    return any(own) if own else None


def is_stopped() -> bool:
    shown = subprocess.run(
        ["systemctl", "show", "-p", "ActiveState", "--value", UNIT],
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.strip() in ("inactive", "failed")


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


if __name__ == "__main__":
    sys.exit(main())
