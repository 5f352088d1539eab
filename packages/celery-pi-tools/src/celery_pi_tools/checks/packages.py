"""Managed by celery-pi. Debian's packages: what an interrupted upgrade leaves behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from celery_pi_tools.checks.registry import Finding, check, ok, problem, warn, wrong
from celery_pi_tools.commands import execute, output
from celery_pi_tools.system import System

LOCKS = (Path("/var/lib/dpkg/lock-frontend"), Path("/var/lib/dpkg/lock"))
FORMAT = "${db:Status-Want} ${db:Status-Status} ${db:Status-Eflag} ${Package}\n"
OURS = ("redis", "nginx", "python3", "fail2ban", "ufw", "openssl", "libssl", "systemd")
QUIET = ("env", "DEBIAN_FRONTEND=noninteractive")
PATIENCE = 600  # seconds


def packages() -> list[list[str]]:
    """Wanted state, state, error and name of each package that is at least partly installed."""
    lines = [line.split() for line in output("dpkg-query", "-W", "-f", FORMAT).splitlines()]
    return [line for line in lines if line[1] not in ("not-installed", "config-files")]


def broken(packages: list[list[str]]) -> list[str]:
    return sorted(name for _, *state, name in packages if state != ["installed", "ok"])


def on_hold(packages: list[list[str]]) -> list[str]:
    return sorted(name for want, *_, name in packages if want == "hold")


@check("Updates", "State of the packages", "audit")
def states(_: System) -> Finding:
    installed = packages()
    values = {"broken": broken(installed), "held": on_hold(installed)}
    if names := values["broken"]:
        evidence = f"not fully installed: {', '.join(names)}"
        return wrong(evidence, "dpkg --configure -a; apt-get -f install", **values)
    if names := values["held"]:
        return warn(f"held back: {', '.join(names)}", "apt-mark unhold PACKAGE", **values)
    return ok(f"{len(installed)} installed, none held back", **values)


@check("Packages", "A package is half installed", "doctor")
def half_installed(_: System) -> Finding | None:
    names = broken(packages())
    if not names or is_busy():
        return None
    return problem(
        f"not fully installed: {', '.join(names)}",
        "no update is installed any more, and what it brings may not work",
        "let dpkg bring it to its end (dpkg --configure -a), with your own files kept",
        configure,
    )


def is_busy() -> bool:
    """Whether apt or dpkg is running; meanwhile packages are half installed."""
    for path in LOCKS:
        if path.exists():
            place = os.open(path, os.O_RDWR)
            try:
                fcntl.lockf(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(place)
    return False


def configure() -> None:
    execute(*QUIET, "dpkg", "--force-confold", "--configure", "-a", timeout=PATIENCE)


@check("Packages", "A package is held back", "doctor")
def held(_: System) -> Finding | None:
    ours = [name for name in on_hold(packages()) if name.startswith(OURS)]
    if not ours:
        return None
    return problem(
        f"held back: {', '.join(ours)}",
        "it gets no security updates",
        f"ask who has held it, and why; apt-mark unhold {' '.join(ours)}",
    )
