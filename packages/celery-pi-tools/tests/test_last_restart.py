"""Why the worker and Beat were started last, by the machine's own records."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from celery_pi_tools import deploys
from celery_pi_tools.checks import restarts
from fake_system import UP, fake_system

pytestmark = pytest.mark.fast

NOW = 1_800_000_000.0
WORKER = "celery-worker"
ASKED = "2026-11-30 07:00:00 UTC"
RESTART = "celery-worker.service (yours: /srv/app/.env changed since it was started)"
HISTORY = """
Start-Date: {start}
Commandline: /usr/bin/unattended-upgrade
Upgrade: libssl3t64:arm64 (3.5.1, 3.5.2), openssl:arm64 (3.5.1, 3.5.2)
End-Date: {end}
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(deploys, "RECORDS", tmp_path)
    monkeypatch.setattr(deploys, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(deploys, "UPTIME", tmp_path / "uptime")
    monkeypatch.setattr(restarts, "HISTORY", tmp_path / "history.log")
    monkeypatch.setattr(time, "time", lambda: NOW)
    (tmp_path / "uptime").write_text("50000.00 1.0\n")
    return tmp_path


def why(*, stopped: float | None, since: float = NOW - 10, restarted: int = 0) -> str:
    system = fake_system()
    system.units = {WORKER: {**UP, "NRestarts": str(restarted)}}
    system.since, system.stopped = lambda _: since, lambda _: stopped
    return restarts.why(system, WORKER)


def record(
    directory: Path,
    number: int,
    written: float,
    *,
    seconds: int | None = 20,
    restart: str = RESTART,
) -> None:
    """One that was written last at that time, and took so long by another clock."""
    path = directory / f"{number:06}.json"
    found = {
        **{"who": "anna@laptop", "started": ASKED, "result": "completed" if seconds else "running"},
        **{"what": ["deploy.py"], "planned": {"restart": [restart], "change": ["x.service (y)"]}},
        "ended": f"2026-11-30 07:00:{seconds} UTC" if seconds else "",
    }
    path.write_text(json.dumps(found))
    os.utime(path, (written, written))


def test_deploy_that_was_under_way_is_the_reason_with_what_it_changed(machine: Path) -> None:
    record(machine, 7, NOW - 500)
    reason = "deploy 7: /srv/app/.env changed since it was started"
    assert why(stopped=NOW - 510) == reason
    for moment in (NOW - 530, NOW - 490):
        assert why(stopped=moment) == "a command (systemctl)"


def test_deploy_that_had_no_reason_for_this_unit_is_named_alone(machine: Path) -> None:
    record(machine, 7, NOW - 500, restart="celery-worker-2.service (other)")
    assert why(stopped=NOW - 510) == "deploy 7"


def test_first_start_is_the_first_deploys_or_the_machines(machine: Path) -> None:
    assert why(stopped=None) == "the start of the machine"
    record(machine, 1, NOW)
    assert why(stopped=None).startswith("deploy 1")


def test_deploy_that_was_cut_off_is_no_reason_after_the_machine_has_been_started(
    machine: Path,
) -> None:
    record(machine, 3, NOW - 60, seconds=None)
    assert why(stopped=NOW - 30).startswith("deploy 3")
    (machine / "uptime").write_text("40.00 1.0\n")
    assert why(stopped=None) == "the start of the machine"


def test_deploy_that_was_cut_off_is_no_reason_once_the_next_has_begun(machine: Path) -> None:
    record(machine, 3, NOW - 900, seconds=None)
    record(machine, 4, NOW - 500)
    assert why(stopped=NOW - 600).startswith("deploy 3")
    assert why(stopped=NOW - 510).startswith("deploy 4")
    assert why(stopped=NOW - 300) == "a command (systemctl)"


def test_packages_that_were_just_installed_are_the_reason(machine: Path) -> None:
    start, end = (
        time.strftime("%Y-%m-%d  %H:%M:%S", time.localtime(NOW - ago)) for ago in (4000, 3900)
    )
    (machine / "history.log").write_text(HISTORY.format(start=start, end=end))
    assert why(stopped=NOW - 3800) == "an update of packages (libssl3t64, openssl)"
    for moment in (NOW - 4001, NOW - 2000):
        assert why(stopped=moment) == "a command (systemctl)"
    (machine / "history.log").write_text(
        HISTORY.format(start=start, end=end).replace("Upgrade", "Install")
    )
    assert why(stopped=NOW - 3800) == "a command (systemctl)"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["celery-worker.service: Watchdog timeout (limit 30s)!"], "the watchdog: "),
        (["x: A process of this unit has been killed by the OOM killer."], "memory: "),
        (["x: Failed with result 'oom-kill'."], "memory: "),
        (
            ["Failed with result 'exit-code'.", "celery-worker.service: Main process exited, x"],
            "systemd: Main process exited, x",
        ),
        (["celery-pi: no redis"], "systemd: celery-pi: no redis"),
        ([], "systemd"),
    ],
)
def test_what_systemd_did_by_itself_has_the_reason_of_the_journal(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], expected: str
) -> None:
    asked = []

    def matching(*words: str) -> list[str]:
        asked.append(words)
        return lines

    monkeypatch.setattr(restarts.journal, "matching", matching)
    assert why(stopped=NOW - 12, restarted=1).startswith(expected)
    assert asked[0][1::2] == (f"@{NOW - 10 - 3600:.0f}", f"@{NOW - 9:.0f}")
