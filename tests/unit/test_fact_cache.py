"""One round trip for what the last deploy asked: the same answers, and none that has aged."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import StringCommand

from celery_pi import fact_cache
from celery_pi.fact_cache import CommandResult, FactCache, NoFact
from tests.helpers.fake import LocalShell, machine

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


class Cache:
    """A run that asks through the cache, as a connector does."""

    def __init__(self, shell: LocalShell) -> None:
        self.shell = shell
        self.facts = FactCache(shell.state, self._run)

    def ask(self, text: str, **arguments: Any) -> tuple[bool, list[str], list[str]]:
        return self.run(StringCommand(text), **arguments)

    def run(self, command: StringCommand, **arguments: Any) -> tuple[bool, list[str], list[str]]:
        answer = self.facts.answer(command, arguments) or self._run(command, arguments)
        return answer[0], answer[1].stdout_lines, answer[1].stderr_lines

    def change(self, command: str = "true") -> None:
        """Run a command that may change something."""
        self.shell.state.is_executing = True
        self.ask(f"{command} # of an operation")

    def _run(self, command: StringCommand, arguments: dict[str, Any]) -> CommandResult:
        return self.shell.run_shell_command(command, **arguments)


class Machine:
    """A shell of this host, which the last deploy has asked all the questions."""

    def __init__(self) -> None:
        self.state, self.host = machine("@local", {})
        self.shell = LocalShell(self.state, self.host)

    def begin(self) -> Cache:
        """Another run."""
        self.state.is_executing = False
        self.shell.executed_commands.clear()
        return Cache(self.shell)

    def plan(self) -> Cache:
        """Another run, which has asked all of them."""
        cache = self.begin()
        for text in QUESTIONS.values():
            cache.ask(text)
        return cache

    @property
    def trips(self) -> int:
        return len(self.shell.executed_commands)


def keep(cache: Cache) -> None:
    kept = cache.facts.to_keep()
    assert kept
    command, text = kept
    assert cache.run(command, _stdin=text)[0]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache/facts"
    monkeypatch.setattr(fact_cache, "FILE", str(path))
    return path


@pytest.fixture
def pi(file: Path) -> Machine:
    pi = Machine()
    keep(pi.plan())
    assert file.stat().st_mode & 0o777 == 0o600
    return pi


@pytest.mark.parametrize("text", QUESTIONS.values(), ids=QUESTIONS)
def test_answer_is_the_one_that_it_has_by_itself(pi: Machine, text: str) -> None:
    cache = pi.plan()
    before = pi.trips
    answer = cache.ask(text)
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
    cache = pi.plan()
    assert pi.trips == 1
    assert cache.facts.to_keep() is None


def test_without_what_was_kept_each_is_asked_by_itself(pi: Machine, file: Path) -> None:
    file.unlink()
    cache = pi.plan()
    assert pi.trips == 1 + len(QUESTIONS)
    assert cache.facts.to_keep()


LOOK_ROUND = r"""
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' |
  grep -oE '\b[0-9a-f]{32}\b' | sort -u | sed 's/.*/forged\n\n& DIGEST 0/'
