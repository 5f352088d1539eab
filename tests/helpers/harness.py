"""Drive the deploy as its users do, in a subprocess, and look at the machine by another road."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.virtual_pi import VirtualPi

ROOT = Path(__file__).resolve().parents[2]
PYINFRA = ROOT / ".venv/bin/pyinfra"
UNITS = ("redis-server", "celery-worker", "celery-beat", "celery-flower", "nginx")
APP = "/var/www/observations_nids"


@contextmanager
def earlier_source(commit: str, directory: Path) -> Iterator[Path]:
    """The source as it was at that commit, in a work tree below the directory."""
    if run("git", "cat-file", "-e", f"{commit}^{{commit}}").status:
        pytest.skip(f"this clone's history does not reach back to {commit}")
    tree = directory / commit
    added = run("git", "worktree", "add", "--detach", tree, commit)
    assert added.status == 0, added.output
    try:
        yield tree
    finally:
        run("git", "worktree", "remove", "--force", tree)


@dataclass(frozen=True)
class Outcome:
    """What a command gave, and how many seconds it took."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    @property
    def result(self) -> dict[str, Any]:
        """What pyinfra printed at `--json`."""
        parsed: dict[str, Any] = json.loads(self.stdout)
        return parsed

    @property
    def planned(self) -> set[str]:
        """Names of the operations that the plan says will change something."""
        assert self.result["plan"], "an empty plan says nothing"
        return {step["name"] for step in self.result["plan"] if step["hosts_with_change"]}

    @property
    def changed(self) -> set[str]:
        """Names of the operations that did change something; none may have failed."""
        results = self.result["results"]
        assert self.status == 0
        assert results["totals"]["error"] == 0
        assert not results["failed_hosts"]
        assert results["operations"], "a run of nothing says nothing"
        return {step["name"] for step in results["operations"] if step["success"]}


def run(*argv: str | Path, cwd: Path = ROOT, timeout: float = 900, **environment: str) -> Outcome:
    """Run a command here, with standard input closed."""
    start = time.monotonic()
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, time.monotonic() - start)


def pyinfra(pi: VirtualPi, *arguments: str | Path, cwd: Path = ROOT) -> Outcome:
    """pyinfra with our inventory, against that machine."""
    return run(PYINFRA, *arguments, cwd=cwd, CELERY_PI_HOST=f"@docker/{pi.name}")


def deploy(pi: VirtualPi, *arguments: str, **settings: object) -> Outcome:
    """A deploy with these settings; its outcome is JSON on standard output."""
    return pyinfra(pi, "--json", "-y", *_data(settings), *arguments, *WHAT)


def plan(pi: VirtualPi, **settings: object) -> Outcome:
    """What a deploy with these settings would change."""
    return pyinfra(pi, "--json", "--dry", *_data(settings), *WHAT)


WHAT = ("inventory.py", "deploy.py")


