"""Managed by celery-pi. Updates: whether they come, what waits, and what gets none any more."""

from __future__ import annotations

import csv
import re
import time
from datetime import date, timedelta
from pathlib import Path
from platform import freedesktop_os_release

from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.commands import CannotRead, inactive, output
from celery_pi_tools.system import System
from celery_pi_tools.table import age, count

TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")
PERIODIC = ("Update-Package-Lists", "Unattended-Upgrade")
LISTS = Path("/var/lib/apt/lists")
OLD = 3 * 86400  # seconds; the lists are fetched each day
SOON = timedelta(days=90)
SECURITY = re.compile(r"^Inst (\S+) .*(?:Debian-Security|-security)", re.MULTILINE)
LAST_UPGRADE = Path("/var/lib/apt/periodic/upgrade-stamp")
APT_PATIENCE = 60  # seconds; it reads the list of all packages
INSTALL = "unattended-upgrade; or wait for updates_time"
FETCH = "journalctl -u apt-daily; apt-get update"
DEBIAN = Path("/usr/share/distro-info/debian.csv")  # of Debian's package distro-info-data
# End of security fixes: https://www.djangoproject.com/download/#supported-versions, 2026-11.
DJANGO = {
    **{"4.2": "2026-04-30", "5.0": "2025-04-02", "5.1": "2025-12-03"},
    **{"5.2": "2028-04-30", "6.0": "2027-04-30"},
}


@check("Updates", "By themselves", "audit")
def automatic(system: System) -> Finding:
    if not system.settings["updates"]:
        return warn("off, as updates = False has it", "updates = True, and deploy")
    if stopped := inactive(*TIMERS):
        return wrong(f"{', '.join(stopped)} does not run", "deploy again", timers=stopped)
    configuration = output("apt-config", "dump")
    off = [
        name
        for name in PERIODIC
        if not re.search(f'^APT::Periodic::{name} "[^0]', configuration, re.M)
    ]
    if off or "Debian-Security" not in configuration:
        return wrong("apt's configuration does not ask for them", "deploy again", timers=[])
    return ok(f"each day at {system.settings['updates_time']}", timers=[])


@check("Updates", "Security fixes", "audit")
def security(system: System) -> Finding:
    plan = output("apt-get", "--simulate", "dist-upgrade", timeout=APT_PATIENCE)
    waiting = sorted(set(SECURITY.findall(plan)))
    if waiting:
        few = ", ".join(waiting[:5]) + (", …" if len(waiting) > 5 else "")
        evidence = f"{count(len(waiting), 'package waits', 'packages wait')}: {few}"
        judge = warn if system.settings["updates"] and not is_old(LAST_UPGRADE) else wrong
        return judge(evidence, INSTALL, packages=waiting)
    fetched = max(LISTS.glob("*_Packages*"), key=modified, default=None)
    if fetched is None:
        return warn("none known: the lists were never fetched", FETCH, packages=[])
    evidence = f"none waits; the lists are {age(time.time() - modified(fetched))} old"
    return warn(evidence, FETCH, packages=[]) if is_old(fetched) else ok(evidence, packages=[])


def modified(file: Path) -> float:
    return file.stat().st_mtime


def is_old(file: Path) -> bool:
    """Whether it is older than OLD, so that the timers have not run."""
    return file.exists() and time.time() - modified(file) > OLD


@check("Updates", "Debian's end of life", "audit")
def debian(_: System) -> Finding:
    version = freedesktop_os_release()["VERSION_ID"]
    with DEBIAN.open() as file:
        ends = {row["version"]: row["eol-lts"] or row["eol"] for row in csv.DictReader(file)}
    if not ends.get(version):
        raise CannotRead(f"{DEBIAN} does not know Debian {version}", "apt-get upgrade")
    return until(f"Debian {version}", ends[version], "upgrade to the next release")


@check("Updates", "Django's end of life", "audit")
def django(system: System) -> Finding | None:
    version = installed(system).get("django")
    if version is None:
        return None
    branch = branch_of(version)
    if branch not in DJANGO:
        newer = as_numbers(branch) > max(map(as_numbers, DJANGO))
        evidence = f"Django {version}"
        remedy = "move the app to Django 5.2"
        return (
            ok(f"{evidence}, newer than this check")
            if newer
            else wrong(f"{evidence}: over", remedy)
        )
    return until(f"Django {version}", DJANGO[branch], "move the app to a newer Django")


def branch_of(version: str) -> str:
    """Such as 6.1 of 6.1a1 and 6.1.2. Raises CannotRead."""
    match = re.match(r"\d+\.\d+", version)
    if not match:
        raise CannotRead(f"Django's version {version} is of no known form", "pip show django")
    return match[0]


def as_numbers(branch: str) -> tuple[int, ...]:
    """By which branches are in order: 4.10 comes after 4.2."""
    return tuple(map(int, branch.split(".")))


def until(what: str, end: str, remedy: str) -> Finding:
    """The result for software that gets security fixes until that day."""
    left = date.fromisoformat(end) - date.today()
    evidence = f"{what} gets security fixes until {end}"
    if left < timedelta(0):
        return wrong(f"{what} gets no security fixes since {end}", remedy, end=end)
    return warn(evidence, remedy, end=end) if left < SOON else ok(evidence, end=end)


@check("Updates", "Packages of the app", "audit")
def pins(system: System) -> Finding:
    pinned = dict(pin.lower().split("==", 1) for pin in system.settings["app_pins"])
    versions = installed(system)
    differing = sorted(
        f"{name} {versions.get(plain(name), 'is missing')}, not {version}"
        for name, version in pinned.items()
        if same(versions.get(plain(name), "")) != same(version)
    )
    if differing:
        return wrong("; ".join(differing), "deploy again", packages=differing)
    return ok(", ".join(f"{name} {version}" for name, version in pinned.items()), packages=[])


def installed(system: System) -> dict[str, str]:
    """Version of each package in the app's environment. After an upgrade of Debian the packages of
    the Python before are there too, and are none that the environment's Python has."""
    venv = Path(system.settings["app_dir"], system.settings["app_venv_dir"])
    python = (venv / "bin/python").resolve().name
    directories = (venv / "lib" / python / "site-packages").glob("*.dist-info")
    names = [path.name.removesuffix(".dist-info") for path in directories]
    return {plain(name): version for name, _, version in (each.rpartition("-") for each in names)}


def same(version: str) -> str:
    """One text for equal versions: 2.0 is 2.0.0."""
    return re.sub(r"(\.0)+(?![.\d])", "", version)


def plain(name: str) -> str:
    """A package's name without its extras, in the spelling of a directory."""
    return re.sub(r"[-_.]+", "_", name.partition("[")[0]).lower()
