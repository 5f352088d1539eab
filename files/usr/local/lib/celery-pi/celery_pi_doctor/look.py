"""Managed by celery-pi. What several problems look at, each read once."""

from __future__ import annotations

import time
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from celery_pi_checks import look as checks
from celery_pi_checks.control import Told, tell
from celery_pi_checks.look import output as output
from celery_pi_privileges import Refused, attempt

from celery_pi_doctor.act import Failed

RECENT = 3600  # seconds
JOURNAL_PATIENCE = 10  # seconds
JOURNAL_LARGEST = 4 * 2**20  # bytes; a service may write as much as it likes
PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "SubState", "Result", "UnitFileState"),
    *("NeedDaemonReload", "NRestarts", "MainPID", "ControlGroup", "Job"),
    *("InactiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic"),
)
JOURNALCTL = "/usr/bin/journalctl"
SAID = (
    "Received unregistered task of type|(Soft|Hard) time limit .* exceeded for|"
    "celery-pi: |Watchdog timeout"
)
CGROUPS = Path("/sys/fs/cgroup")


class Look(checks.Look):
    """This Pi, as the deployed settings describe it, at one moment.

    `concerned` are the files that problems concern which were found before.
    """

    def __init__(self, settings: dict[str, Any], concerned: frozenset[str] = frozenset()) -> None:
        super().__init__(settings)
        self.concerned = concerned

    def again(self, *files: str) -> Look:
        """A look at it as it is now, when a problem that concerns these files was found."""
        return Look(self.settings, self.concerned.union(files))

    @cached_property
    def units(self) -> dict[str, dict[str, str]]:
        """What systemd says of each unit of ours, by its name without `.service`."""
        return checks.shown(PROPERTIES)

    def up(self, unit: str) -> bool:
        return self.units[unit]["ActiveState"] == "active"

    def down_for(self, unit: str) -> float:
        """Seconds since it ended."""
        return time.monotonic() - int(self.units[unit]["InactiveEnterTimestampMonotonic"]) / 1e6

    def since(self, unit: str) -> float:
        """Time at which its main process was started, by the clock as it is now."""
        started = int(self.units[unit]["ExecMainStartTimestampMonotonic"]) / 1e6
        return time.time() - (time.monotonic() - started)

    @cached_property
    def told(self) -> tuple[Told, int]:
        """What each worker answers: its queues, what it keeps for later, how it is set up."""
        return tell(self, ("active_queues", "scheduled", "conf"))

    @cached_property
    def said(self) -> list[str]:
        """What the worker said of the things that we look for, since it was started and within
        the last hour; the newest first."""
        start = max(self.since("celery-worker"), time.time() - RECENT)
        return journal("celery-worker", f"@{start:.0f}", SAID)

    def is_alive(self) -> bool:
        """Whether Redis sees this machine's worker."""
        machine = Path("/etc/machine-id").read_text().strip()
        channel = self.key(f"celery-pi.alive.{machine}/{self.units['celery-worker']['Id']}/")
        return bool(self.ask("PUBSUB", "CHANNELS", f"{channel}*"))

    def pids(self, unit: str) -> list[int]:
        """Processes of that unit."""
        group = self.units[unit]["ControlGroup"]
        file = CGROUPS / group.lstrip("/") / "cgroup.procs"
        return [int(pid) for pid in file.read_text().split()] if group and file.exists() else []

    def config(self, name: str) -> str:
        """A setting of the running Redis."""
        return str(self.ask("CONFIG", "GET", name)[1])

    def value(self, name: str) -> Any:
        return self.settings[name]


def journal(unit: str, since: str, pattern: str) -> list[str]:
    """Lines of the unit that match, the newest first. What takes too long to read, or is too much,
    is left out: the newest is what counts."""
    command = (JOURNALCTL, "-q", "-r", "-o", "cat", "-u", unit, "--since", since, "-g", pattern)
    found = BytesIO()
    try:
        done = attempt("root", command, sink=found, timeout=JOURNAL_PATIENCE, limit=JOURNAL_LARGEST)
    except Refused:
        return lines(found.getvalue())
    if done.err:  # its status does not tell an error from no match
        raise Failed(lines(done.err)[-1])
    return lines(found.getvalue())


def lines(text: bytes) -> list[str]:
    return text.decode(errors="replace").splitlines()
