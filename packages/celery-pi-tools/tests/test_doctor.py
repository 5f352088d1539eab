"""`celery-pi doctor`: how problems are looked for, repaired and told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_pi_tools import checks, cli, config, manifest
from celery_pi_tools.checks import registry
from celery_pi_tools.commands import CannotRead
from celery_pi_tools.doctor import command, examination, report
from celery_pi_tools.privileges import Failed
from celery_pi_tools.system import System
from tests.helpers.fake import Programs
from tests.helpers.harness import ROOT
from tests.helpers.hostile import TEXT

pytestmark = pytest.mark.fast
checks.load()


class Machine:
    """What is the matter, and how often it was looked at."""

    def __init__(self, *wrong: str) -> None:
        self.wrong = set(wrong)
        self.looks = 0
        self.concerned: set[str] = set()
        self.units: dict[str, dict[str, str]] = {}

    def refresh(self, *files: str) -> Machine:
        self.looks += 1
        self.concerned |= set(files)
        return self


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a problem known, that is there while the machine has it among what is wrong."""
    monkeypatch.setattr(registry, "CHECKS", [])
    monkeypatch.setattr(examination, "INTERVAL", 0.001)
    monkeypatch.setattr(examination, "REPAIR_TIMEOUT", 0.01)
    monkeypatch.setattr(examination, "UNKNOWN_GRACE", 0.01)

    def add(name: str, *needs: str, fix: Any = None, grace: float = 0, **more: Any) -> None:
        def find(system: Machine) -> Any:
            if name not in system.wrong:
                return None
            mend = fix and (lambda: fix(system, name))
            return registry.problem(f"saw {name}", "why", "will", mend, grace)

        registry.check("Section", name, "doctor", after=needs, **more)(find)

    return add


def mend(machine: Machine, name: str) -> None:
    machine.wrong.discard(name)


def states(outcomes: list[Any]) -> dict[str, str]:
    return {each.check.name: each.state for each in outcomes}


def test_healthy_machine_is_looked_at_once(known: Any) -> None:
    known("first")
    known("second", "first")
    machine = Machine()
    assert examination.examine(machine, fix=True) == []
    assert machine.looks == 0


def test_consequences_of_a_problem_that_stands_are_not_told(known: Any) -> None:
    known("cause")
    known("consequence", "cause")
    known("consequence of that", "consequence")
    known("other")
    found = examination.examine(
        Machine("cause", "consequence", "consequence of that", "other"), fix=True
    )
    assert states(found) == {
        **{"cause": "manual", "consequence": "suppressed", "consequence of that": "suppressed"},
        "other": "manual",
    }


def test_nothing_is_done_without_being_asked(known: Any) -> None:
    known("cause", fix=mend)
    known("consequence", "cause", fix=mend)
    machine = Machine("cause", "consequence")
    found = states(examination.examine(machine, fix=False))
    assert found == {"cause": "fixable", "consequence": "suppressed"}
    assert machine.wrong == {"cause", "consequence"}


def test_repair_is_looked_at_and_what_followed_is_repaired_too(known: Any) -> None:
    known("cause", fix=mend)
    known("consequence", "cause", fix=mend)
    machine = Machine("cause", "consequence")
    found = states(examination.examine(machine, fix=True))
    assert found == {"cause": "fixed", "consequence": "fixed"}
    assert machine.wrong == set()


def test_repair_that_does_not_help_is_told(known: Any) -> None:
    known("stubborn", fix=lambda *_: None)
    (told,) = examination.examine(Machine("stubborn"), fix=True)
    assert (told.state, told.reason) == ("unresolved", "it is still there")


def fail(error: Exception) -> Any:
    def repair(*_: object) -> None:
        raise error

    return repair


