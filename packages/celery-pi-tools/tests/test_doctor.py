"""`celery-pi doctor`: how problems are looked for, repaired and told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.command import DOCTOR
from tests.fake import Programs
from tests.harness import ROOT
from tests.hostile import TEXT
from tests.library import LIBRARY

pytestmark = pytest.mark.fast


class Machine:
    """What is the matter, and how often it was looked at."""

    def __init__(self, *wrong: str) -> None:
        self.wrong = set(wrong)
        self.looks = 0
        self.concerned: set[str] = set()
        self.units: dict[str, dict[str, str]] = {}

    def again(self, *files: str) -> Machine:
        self.looks += 1
        self.concerned |= set(files)
        return self


@pytest.fixture
def known(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a problem known, that is there while the machine has it among what is wrong."""
    problems: list[Any] = []
    monkeypatch.setattr(doctor.registry, "PROBLEMS", problems)
    monkeypatch.setattr(doctor.examination, "PROBLEMS", problems)
    monkeypatch.setattr(doctor.examination, "BETWEEN", 0.001)
    monkeypatch.setattr(doctor.examination, "MENDED", 0.01)
    monkeypatch.setattr(doctor.examination, "UNSEEN", 0.01)

    def add(name: str, *needs: str, fix: Any = None, passing: float = 0, **more: Any) -> None:
        def find(look: Machine) -> Any:
            if name not in look.wrong:
                return None
            mend = fix and (lambda: fix(look, name))
            return doctor.registry.Found(f"saw {name}", "why", "will", mend, passing)

        doctor.registry.problem("Section", name, needs, **more)(find)

    return add


def mend(machine: Machine, name: str) -> None:
    machine.wrong.discard(name)


def states(outcomes: list[Any]) -> dict[str, str]:
    return {each.problem.name: each.state for each in outcomes}


def test_healthy_machine_is_looked_at_once(doctor: Any, known: Any) -> None:
    known("first")
    known("second", "first")
    machine = Machine()
    assert doctor.examination.examine(machine, fix=True) == []
    assert machine.looks == 0


def test_consequences_of_a_problem_that_stands_are_not_told(doctor: Any, known: Any) -> None:
    known("cause")
    known("consequence", "cause")
    known("consequence of that", "consequence")
    known("other")
    found = doctor.examination.examine(
        Machine("cause", "consequence", "consequence of that", "other"), fix=True
    )
    assert states(found) == {
        **{"cause": "explained", "consequence": "behind", "consequence of that": "behind"},
        "other": "explained",
    }


def test_nothing_is_done_without_being_asked(doctor: Any, known: Any) -> None:
    known("cause", fix=mend)
    known("consequence", "cause", fix=mend)
    machine = Machine("cause", "consequence")
    found = states(doctor.examination.examine(machine, fix=False))
    assert found == {"cause": "fixable", "consequence": "behind"}
    assert machine.wrong == {"cause", "consequence"}


def test_repair_is_looked_at_and_what_followed_is_repaired_too(doctor: Any, known: Any) -> None:
    known("cause", fix=mend)
    known("consequence", "cause", fix=mend)
    machine = Machine("cause", "consequence")
    found = states(doctor.examination.examine(machine, fix=True))
    assert found == {"cause": "fixed", "consequence": "fixed"}
    assert machine.wrong == set()


def test_repair_that_does_not_help_is_told(doctor: Any, known: Any) -> None:
    known("stubborn", fix=lambda *_: None)
    (told,) = doctor.examination.examine(Machine("stubborn"), fix=True)
    assert (told.state, told.said) == ("left", "it is still there")


def fail(error: Exception) -> Any:
    def repair(*_: object) -> None:
        raise error

    return repair


def test_repair_that_fails_is_told_and_the_others_go_on(doctor: Any, known: Any) -> None:
    known("broken", fix=fail(doctor.act.Failed("dpkg says no")))
    known("forbidden", fix=fail(PermissionError(1, "Operation not permitted")))
    known("faulty", fix=fail(KeyError("s3cret")))
    known("other", fix=mend)
    machine = Machine("broken", "forbidden", "faulty", "other")
    found = doctor.examination.examine(machine, fix=True)
    assert [each.state for each in found] == ["left", "left", "left", "fixed"]
    assert [each.said for each in found[:3]] == [
        *("dpkg says no", "Operation not permitted", "KeyError: a fault of celery-pi")
    ]


