"""Managed by celery-pi. Disks: what is free, and those that take nothing more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from celery_pi_tools.checks.registry import Finding, check, ok, problem, warn, wrong
from celery_pi_tools.commands import execute
from celery_pi_tools.system import System
from celery_pi_tools.table import percent, size

LEAST = 256 * 2**20  # bytes; Redis rewrites its file beside the old one
SMALL = 10  # percent that must be free of a disk that is not much larger than that
LEAST_FILES = 1  # percent
DATA = "/var/lib/redis"
PLACES = ("/", DATA, "/var/log", "/tmp", "/etc")  # noqa: S108  looked at only
ARCHIVES = Path("/var/cache/apt/archives")


def disks(system: System) -> Iterator[tuple[str, os.statvfs_result]]:
    """A path on each disk that Redis, the logs or the app's tasks write to."""
    own = [system.settings["app_dir"], *writable(system)]
    places = [path for path in (*PLACES, *own) if Path(path).is_dir()]
    seen: set[int] = set()
    for path in places:
        device = Path(path).stat().st_dev
        if device not in seen:
            seen.add(device)
            yield path, os.statvfs(path)


def writable(system: System) -> list[str]:
    """Paths to which the app's tasks write."""
    app = Path(system.settings["app_dir"])
    return [str(app / path) for path in system.settings["app_writable"]]


@check("Machine", "Disk of /", "status")
def root(_: System) -> Finding:
    return room("/")


@check("Machine", f"Disk of {DATA}", "status")
def data(_: System) -> Finding | None:
    return None if os.stat(DATA).st_dev == os.stat("/").st_dev else room(DATA)  # noqa: PTH116


def room(path: str) -> Finding:
    """How much of the disk is free."""
    stats = os.statvfs(path)
    free, whole = stats.f_bavail * stats.f_frsize, stats.f_blocks * stats.f_frsize
    share = percent(free, whole)
    remedy = "du -xh / | sort -h | tail; journalctl --vacuum-size=64M; apt-get clean"
    values = {"free": free, "size": whole}
    if short := left(stats):
        return wrong(short, remedy, **values)
    evidence = f"{size(free)} of {size(whole)} free ({share} %)"
    return warn(evidence, remedy, **values) if share < SMALL else ok(evidence, **values)


@check("Disk", "A disk is read-only", "doctor")
def read_only(system: System) -> Finding | None:
    paths = [path for path, stats in disks(system) if stats.f_flag & os.ST_RDONLY]
    if not paths:
        return None
    return problem(
        f"the disk of {', '.join(paths)} cannot be written",
        "the kernel makes a disk read-only when it fails: no task can be accepted",
        "read journalctl -k | grep -i error, save what is on it, and replace the SD card",
    )


@check("Disk", "A disk is full", "doctor")
def full(system: System) -> Finding | None:
    shortages = [(path, left(stats)) for path, stats in disks(system) if left(stats)]
    if not shortages:
        return None
    symptom = ", ".join(f"{path}: {room}" for path, room in shortages)
    impact = "Redis refuses tasks when it cannot write its files, and logs are lost"
    device = Path(shortages[0][0]).stat().st_dev
    if spare(device) > LEAST:
        return problem(symptom, impact, "remove the packages that apt has kept", clean)
    return problem(symptom, impact, f"make room: du -xh {shortages[0][0]} | sort -h | tail")


def left(stats: os.statvfs_result) -> str:
    """How little room is left; empty if it is enough."""
    free, whole = stats.f_bavail * stats.f_frsize, stats.f_blocks * stats.f_frsize
    if free < min(LEAST, whole * SMALL // 100):
        return f"{size(free)} of {size(whole)} free"
    if stats.f_files and percent(stats.f_favail, stats.f_files) < LEAST_FILES:
        return f"{stats.f_favail} of {stats.f_files} files free"
    return ""


def spare(device: int) -> int:
    """Bytes of apt's archives on that disk."""
    if not ARCHIVES.is_dir() or ARCHIVES.stat().st_dev != device:
        return 0
    return sum(file.stat().st_size for file in ARCHIVES.glob("*.deb"))


def clean() -> None:
    execute("apt-get", "clean")
