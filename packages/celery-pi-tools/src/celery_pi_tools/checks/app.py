"""Managed by celery-pi. The app's code: whether the worker could run it, and whether it does."""

from __future__ import annotations

import os
import re
from pathlib import Path

from celery_pi_tools.checks.disk import writable
from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.checks.repairs import all_of
from celery_pi_tools.commands import execute
from celery_pi_tools.privileges import Failed, attempt
from celery_pi_tools.system import System
from celery_pi_tools.table import age

COMMAND = "/usr/local/bin/celery-pi"
SERVICES = ("celery-worker", "celery-beat")
NO_CODE = {"venv", ".venv", "node_modules", "__pycache__", "static", "staticfiles"}
FIND = "/usr/bin/find"
WALK = 30  # seconds
LISTED = 8 * 2**20  # bytes of names of Python files
PATIENCE = 150  # seconds; `celery-pi check` itself gives up after 120
# As the guard's `site_timeouts` has them, with namespace="CELERY".
HANGS = "sends of the site hang while Redis does not answer"
SITE_LINES = (
    "CELERY_BROKER_TRANSPORT_OPTIONS = {'socket_timeout': 1.0, 'socket_connect_timeout': 1.0}; "
    "CELERY_REDIS_SOCKET_TIMEOUT = 1.0; CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 1.0; "
    "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {'retry_policy': {'timeout': 1.0, "
    "'interval_start': 0.1, 'interval_step': 0.1, 'interval_max': 0.2}}; "
    "CELERY_TASK_PUBLISH_RETRY_POLICY = {'max_retries': 1, 'interval_start': 0.5, "
    "'interval_step': 0.1, 'interval_max': 0.5}"
)
ABOVE = ("Redis", "The app's .env leads elsewhere", "Permissions")


def changed(system: System) -> tuple[float, Path]:
    """Time of the app's newest Python file, and its path. A copy may keep its mtime, so it is the
    ctime, at which it came to this disk."""
    lines = [line.split(" ", 1) for line in code(system)]
    newest = max(((float(when), path) for when, path in lines), default=None)
    return (newest[0], Path(newest[1])) if newest else (0, Path(system.settings["app_dir"]))


def code(system: System) -> list[str]:
    """Time and path of each Python file, as the app's user finds them: what he cannot reach, the
    worker does not run."""
    app = system.settings["app_dir"]
    names = [word for name in (*sorted(NO_CODE), ".?*") for word in ("-o", "-name", name)]
    no_code = (f"{app}/{system.settings['app_venv_dir']}", *writable(system))
    data = [word for path in no_code for word in ("-o", "-path", literal(path))]
    pruned = (f"{app}/", "-mindepth", "1", "-type", "d", "(", *[*names, *data][1:], ")", "-prune")
    listed = ("-o", "-name", "*.py", "-printf", "%C@ %p\\0")
    done = attempt(
        system.settings["app_user"], (FIND, *pruned, *listed), timeout=WALK, limit=LISTED
    )
    return list(filter(None, os.fsdecode(done.out).split("\0")))


def literal(path: str) -> str:
    """A pattern of find(1) that matches only that path, without a trailing slash."""
    return re.sub(r"([*?\[\\])", r"\\\1", path.rstrip("/"))


def outdated_services(system: System) -> list[str]:
    """Services that were started before the newest code came to the disk."""
    newest = changed(system)[0]
    return [unit for unit in SERVICES if system.up(unit) and system.since(unit) < newest]


def complaints() -> list[str]:
    """The reasons of `celery-pi check` against the app as it lies on the disk."""
    done = attempt("root", (COMMAND, "check"), timeout=PATIENCE)
    lines = done.err.decode(errors="replace").splitlines()
    reasons = [line.removeprefix("celery-pi: ") for line in lines]
    return (reasons or ["celery-pi check ended without a word"]) if done.status else []


@check("App", "The worker would not run the app", "doctor", after=ABOVE)
def unfit(system: System) -> Finding | None:
    """Loading the app takes seconds, so this is checked only if a service is down or outdated."""
    if all(system.up(unit) for unit in SERVICES) and not outdated_services(system):
        return None
    reasons = complaints()
    if not reasons:
        return None
    return problem(
        "; ".join(reasons),
        "the worker ends as it is started, or loses tasks; one that runs still has the old code",
        "mend the app; celery-pi check says when it is well",
    )


@check(
    "App", "A service runs old code", "doctor", after=(*ABOVE, "The worker would not run the app")
)
def old(system: System) -> Finding | None:
    units = outdated_services(system)
    if not units:
        return None
    when, path = changed(system)
    since = age(when - min(system.since(unit) for unit in units))
    return problem(
        f"{' and '.join(units)} started {since} before {path} came",
        "what was changed has no effect, and tasks that are new are thrown away as unknown",
        "check the app and start them again; the worker lets its tasks finish first, for "
        f"{system.settings['celery_time_limit']} s at most",
        all_of(fit, *(lambda unit=unit: restart(unit) for unit in units)),
    )


def fit() -> None:
    if reasons := complaints():
        raise Failed("; ".join(reasons))


def restart(unit: str) -> None:
    """Does not wait: a task may run for half an hour."""
    execute("systemctl", "--no-block", "restart", unit)


@check(
    "App", "The worker has another directory", "doctor", after=(*ABOVE, "A service runs old code")
)
def replaced(system: System) -> Finding | None:
    """A directory that is replaced while the worker runs is read-only in its sandbox."""
    pid = system.units["celery-worker"]["MainPID"]
    root = Path("/proc", pid, "root")
    if not os.access(root, os.X_OK):
        return None  # it does not run
    directories = [
        path for path in writable(system) if Path(path).is_dir() and is_other(root, path)
    ]
    if not directories:
        return None
    return problem(
        f"{', '.join(directories)} was made anew since the worker was started",
        "it is read-only to the worker: tasks that write there fail",
        "start the worker again, which lets its tasks finish first",
        lambda: restart("celery-worker"),
        grace=2,
    )


@check("App", "The site's sends hang without Redis", "doctor", after=(*ABOVE, "App"))
def sends_hang(system: System) -> Finding | None:
    """The worker has told systemd, as it started, that the app's settings allow it."""
    if HANGS not in system.units["celery-worker"]["StatusText"]:
        return None
    return problem(
        "the app's settings bound no wait for Redis, or too late",
        "a page that sends a task waits for as long as Redis is frozen or out of reach, and with "
        "it a process of the web server",
        f"add to the settings, and start site and worker again: {SITE_LINES}; celery-pi check "
        "names those that lack, in the words of this app",
    )


def is_other(root: Path, path: str) -> bool:
    directory = root / path.lstrip("/")
    return not directory.is_dir() or not os.access(directory, os.W_OK)