def test_what_passes_by_itself_is_no_problem(
    doctor: Any, known: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known("passing", passing=10)
    machine = Machine("passing")
    monkeypatch.setattr(machine, "again", Machine)
    assert doctor.examination.examine(machine, fix=False) == []


def test_what_does_not_pass_is_one(doctor: Any, known: Any) -> None:
    known("lasting", passing=0.01)
    machine = Machine("lasting")
    assert states(doctor.examination.examine(machine, fix=False)) == {"lasting": "explained"}
    assert machine.looks > 1


def test_what_any_problem_may_cause_is_told_only_alone(doctor: Any, known: Any) -> None:
    known("cause", fix=mend)
    known("restarts", alone=True)
    told = doctor.examination.examine
    assert states(told(Machine("cause", "restarts"), fix=True)) == {"cause": "fixed"}
    assert states(told(Machine("restarts"), fix=True)) == {"restarts": "explained"}


@pytest.mark.usefixtures("known")
def test_files_of_a_problem_that_stands_are_known_to_those_behind(doctor: Any) -> None:
    for name, fix in (("left", None), ("fixed", mend)):

        def find(look: Machine, name: str = name, fix: Any = fix) -> Any:
            if name not in look.wrong:
                return None
            mended = fix and (lambda: fix(look, name))
            return doctor.registry.Found("saw", "why", "will", mended, files=(f"/{name}",))

        doctor.registry.problem("Section", name)(find)
    machine = Machine("left", "fixed")
    doctor.examination.examine(machine, fix=True)
    assert machine.concerned == {"/left"}
    look = doctor.look.Look({})
    assert look.again("/a").again("/b").again().concerned == {"/a", "/b"}


def test_look_that_waits_for_ever_is_ended(
    doctor: Any, known: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.examination, "LONGEST", 0.05)
    doctor.registry.problem("Section", "waits")(lambda _: time.sleep(60))
    known("other")
    found = doctor.examination.examine(Machine("other"), fix=False)
    assert states(found) == {"waits": "unknown", "other": "explained"}
    assert found[0].said == "does not end within 0.05 s"


@pytest.mark.parametrize("name", ["CannotLook", "OSError", "ValueError"])
def test_what_cannot_be_looked_for_is_told_and_hides_nothing(
    doctor: Any, known: Any, name: str
) -> None:
    errors = {
        "CannotLook": doctor.checks.CannotLook("Redis does not answer", "restart"),
        "OSError": FileNotFoundError(2, "No such file", "/x"),
        "ValueError": ValueError("s3cret"),
    }

    def find(_: object) -> None:
        raise errors[name]

    doctor.registry.problem("Section", "unseen")(find)
    known("other")
    found = doctor.examination.examine(Machine("other"), fix=False)
    assert states(found) == {"unseen": "unknown", "other": "explained"}
    assert found[0].said in (
        *("Redis does not answer", "No such file /x", "ValueError: a fault of celery-pi"),
    )


# -- what is told


def outcome(doctor: Any, state: str, said: str = "") -> Any:
    problem = doctor.registry.Problem("Redis", "Redis is down", None, ())
    found = doctor.registry.Found("it is failed", "no task is accepted", "start it")
    return doctor.registry.Outcome(problem, state, found, said)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        *(([], 0), (["fixed"], 0), (["fixed", "unknown"], 2), (["unknown"], 2)),
        *((["fixable", "behind"], 1), (["explained"], 1), (["left"], 1), (["left", "unknown"], 1)),
    ],
)
def test_exit_status_tells_what_is_left(doctor: Any, states: list[str], status: int) -> None:
    outcomes = [outcome(doctor, state) for state in states]
    assert doctor.report.status(outcomes) == status
    assert json.loads(doctor.report.as_json(outcomes))["healthy"] is (status == 0)


