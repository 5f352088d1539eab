"""Beat's schedule: what it remembers, what it does with a damaged file and with another clock."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab

from celery_pi.render import ROOT

pytestmark = pytest.mark.fast

LIBRARY = ROOT / "files/usr/local/lib/celery-pi"
CLOCK = LIBRARY / "clock-is-set"
NIGHTLY, OFTEN = "nightly", "often"
SCHEDULE = {
    NIGHTLY: {"task": "clean", "schedule": crontab(hour=3, minute=0)},
    OFTEN: {"task": "look", "schedule": 5.0},
}


class Clock:
    """The time that Celery and the scheduler go by, and the tasks that were sent."""

    def __init__(self, directory: Path, module: Any) -> None:
        self.module = module
        self.path = directory / "schedule"
        self.sent: list[str] = []
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def boot(self) -> Any:
        """A scheduler as a Beat has it that was just started."""
        app = Celery("site", broker="memory://", set_as_current=False)
        app.conf.update(timezone="Europe/Paris", beat_schedule=SCHEDULE, result_expires=None)
        app.now = lambda: self.time.astimezone(ZoneInfo("Europe/Paris"))
        scheduler = self.module.Scheduler(app=app, schedule_filename=str(self.path))
        scheduler.send_task = lambda task, *_, **__: self.sent.append(task)
        scheduler.producer = None
        return scheduler

    def run(self, scheduler: Any, seconds: float = 0) -> list[str]:
        """What is sent when so much time has passed."""
        self.time += timedelta(seconds=seconds)
        before = len(self.sent)
        while scheduler.tick() == 0:
            pass
        return sorted(self.sent[before:])

    def stored(self) -> Any:
        return json.loads(self.path.read_text())


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    spec = importlib.util.spec_from_file_location("beat_schedule", LIBRARY / "beat_schedule.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STATE", str(tmp_path))
    return Clock(tmp_path, module)


def test_new_schedule_sends_nothing_before_it_is_due(clock: Clock) -> None:
    scheduler = clock.boot()
    assert clock.run(scheduler, 1) == []
    assert clock.run(scheduler, 5) == ["look"]


def test_what_was_sent_is_on_the_disk_before_the_next_is(clock: Clock) -> None:
    scheduler = clock.boot()
    clock.run(scheduler, 24 * 3600)
    assert {name: count for name, (_, count) in clock.stored().items()} == {NIGHTLY: 1, OFTEN: 1}


def test_killed_beat_sends_nothing_twice_and_makes_up_for_what_it_missed_once(clock: Clock) -> None:
    assert clock.run(clock.boot(), 24 * 3600) == ["clean", "look"]
    assert clock.run(clock.boot(), 1) == []  # killed: nothing was closed
    assert clock.run(clock.boot(), 3 * 24 * 3600) == ["clean", "look"]


DAMAGES: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(4096),
    "truncated": b'{"often": ["2026-03-01T13',
    "garbage": bytes(range(256)),
    "another kind of file": b"SQLite format 3\0",
    "a list": b"[1, 2]",
    "no times": b'{"often": [5, 1]}',
    "no counts": b'{"often": ["2026-03-01T13:00:00+01:00", null]}',
    "no pairs": b'{"often": 5}',
    "a time beyond all": b'{"often": ["9999-12-31T23:59:59-14:00", 1]}',
    "nested without end": b"[" * 100000,
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_schedule_is_set_aside_and_begins_anew(
    clock: Clock, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    clock.path.write_bytes(content)
    scheduler = clock.boot()
    assert clock.path.with_name("schedule.damaged").read_bytes() == content
    assert set(clock.stored()) == {NIGHTLY, OFTEN}
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said.startswith("celery-pi: the schedule cannot be read")
    assert clock.run(scheduler, 6) == ["look"]


def test_schedule_that_cannot_be_written_stops_no_task(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = clock.boot()
    clock.path.with_name("schedule.new").mkdir()
    assert clock.run(scheduler, 6) == ["look"]
    assert "celery-pi: the schedule cannot be written" in caplog.text


def test_nothing_is_written_while_nothing_is_sent(clock: Clock) -> None:
    scheduler = clock.boot()
    before = clock.path.stat().st_ino
    scheduler.sync()
    assert clock.path.stat().st_ino == before


def test_clock_that_jumps_ahead_makes_each_task_due_once(clock: Clock) -> None:
    scheduler = clock.boot()
    assert clock.run(scheduler, 300 * 24 * 3600) == ["clean", "look"]
    assert clock.run(scheduler, 1) == []


@pytest.mark.parametrize("restarted", [False, True])
def test_clock_that_is_set_back_stops_no_task_for_years(
    clock: Clock, caplog: pytest.LogCaptureFixture, restarted: bool
) -> None:
    scheduler = clock.boot()
    clock.run(scheduler, 10 * 365 * 24 * 3600)
    scheduler = clock.boot() if restarted else scheduler
    assert clock.run(scheduler, -10 * 365 * 24 * 3600) == []
    assert "celery-pi: the clock was set back" in caplog.text
    assert clock.run(scheduler, 6) == ["look"]
    assert clock.run(scheduler, 24 * 3600) == ["clean", "look"]


def test_small_correction_of_the_clock_sends_no_nightly_task_twice(clock: Clock) -> None:
    scheduler = clock.boot()
    clock.time = datetime(2026, 3, 2, 2, 0, 10, tzinfo=UTC)  # 3:00:10 in Paris
    assert "clean" in clock.run(scheduler)
    assert "clean" not in clock.run(scheduler, -30)
    assert "clean" not in clock.run(scheduler, 60)


def test_task_that_is_in_the_configuration_no_more_is_forgotten(clock: Clock) -> None:
    clock.path.write_text(json.dumps({"gone": ["2026-03-01T11:00:00+01:00", 3]}))
    clock.boot()
    assert set(clock.stored()) == {NIGHTLY, OFTEN}


def test_second_beat_is_refused_in_one_sentence(
    clock: Clock, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(SystemExit) as ended:
        clock.boot()
    assert ended.value.code == 1
    assert capfd.readouterr().err == (
        "celery-pi: a Beat runs on this machine; a second one would send each task twice\n"
    )
    os.close(other)
    clock.boot()


@pytest.mark.parametrize(
    ("active", "synchronized", "says"),
    [(True, True, ""), (False, False, ""), (True, False, "no network time within 1 s")],
)
def test_start_waits_for_network_time_but_not_for_ever(
    tmp_path: Path, active: bool, synchronized: bool, says: str
) -> None:
    mark = tmp_path / "synchronized"
    if synchronized:
        mark.touch()
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\nexit {0 if active else 3}\n")
    (tmp_path / "systemctl").chmod(0o755)
    script = CLOCK.read_text().replace("/run/systemd/timesync/synchronized", str(mark))
    assert str(mark) in script
    done = subprocess.run(
        ["sh", "-c", script, "clock-is-set", "1"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert (says in done.stdout) if says else (done.stdout == "")