def test_repair_that_fails_is_told_and_the_others_go_on(known: Any) -> None:
    known("broken", fix=fail(Failed("dpkg says no")))
    known("forbidden", fix=fail(PermissionError(1, "Operation not permitted")))
    known("faulty", fix=fail(KeyError("s3cret")))
    known("other", fix=mend)
    machine = Machine("broken", "forbidden", "faulty", "other")
    found = examination.examine(machine, fix=True)
    assert [each.state for each in found] == ["unresolved", "unresolved", "unresolved", "fixed"]
    assert [each.reason for each in found[:3]] == [
        *("dpkg says no", "Operation not permitted", "KeyError: a fault of celery-pi")
    ]


def test_what_passes_by_itself_is_no_problem(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known("passing", grace=10)
    machine = Machine("passing")
    monkeypatch.setattr(machine, "refresh", Machine)
    assert examination.examine(machine, fix=False) == []


def test_what_does_not_pass_is_one(known: Any) -> None:
    known("lasting", grace=0.01)
    machine = Machine("lasting")
    assert states(examination.examine(machine, fix=False)) == {"lasting": "manual"}
    assert machine.looks > 1


def test_what_any_problem_may_cause_is_told_only_alone(known: Any) -> None:
    known("cause", fix=mend)
    known("restarts", only_if_healthy=True)
    told = examination.examine
    assert states(told(Machine("cause", "restarts"), fix=True)) == {"cause": "fixed"}
    assert states(told(Machine("restarts"), fix=True)) == {"restarts": "manual"}


@pytest.mark.usefixtures("known")
def test_files_of_a_problem_that_stands_are_known_to_those_behind() -> None:
    for name, fix in (("standing", None), ("fixed", mend)):

        def find(system: Machine, name: str = name, fix: Any = fix) -> Any:
            if name not in system.wrong:
                return None
            mended = fix and (lambda: fix(system, name))
            return registry.problem("saw", "why", "will", mended, files=(f"/{name}",))

        registry.check("Section", name, "doctor")(find)
    machine = Machine("standing", "fixed")
    examination.examine(machine, fix=True)
    assert machine.concerned == {"/standing"}
    system = System({})
    assert system.refresh("/a").refresh("/b").refresh().concerned == {"/a", "/b"}


def test_look_that_waits_for_ever_is_ended(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TIMEOUT", 0.05)
    registry.check("Section", "waits", "doctor")(lambda _: time.sleep(60))
    known("other")
    found = examination.examine(Machine("other"), fix=False)
    assert states(found) == {"waits": "unknown", "other": "manual"}
    assert found[0].reason == "does not end within 0.05 s"


@pytest.mark.parametrize("name", ["CannotRead", "OSError", "ValueError"])
def test_what_cannot_be_looked_for_is_told_and_hides_nothing(known: Any, name: str) -> None:
    errors = {
        "CannotRead": CannotRead("Redis does not answer", "restart"),
        "OSError": FileNotFoundError(2, "No such file", "/x"),
        "ValueError": ValueError("s3cret"),
    }

    def find(_: object) -> None:
        raise errors[name]

    registry.check("Section", "unseen", "doctor")(find)
    known("other")
    found = examination.examine(Machine("other"), fix=False)
    assert states(found) == {"unseen": "unknown", "other": "manual"}
    assert found[0].reason in (
        *("Redis does not answer", "No such file /x", "ValueError: a fault of celery-pi"),
    )


# -- what is told


def outcome(state: str, said: str = "") -> Any:
    down = registry.Check("Redis", "Redis is down", lambda _: None, ("doctor",))
    found = registry.problem("it is failed", "no task is accepted", "start it")
    return examination.Outcome(down, state, found, said)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        *(([], 0), (["fixed"], 0), (["fixed", "unknown"], 2), (["unknown"], 2)),
        *(
            (["fixable", "suppressed"], 1),
            (["manual"], 1),
            (["unresolved"], 1),
            (["unresolved", "unknown"], 1),
        ),
    ],
)
def test_exit_status_tells_what_is_left(states: list[str], status: int) -> None:
    outcomes = [outcome(state) for state in states]
    assert report.status(outcomes) == status
    assert json.loads(report.as_json(outcomes))["healthy"] is (status == 0)


