"""One round trip for what the last deploy asked: the same answers, and none that has aged."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from pyinfra.api import StringCommand

from celery_pi import bulk_facts, deploy_lock
from celery_pi.bulk_facts import BulkFacts
from tests.fake import LocalShell, machine

pytestmark = pytest.mark.fast

QUESTIONS = {
    "nothing": "true",
    "a line": "echo one",
    "no line's end": "printf one",
    "an empty line": "echo",
    "empty lines at the end": r"printf 'one\n\n\n'",
    "complaints": "echo one; echo two >&2; printf three >&2",
    "an exit": "echo one; exit 3; echo two",
    "an error": "set -e; false; echo two",
    "an unknown program": "no-such-program",
    "what is no shell": "if",
    "arguments": 'echo "$# $*"; set -- one two; echo "$2"',
    "input": "cat; read -r line || echo none",
    "quotes": """printf '%s\\n' 'it'"'"'s' "\\$HOME" '`' '\\'""",
    "a variable": "seen=${seen:-new}; echo $seen; seen=old; cd /; echo $PWD",
    "a function": "ask() { echo mine; }; ask",
    "many bytes": "head -c 300000 /dev/zero | tr '\\0' x; echo é",
}


class Machine:
    """A shell of this host, which the last deploy has asked all the questions."""

    def __init__(self) -> None:
        self.state, self.host = machine("@local", {})
        self.shell = LocalShell(self.state, self.host)

    def run(self, told: bool = False) -> BulkFacts:
        """The connector of another run."""
        self.state.is_executing = False
        self.host.connector = self.shell
        self.shell.executed_commands.clear()
        bulk = BulkFacts(self.host)
        for text in QUESTIONS.values():
            ask(bulk, text, told)
        return bulk

    @property
    def trips(self) -> int:
        return len(self.shell.executed_commands)


def ask(bulk: BulkFacts, text: str, told: bool = False) -> tuple[bool, list[str], list[str]]:
    done, said = bulk.run_shell_command(StringCommand(text), print_output=told, print_input=told)
    return done, said.stdout_lines, said.stderr_lines


def keep(bulk: BulkFacts) -> None:
    kept = bulk.to_keep()
    assert kept
    command, text = kept
    assert bulk.tell(command, _stdin=text)[0]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache/facts"
    monkeypatch.setattr(bulk_facts, "FILE", str(path))
    return path


@pytest.fixture
def pi(file: Path) -> Machine:
    pi = Machine()
    keep(pi.run())
    assert file.stat().st_mode & 0o777 == 0o600
    return pi


@pytest.mark.parametrize("text", QUESTIONS.values(), ids=QUESTIONS)
def test_answer_is_the_one_that_it_has_by_itself(pi: Machine, text: str) -> None:
    bulk = pi.run()
    before = pi.trips
    answer = ask(bulk, text)
    assert pi.trips == before
    done, said = pi.shell.run_shell_command(StringCommand(text))
    complaints = [line.partition(": ")[2] for line in said.stderr_lines]
    told = [line.partition(": ")[2] for line in answer[2]]
    assert (answer[:2], len(told)) == ((done, said.stdout_lines), len(complaints))
    if text != "if":  # the shell says in which line of which file
        assert [line.rpartition(": ")[2] for line in told] == [
            line.rpartition(": ")[2] for line in complaints
        ]


def test_all_is_asked_in_one_round_trip_and_there_is_nothing_new_to_keep(pi: Machine) -> None:
    bulk = pi.run()
    assert pi.trips == 1
    assert bulk.to_keep() is None


def test_without_what_was_kept_each_is_asked_by_itself(pi: Machine, file: Path) -> None:
    file.unlink()
    bulk = pi.run()
    assert pi.trips == 1 + len(QUESTIONS)
    assert bulk.to_keep()


def test_new_question_is_asked_by_itself_and_kept(pi: Machine) -> None:
    bulk = pi.run()
    assert ask(bulk, "echo new") == (True, ["new"], [])
    assert pi.trips == 2
    keep(bulk)
    bulk = pi.run()
    ask(bulk, "echo new")
    assert pi.trips == 1


def test_question_that_is_asked_no_longer_is_forgotten(pi: Machine) -> None:
    bulk = BulkFacts(pi.host)
    ask(bulk, "true")
    keep(bulk)
    pi.run()
    assert pi.trips == 1 + len(QUESTIONS) - 1


def test_file_that_was_cut_off_answers_what_it_has_whole(pi: Machine, file: Path) -> None:
    text = file.read_text()
    file.write_text(text[: text.index("ask ", len(text) // 2) + 90])
    bulk = pi.run()
    assert 1 < pi.trips < 1 + len(QUESTIONS)
    for text in QUESTIONS.values():
        assert ask(bulk, text)[:2] == _alone(pi, text)


def test_change_is_seen_and_what_changes_is_answered_by_nobody_else(
    pi: Machine, tmp_path: Path
) -> None:
    look = f"ls {tmp_path}/made 2>/dev/null"
    bulk = pi.run()
    assert not ask(bulk, look)[0]
    keep(bulk)
    bulk = pi.run()
    assert not ask(bulk, look)[0]
    with bulk.change():
        (tmp_path / "made").touch()
        before = pi.trips
        for _ in range(bulk_facts.ALONE + 2):  # one by one, also where it takes many commands
            ask(bulk, look)
        assert pi.trips == before + bulk_facts.ALONE + 2
    assert ask(bulk, look)[0]


def test_some_questions_after_a_change_all_are_asked_again(pi: Machine) -> None:
    bulk = pi.run()
    with bulk.change():
        pass
    for text in QUESTIONS.values():
        ask(bulk, text)
    assert pi.trips == 1 + bulk_facts.ALONE + 1


def test_what_a_run_has_asked_before_a_change_is_not_asked_again_behind_it(
    pi: Machine, tmp_path: Path
) -> None:
    count = f"echo asked >>{tmp_path}/count"
    bulk = pi.run()
    ask(bulk, count)
    keep(bulk)
    (tmp_path / "count").unlink()
    bulk = BulkFacts(pi.host)
    pi.state.is_executing = True
    ask(bulk, count)
    with bulk.change():
        pass
    for text in QUESTIONS.values():
        ask(bulk, text)
    assert (tmp_path / "count").read_text() == "asked\n"


@pytest.mark.parametrize(("age", "trips"), [(0, 1), (bulk_facts.FRESH + 1, 2)])
def test_run_believes_its_plan_for_a_while(
    pi: Machine, monkeypatch: pytest.MonkeyPatch, age: float, trips: int
) -> None:
    """Who looks at the plan before he agrees may take an hour."""
    bulk = pi.run()
    now = bulk_facts.monotonic() + age
    monkeypatch.setattr(bulk_facts, "monotonic", lambda: now)
    ask(bulk, "echo one")
    pi.state.is_executing = True
    ask(bulk, "echo one")
    ask(bulk, "true")
    assert pi.trips == trips


def test_questions_that_are_shown_are_asked_one_by_one(pi: Machine) -> None:
    pi.run(told=True)
    assert pi.trips == len(QUESTIONS)


def test_what_sends_something_or_runs_otherwise_is_no_question(pi: Machine) -> None:
    bulk = pi.run()
    for arguments in ({"_stdin": "two"}, {"_env": {"line": "two"}}):
        bulk.run_shell_command(StringCommand("true"), **arguments)
    assert pi.trips == 3
    assert bulk.to_keep() is None


def _alone(pi: Machine, text: str) -> tuple[bool, list[str]]:
    done, said = pi.shell.run_shell_command(StringCommand(text))
    return done, said.stdout_lines


def test_answers_wait_in_a_place_of_roots_and_are_gone_afterwards(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = tmp_path / "aside"
    monkeypatch.setattr(deploy_lock, "DIRECTORY", str(aside))
    pi = Machine()
    keep(pi.run())
    look = f"stat -c '%a %n' {aside} {aside}/*"
    bulk = pi.run()
    ask(bulk, look)
    keep(bulk)
    shown = ask(pi.run(), look)[1]
    assert [line.split()[0] for line in shown] in (["700"], ["700", "700"])
    assert list(aside.iterdir()) == []
    assert file.exists()


def test_what_somebody_has_made_of_the_questions_is_not_kept(pi: Machine, file: Path) -> None:
    """Root runs them; the digest of the right ones is what the audit knows."""
    bulk = pi.run()
    assert sha256(file.read_bytes()).hexdigest() == bulk.digest
    file.write_text(file.read_text() + "true # and more\n")
    bulk = pi.run()
    keep(bulk)
    assert "and more" not in file.read_text()
    assert sha256(file.read_bytes()).hexdigest() == bulk.digest


def test_what_is_kept_does_not_depend_on_the_order(pi: Machine, file: Path) -> None:
    before = file.read_text()
    file.unlink()
    bulk = BulkFacts(pi.host)
    for text in reversed(QUESTIONS.values()):
        ask(bulk, text)
    keep(bulk)
    assert file.read_text() == before