def test_text_tells_what_was_seen_why_it_matters_and_what_is_done(doctor: Any) -> None:
    told = doctor.report.as_text([outcome(doctor, "left", "it is still there")]).splitlines()
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
            ["fixable", "explained", "behind"],
            "2 problems; celery-pi doctor --fix repairs 1; 1 more not looked for meanwhile",
        ),
    ],
)
def test_last_line_tells_all(doctor: Any, states: list[str], line: str) -> None:
    outcomes = [outcome(doctor, state) for state in states]
    assert doctor.report.as_text(outcomes).splitlines()[-1].startswith(f"{line} (of ")


def test_text_of_others_is_no_command_to_the_terminal(doctor: Any) -> None:
    problem = doctor.registry.Problem("Redis", "Redis is down", None, ())
    found = doctor.registry.Found(TEXT, TEXT, TEXT)
    outcomes = [
        doctor.registry.Outcome(problem, state, found, TEXT) for state in ("left", "unknown")
    ]
    told = doctor.report.as_text(outcomes)
    assert all(line.isprintable() for line in told.split("\n"))
    assert "no problem" not in told.split("\n")
    assert told.count("\n") == 7
    assert doctor.report.as_json(outcomes).isascii()


def test_json_says_the_same(doctor: Any) -> None:
    outcomes = [outcome(doctor, "fixable"), outcome(doctor, "behind", "Disk")]
    told = json.loads(doctor.report.as_json(outcomes))
    assert told["problems"] == [
        {
            **{"section": "Redis", "name": "Redis is down", "state": "fixable", "said": ""},
            **{"saw": "it is failed", "why": "no task is accepted", "will": "start it"},
        }
    ]
    assert told["behind"] == {"Redis is down": "Disk"}


def test_restarts_are_forgotten_once_their_reason_is_gone(
    doctor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl")
    unit = {"NRestarts": "3", "ActiveState": "active"}
    look = doctor.look.Look({})
    look.units = {
        "a": unit,
        "b": {**unit, "NRestarts": "0"},
        "c": {**unit, "ActiveState": "failed"},
    }
    doctor.report.forget_restarts(look)
    assert programs.calls() == ["systemctl reset-failed a"]


# -- the problems as a whole


def test_every_module_is_installed_and_every_problem_looked_for(doctor: Any) -> None:
    there = {path.stem for path in (LIBRARY / "celery_pi_doctor").glob("*.py")}
    assert {file.path.rpartition("/")[2].removesuffix(".py") for file in DOCTOR} == there
    finding = {each.find.__module__.rpartition(".")[2] for each in doctor.PROBLEMS}
    assert finding == set(doctor.MODULES)
    assert len(doctor.MODULES) == len(set(doctor.MODULES))


def test_causes_are_known_and_come_first(doctor: Any) -> None:
    before: set[str] = set()
    for each in doctor.PROBLEMS:
        assert each.name not in before
        assert set(each.needs) <= before, f"{each.name} needs what is not looked for before it"
        before |= {each.section, each.name}


def test_page_lists_every_problem(doctor: Any) -> None:
    page = (ROOT / "docs/doctor.md").read_text()
    listed = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert set(listed) - {"problem"} == {each.name for each in doctor.PROBLEMS}


@pytest.fixture
def program(doctor: Any, tmp_path: Path) -> Callable[[], Any]:
    """Loads the program, with settings of the test's own, as often as it is called."""
    assert doctor
    code = (LIBRARY / "doctor").read_text().replace("/etc/celery-pi", str(tmp_path))

    def load() -> Any:
        scope: dict[str, Any] = {"__name__": "doctor"}
        exec(compile(code, "doctor", "exec"), scope)  # noqa: S102
        return SimpleNamespace(**scope)

    return load


def test_program_says_when_it_cannot_look(
    program: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program().main([]) == 2
    assert "settings.json cannot be read" in capsys.readouterr().err


def test_second_doctor_does_not_repair_at_the_same_time(
    program: Callable[[], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text("{}")
    assert program().alone()
    assert program().main(["--fix"]) == 2
    assert "another doctor" in capsys.readouterr().err