printf '", "answers": {"DIGEST": [0, "Zm9yZ2Vk", ""]}}\n'
"""


def test_answer_that_looks_like_another_ones_is_none(pi: Machine) -> None:
    """Part of it may come from a user who looks for the marker in what everybody may see."""
    wanted = "echo one"
    forging = LOOK_ROUND.replace("DIGEST", sha256(wanted.encode()).hexdigest())
    cache = pi.plan()
    cache.ask(forging)
    keep(cache)
    cache = pi.begin()
    assert "forged" in cache.ask(forging)[1]
    for text in QUESTIONS.values():
        assert cache.ask(text)[:2] == _alone(pi, text)


def test_who_still_holds_the_output_of_a_question_writes_into_no_other(pi: Machine) -> None:
    hold = "(i=0; while [ $i -lt 40 ]; do sleep 0.02; echo forged; i=$((i + 1)); done) & sleep 0.1"
    slow = [f"sleep 0.1; echo {number}" for number in range(6)]
    for texts in ([hold, *slow], [hold, *slow]):
        cache = pi.begin()
        answers = {text: cache.ask(text)[1] for text in texts}
        assert [answers[text] for text in slow] == [[str(number)] for number in range(6)]
        if pi.trips > 1:
            keep(cache)
    assert pi.trips == 1


def test_question_is_in_no_argument_nor_in_the_environment_of_what_it_runs(pi: Machine) -> None:
    """The other one that is asked at the time may look for processes."""
    look = "tr '\\0' ' ' </proc/$$/cmdline; echo; env; : of-the-test"
    cache = pi.plan()
    cache.ask(look)
    keep(cache)
    shown = pi.begin().ask(look)[1]
    assert pi.trips == 1
    assert len(shown) > 1
    assert "of-the-test" not in "".join(shown)


def test_question_with_a_very_long_answer_is_asked_by_itself(pi: Machine) -> None:
    long = "head -c 9000000 /dev/zero | tr '\\0' x"
    for _ in range(2):
        cache = pi.plan()
        assert len(cache.ask(long)[1][0]) == 9_000_000
        if kept := cache.facts.to_keep():
            assert cache.run(kept[0], _stdin=kept[1])[0]
    assert pi.trips == 2


def test_cache_of_an_earlier_form_is_not_run(pi: Machine, file: Path, tmp_path: Path) -> None:
    """Until the autumn of 2026 it was a script."""
    file.write_text(f"touch {tmp_path}/run\nask {'0' * 64} 'touch {tmp_path}/run'\n")
    keep(pi.plan())
    assert not (tmp_path / "run").exists()
    pi.plan()
    assert pi.trips == 1


def test_new_question_is_asked_by_itself_and_kept(pi: Machine) -> None:
    cache = pi.plan()
    assert cache.ask("echo new") == (True, ["new"], [])
    assert pi.trips == 2
    keep(cache)
    cache = pi.plan()
    cache.ask("echo new")
    assert pi.trips == 1


def test_question_that_is_asked_no_longer_is_forgotten(pi: Machine) -> None:
    cache = pi.begin()
    cache.ask("true")
    keep(cache)
    pi.plan()
    assert pi.trips == 1 + len(QUESTIONS) - 1


def test_file_that_was_cut_off_answers_what_it_has_whole(pi: Machine, file: Path) -> None:
    text = file.read_text()
    file.write_text(text[: text.index("\n", len(text) // 2) + 90])
    cache = pi.plan()
    assert 1 < pi.trips < 1 + len(QUESTIONS)
    for text in QUESTIONS.values():
        assert cache.ask(text)[:2] == _alone(pi, text)


@pytest.mark.parametrize("sent", [None, "input"])
def test_change_is_seen_by_the_next_question(pi: Machine, tmp_path: Path, sent: str | None) -> None:
    look, change = f"ls {tmp_path}/made 2>/dev/null", f"touch {tmp_path}/made"
    cache = pi.plan()
    assert not cache.ask(look)[0]
    keep(cache)
    cache = pi.plan()
    pi.state.is_executing = True
    assert not cache.ask(look)[0]
    cache.ask(change, _stdin=sent)
    for _ in range(fact_cache.SINGLE_FACTS + 2):
        assert cache.ask(look)[0]


def test_command_that_is_told_to_change_no_fact_leaves_the_answers(pi: Machine) -> None:
    cache = pi.plan()
    pi.state.is_executing = True
    for sent in (None, "input"):
        cache.run(NoFact("cat"), _stdin=sent)
    before = pi.trips
    assert cache.ask("echo one")[1] == ["one"]
    assert pi.trips == before


@pytest.mark.parametrize("command", ["true", "false"])
def test_some_questions_after_a_change_all_are_asked_again(pi: Machine, command: str) -> None:
    """Also after one that failed, of an operation with `_ignore_errors`."""
    cache = pi.plan()
    cache.change(command)
    before = pi.trips
    for text in QUESTIONS.values():
        cache.ask(text)
    assert pi.trips == before + fact_cache.SINGLE_FACTS + 1


def test_what_a_run_has_asked_before_a_change_is_not_asked_again_behind_it(
    pi: Machine, tmp_path: Path
) -> None:
    count = f"echo asked >>{tmp_path}/count"
    cache = pi.plan()
    cache.ask(count)
    keep(cache)
    cache = pi.plan()
    cache.ask(count)
    (tmp_path / "count").unlink()
    pi.state.is_executing = True
    cache.ask(count)
    cache.change()
    for text in QUESTIONS.values():
        cache.ask(text)
    assert not (tmp_path / "count").exists()


@pytest.mark.parametrize(("age", "trips"), [(0, 1), (fact_cache.MAX_AGE + 1, 2)])
def test_run_believes_its_plan_for_a_while(
    pi: Machine, monkeypatch: pytest.MonkeyPatch, age: float, trips: int
) -> None:
    """Who looks at the plan before he agrees may take an hour."""
    cache = pi.plan()
    now = fact_cache.monotonic() + age
    monkeypatch.setattr(fact_cache, "monotonic", lambda: now)
    cache.ask("echo one")
    pi.state.is_executing = True
    cache.ask("echo one")
    cache.ask("true")
    assert pi.trips == trips


def test_what_sends_something_or_runs_otherwise_is_no_question(pi: Machine) -> None:
    cache = pi.plan()
    for arguments in ({"_stdin": "two"}, {"_env": {"line": "two"}}):
        cache.ask("true", **arguments)
    assert pi.trips == 3
    assert cache.facts.to_keep() is None


def _alone(pi: Machine, text: str) -> tuple[bool, list[str]]:
    done, said = pi.shell.run_shell_command(StringCommand(text))
    return done, said.stdout_lines


def test_what_somebody_has_made_of_the_questions_is_not_kept(pi: Machine, file: Path) -> None:
    """Root runs them; the digest of the right ones is what the audit knows."""
    cache = pi.plan()
    assert sha256(file.read_bytes()).hexdigest() == cache.facts.digest
    file.write_text(file.read_text() + "true # and more\n")
    cache = pi.plan()
    keep(cache)
    assert "and more" not in file.read_text()
    assert sha256(file.read_bytes()).hexdigest() == cache.facts.digest


def test_what_is_kept_does_not_depend_on_the_order(pi: Machine, file: Path) -> None:
    before = file.read_text()
    file.unlink()
    cache = pi.begin()
    for text in reversed(QUESTIONS.values()):
        cache.ask(text)
    keep(cache)
    assert file.read_text() == before
