"""`celery-pi deploys`: what is told of each deploy, and which was cut off."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery_pi.deploys.history import Record
from celery_pi.deploys.lock import DIRECTORY, LEASE, RECORDS, Holder
from celery_pi_tools import deploys

pytestmark = pytest.mark.fast


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The command as a module, on a machine with a deploy of each end."""
    module = deploys
    assert (str(module.RECORDS), str(module.LOCK)) == (RECORDS, DIRECTORY)
    assert module.LEASE == LEASE
    for name in ("RECORDS", "LOCK"):
        monkeypatch.setattr(module, name, tmp_path / name)
        (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "UPTIME", tmp_path / "uptime")
    (tmp_path / "uptime").write_text("1000.5 2000.5\n")
    return module


def keep(command: Any, number: int, **more: Any) -> None:
    fixed = {"who": "ann@desk", "started": f"at {number}", "what": ["deploy.py"], "settings": {}}
    record = Record(**{**fixed, "given": {}, **more})
    (command.RECORDS / f"{number:06}.json").write_text(record.text)


def hold(command: Any, number: int, beat: int) -> None:
    holder = Holder("ann@desk", f"at {number}", "deploy.py")
    (command.LOCK / "holder").write_text(json.dumps(holder._asdict()))
    (command.LOCK / "beat").write_text(f"token {beat}\n")


def results(command: Any) -> list[str]:
    return [record["result"] for record in command.records()]


@pytest.mark.parametrize(
    ("holder", "beat", "expected"),
    [
        (2, 1000, "running"),
        (2, 981, "running"),
        (2, 980, "cut off"),
        (2, 1001, "cut off"),  # of an earlier start of the machine
        (3, 1000, "cut off"),
        (None, 0, "cut off"),
    ],
)
def test_run_that_no_longer_holds_the_lock_was_cut_off(
    command: Any, holder: int | None, beat: int, expected: str
) -> None:
    keep(command, 1, result="completed")
    keep(command, 2)
    if holder is not None:
        hold(command, holder, beat)
    assert results(command) == ["completed", expected]


def test_line_tells_who_when_what_from_which_commit_and_the_result(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(command, 1, result="completed", commit="c0ffee" * 6 + "-dirty", changed=["Redis | Run"])
    planned = {"restart": ["a.service (yours)", "b.service"]}
    keep(command, 12, result="failed: Redis | Run", settings={"redis_port": 7000}, planned=planned)
    assert command.main(as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "   1  at 1  ann@desk  deploy.py of c0ffeec0ffee-dirty: completed",
        "      changed: Redis | Run",
        "  12  at 12  ann@desk  deploy.py of no commit: failed: Redis | Run",
        "      settings: redis_port=7000",
        "      restart: a.service (yours), b.service",
    ]


def test_text_of_others_is_no_command_to_the_terminal(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(command, 1, result="failed: \x1b]0;x\x07\r\n   2  \u202e\x9b", changed=["\n\ud800"])
    command.main(as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("\n") == 2
    assert all(line.isprintable() for line in shown.splitlines())


def test_programs_get_all_of_it(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == []
    keep(command, 7, result="completed", files=["/etc/x"])
    command.main(as_json=True)
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["number"], told["files"]) == (7, ["/etc/x"])