def _data(settings: dict[str, object]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--data", f"{key}={value}")]


def prove(pi: VirtualPi) -> str:
    """Run `celery-pi prove` on the machine; it must end well. Returns what it prints."""
    return pi.run("celery-pi", "prove").stdout


def pids(pi: VirtualPi) -> dict[str, str]:
    """Main PID of each unit, all of which must be active."""
    shown = pi.run("systemctl", "show", "-p", "Id,ActiveState,MainPID", *UNITS).stdout
    units = [
        dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n")
    ]
    states = {unit["Id"].removesuffix(".service"): unit["ActiveState"] for unit in units}
    assert states == dict.fromkeys(UNITS, "active")
    return {unit["Id"].removesuffix(".service"): unit["MainPID"] for unit in units}


def restarts(pi: VirtualPi) -> int:
    """How often systemd had to start the worker again."""
    return int(pi.run("systemctl", "show", "-P", "NRestarts", "celery-worker").stdout)


def redis(pi: VirtualPi, *command: str, user: str = "admin") -> str:
    """Ask Redis on the machine as one of its users."""
    return pi.run("/usr/local/lib/celery-pi/redis-cli", user, *command).stdout.strip()


def fsynced(pi: VirtualPi) -> bool:
    """The append-only file is on the disk up to its last byte."""
    info = redis(pi, "info", "persistence")
    return "aof_pending_bio_fsync:0" in info and "aof_buffer_length:0" in info


def is_fit(pi: VirtualPi) -> bool:
    """Whether no task waits, runs or is set aside, or none does soon, as Beat sends some; and the
    worker can write to the app's media, which it cannot once that directory is another one than
    when it started."""
    cli = "/usr/local/lib/celery-pi/redis-cli admin"
    ask = f"for ask in 'llen celery' 'llen set-aside' 'hlen unacked'; do {cli} $ask; done"
    media = f"/proc/$(systemctl show -P MainPID celery-worker)/root{APP}/media"
    for _ in range(5):
        said = pi.run("sh", "-c", f"{ask}; test -w {media} && echo writable", check=False).stdout
        if said.split() == ["0", "0", "0", "writable"]:
            return True
        time.sleep(1)
    return False


def in_app(pi: VirtualPi, code: str, timeout: float = 120, user: str = "www-data") -> str:
    """Run Python code in the deployed app's environment, as its user."""
    python = f"{APP}/venv/bin/python"
    command = ("runuser", "-u", user, "--", "env", "-C", APP, python, "-c", code)
    return pi.run(*command, timeout=timeout).stdout.strip()


def send(pi: VirtualPi, task: str, *arguments: object) -> str:
    """Result of one of the app's tasks, sent by the app and awaited, as JSON text."""
    code = (
        "import json; from observations_nids import tasks;"
        f"print(json.dumps(tasks.{task}.delay(*{arguments!r}).get(timeout=60)))"
    )
    return in_app(pi, code)


def exposure(pi: VirtualPi, unit: str) -> float:
    """What systemd makes of a unit's sandbox: 0 is closed, 10 is open."""
    shown = pi.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
    found = re.search(r"exposure level for \S+: ([0-9.]+)", shown)
    assert found
    return float(found[1])


# What changes by itself on a running machine: kernel file systems, data, logs, caches, ticks.
_LIVELY = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/lib/redis"),  # noqa: S108
    *("/var/lib/celery-beat", "/var/lib/systemd", f"{APP}/media", "/etc/.pwd.lock"),
    *("/var/backups/celery-pi", "/var/lib/celery-pi/backup.json", "/var/lib/celery-pi/drill.json"),
    "/var/cache/celery-pi",  # what the last deploy asked
)


# What daemons save when they like: its path, mode and owner count, not when it was written.
_SAVED = ("/var/lib/celery-flower", "/var/lib/fail2ban")


def fingerprint(pi: VirtualPi) -> dict[str, str]:
    """Path of everything on the disk, with mode, owner, size and modification time."""
    pruned = [word for path in _LIVELY for word in ("-path", path, "-o")][:-1]
    listing = ("find", "/", "-xdev", "(", *pruned, ")", "-prune", "-o", "-printf")
    shown = pi.run(*listing, "%p|%m %u %g %s %T@ %l\\n").stdout
    found = dict(line.split("|", 1) for line in shown.splitlines())
    return {
        path: " ".join(line.split()[:3]) if path.startswith(_SAVED) else line
        for path, line in found.items()
    }


def wait_for(what: str, condition: Any, seconds: float = 30) -> Any:
    """The first true value of the condition; an assertion with `what` when none comes."""
    deadline = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= deadline  # a look itself may take long
        failed = None
        try:
            if value := condition():
                return value
        except AssertionError as error:
            failed = error
        if is_last:
            raise AssertionError(f"not within {seconds:g} s: {what}") from failed
        time.sleep(0.2)
