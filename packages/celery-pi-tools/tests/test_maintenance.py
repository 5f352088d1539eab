"""Maintenance: the page, the command's patience."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery_pi_tools import maintenance
from celery_pi_tools.checks import task_state
from tests.helpers.fake import Programs, as_root, mode

pytestmark = [pytest.mark.fast, as_root]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "maintenance/page.html"


class Worker:
    """What the command is told of the worker, an answer each time, the last one for good."""

    def __init__(self, *answers: bool | None) -> None:
        self.answers = list(answers)

    def __call__(self, _: object) -> bool | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: Path) -> ModuleType:
    """The command, with stand-ins for systemd and the worker."""
    module = maintenance
    monkeypatch.setattr(module, "PAGE", page)
    monkeypatch.setattr(module, "START", 1)
    monkeypatch.setattr(module, "RESUME", 1)
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl", "[ $1 != show ] || cat $(dirname $0)/state")
    (programs.bin / "state").write_text("active\n")
    monkeypatch.setattr(module, "programs", programs, raising=False)
    monkeypatch.setattr(module, "consumes", module.consumes)  # which a test replaces
    return module


SETTINGS = {"celery_time_limit": 1}
RESTART = "systemctl try-restart --no-block celery-worker.service"


def run(command: Any, switch: str, worker: Worker, state: str = "active") -> tuple[int, bool]:
    """Exit status, and whether the worker was started again."""
    command.consumes = worker
    (command.programs.bin / "state").write_text(f"{state}\n")
    status = command.on(SETTINGS, "<b>Tea & rest</b>") if switch == "on" else command.off(SETTINGS)
    return status, RESTART in command.programs.calls()


@pytest.mark.parametrize(
    ("worker", "state", "expected"),
    [
        (Worker(True, True, None, False), "active", (0, True)),
        (Worker(None, False), "active", (0, True)),
        (Worker(False), "active", (0, False)),
        (Worker(None), "inactive", (0, False)),
        (Worker(None), "failed", (0, False)),
        (Worker(None), "activating", (1, True)),
        (Worker(True), "active", (1, True)),
    ],
)
def test_on_starts_a_worker_again_that_takes_tasks_and_waits_for_it(
    command: Any, page: Path, worker: Worker, state: str, expected: tuple[int, bool]
) -> None:
    assert run(command, "on", worker, state) == expected
    assert page.exists()


@pytest.mark.parametrize(
    ("worker", "state", "expected"),
    [
        (Worker(False, True), "active", (0, False)),
        (Worker(False), "inactive", (0, False)),
        (Worker(False), "active", (1, False)),
    ],
)
def test_off_waits_until_tasks_are_taken(
    command: Any, page: Path, worker: Worker, state: str, expected: tuple[int, bool]
) -> None:
    command.write("")
    assert run(command, "off", worker, state) == expected
    assert not page.exists()


def test_page_shows_the_message_as_text_and_anybody_may_read_it(command: Any, page: Path) -> None:
    before = os.umask(0o077)
    try:
        command.write("<b>Tea & rest</b>")
    finally:
        os.umask(before)
    assert "<p>&lt;b&gt;Tea &amp; rest&lt;/b&gt;</p>" in page.read_text()
    assert (mode(page), mode(page.parent)) == (0o644, 0o755)
    assert list(page.parent.iterdir()) == [page]


def test_another_message_leaves_the_time_since_when_it_is_on(command: Any, page: Path) -> None:
    command.write("one")
    os.utime(page, (1000, 1000))
    command.write("two")
    assert ("two" in page.read_text(), page.stat().st_mtime) == (True, 1000)


def test_worker_of_another_machine_does_not_count(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: dict[str, list[Any]] = {"celery@elsewhere": [{"name": "celery"}]}
    monkeypatch.setattr(command, "System", lambda settings: settings)
    monkeypatch.setattr(
        command, "ask_workers", lambda *_: ({"active_queues": answers}, len(answers))
    )
    assert command.consumes({}) is None
    answers[f"celery@{os.uname().nodename}"] = []
    assert command.consumes({}) is False
    answers[f"celery-x@{os.uname().nodename}"] = [{"name": "ocr"}]
    assert command.consumes({}) is True


def test_status_warns_of_it_and_says_nothing_without_it(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_state, "MAINTENANCE_PAGE", page)
    assert task_state.maintenance(None) is None
    page.parent.mkdir()
    page.touch()
    os.utime(page, (time.time() - 125, time.time() - 125))
    result = task_state.maintenance(None)
    assert (result.level, result.remedy) == ("warn", "celery-pi maintenance off")
    assert result.evidence.startswith("on for 2 min")