def test_text_tells_what_was_seen_why_it_matters_and_what_is_done() -> None:
    told = report.as_text([outcome("unresolved", "it is still there")]).splitlines()
    assert told[:5] == [
        "Redis is down",
        "  saw    it is failed",
        "  why    no task is accepted",
        "  tried  start it",
        "  but    it is still there",
    ]
    assert told[5].startswith("1 problem (of ")


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ([], "no problem"),
        (["fixed"], "no problem; 1 repaired"),
        (
            ["fixable", "manual", "suppressed"],
            "2 problems; celery-pi doctor --fix repairs 1; 1 more not looked for meanwhile",
        ),
    ],
)
def test_last_line_tells_all(states: list[str], line: str) -> None:
    outcomes = [outcome(state) for state in states]
    assert report.as_text(outcomes).splitlines()[-1].startswith(f"{line} (of ")


def test_text_of_others_is_no_command_to_the_terminal() -> None:
    down = registry.Check("Redis", "Redis is down", lambda _: None, ("doctor",))
    found = registry.problem(TEXT, TEXT, TEXT)
    outcomes = [
        examination.Outcome(down, state, found, TEXT) for state in ("unresolved", "unknown")
    ]
    told = report.as_text(outcomes)
    assert all(line.isprintable() for line in told.split("\n"))
    assert "no problem" not in told.split("\n")
    assert told.count("\n") == 7
    assert report.as_json(outcomes).isascii()


def test_json_says_the_same() -> None:
    """In words of its own, which programs of owners know."""
    outcomes = [outcome("fixable"), outcome("suppressed", "Disk")]
    told = json.loads(report.as_json(outcomes))
    assert told["problems"] == [
        {
            **{"section": "Redis", "name": "Redis is down", "state": "fixable", "said": ""},
            **{"saw": "it is failed", "why": "no task is accepted", "will": "start it"},
        }
    ]
    assert told["behind"] == {"Redis is down": "Disk"}
    found = json.loads(report.as_json([outcome("manual"), outcome("unresolved"), outcome("fixed")]))
    assert [each["state"] for each in found["problems"]] == ["explained", "left", "fixed"]


def test_restarts_are_forgotten_once_their_reason_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl")
    unit = {"NRestarts": "3", "ActiveState": "active"}
    system = System({})
    system.units = {
        "a": unit,
        "b": {**unit, "NRestarts": "0"},
        "c": {**unit, "ActiveState": "failed"},
    }
    report.forget_restarts(system)
    assert programs.calls() == ["systemctl reset-failed a"]


# -- the problems as a whole


def test_causes_are_known_and_come_first() -> None:
    before: set[str] = set()
    for each in registry.of_view("doctor"):
        assert each.name not in before
        assert set(each.after) <= before, f"{each.name} needs what is not looked for before it"
        before |= {each.section, each.name}


def test_what_two_views_show_is_judged_by_one_function() -> None:
    shown = {view: {each.function for each in registry.of_view(view)} for view in registry.VIEWS}
    names = {
        each.name
        for each in registry.of_view("doctor")
        if each.function in shown["status"] | shown["audit"]
    }
    units = {f"{name} is down" for name in manifest.units() if name != "redis-server"}
    assert names == {
        *("Redis is down", "The worker is not connected to Redis", "There are dead letters"),
        "Files differ from what was deployed",
        *units,
    }


def test_page_lists_every_problem() -> None:
    page = (ROOT / "docs/operate/doctor.md").read_text()
    listed = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert set(listed) - {"problem"} == {each.name for each in registry.of_view("doctor")}


def test_command_fails_without_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "SETTINGS", tmp_path / "settings.json")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cli.main(["doctor"]) == 2
    assert "settings.json cannot be read" in capsys.readouterr().err


def test_second_doctor_does_not_repair_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SETTINGS", tmp_path / "settings.json")
    assert command.lock()
    assert command.main({}, fix=True, as_json=False) == 2
    assert "another doctor" in capsys.readouterr().err
