"""A cache of facts: the facts that the last deploy read, all read again in one round trip.

A plan has some eighty facts, and each costs a round trip; a no-op deploy takes three times as long
without this cache (measured: docs/decisions/connector.md). The commands of the last whole deploy
are kept on the Pi, and the first fact of a run has all of them run. An answer is used for a command
that is the same to the letter, and until a command runs that is none of them. Root runs the file,
so its digest is among those of our files, and the audit reports a change of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pyinfra import logger
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.connectors.util import CommandOutput, OutputLine

from celery_pi.shell import assign, python_program, script

if TYPE_CHECKING:
    from pyinfra.api import State

FILE = "/var/cache/celery-pi/facts"  # a cache: without it a deploy is slower
MAX_AGE = 10  # seconds for which the answers of a plan are good for the run that follows it
SINGLE_FACTS = 3  # facts that are read singly after a change, since the next one may be near
CommandResult = tuple[bool, CommandOutput]
Run = Callable[[StringCommand, dict[str, Any]], CommandResult]


def session_program(*words: str) -> StringCommand:
    """Command that runs `on_the_pi/shell_session.py`, which explains the words."""
    path = Path(__file__).parent / "on_the_pi/shell_session.py"
    return python_program(path.read_text(encoding="utf-8"), *words)


class NoFact(StringCommand):
    """A command that changes nothing a fact reads, such as those of lock and record."""


KEEP = script("fact_cache_keep")


class FactCache:
    """The answers of one host to the facts of one run."""

    def __init__(self, state: State, run: Run) -> None:
        """`run` runs a command with pyinfra's connector arguments."""
        self._state, self._run = state, run
        self._arguments: dict[str, Any] = {}
        self._answers: dict[str, CommandResult] | None = None
        self._answered = 0.0
        self._stored_digest = ""
        self._commands: dict[str, str] = {}
        self._facts: set[str] = set()
        self._executed: set[str] = set()
        self._single_facts_left = 0
        self._is_executing = False

    def answer(self, command: StringCommand, arguments: dict[str, Any]) -> CommandResult | None:
        """The answer to the command if it is a fact; None if it has to be run.

        Whatever is run and is no fact may change the machine: the answers are dropped. While
        pyinfra plans, all commands are facts. While it executes, those that were read before are.
        """
        if isinstance(command, NoFact):
            return None
        if arguments.get("_stdin"):
            self.drop()
            return None
        answers = self._present_answers(arguments)
        digest = hashlib.sha256(command.get_raw_value().encode()).hexdigest()
        is_alike = arguments == self._arguments
        if is_alike and (not self._is_executing or digest in self._facts):
            self._commands[digest] = command.get_raw_value()
            self._facts.add(digest)
            if self._is_executing:
                self._executed.add(digest)
            return answers.get(digest)
        self.drop()
        return None

    def drop(self) -> None:
        """The answers hold no longer, if pyinfra executes: something may have been changed."""
        if self._state.is_executing:
            self._answers, self._single_facts_left = None, SINGLE_FACTS

    def to_keep(self) -> tuple[StringCommand, str] | None:
        """Command that keeps the facts of this run, and its standard input; None if they are kept
        already."""
        if not self._commands or self.digest == self._stored_digest:
            return None
        return NoFact(assign(file=FILE), KEEP), self._text

    @property
    def digest(self) -> str:
        """SHA-256 of the file once `to_keep` has been run; empty if there is nothing to keep."""
        return hashlib.sha256(self._text.encode()).hexdigest() if self._commands else ""

    @property
    def _text(self) -> str:
        """A line each, the same in whatever order the run has read them."""
        commands = sorted(self._commands.items())
        return "".join(f"{digest} {json.dumps(text)}\n" for digest, text in commands)

    def _present_answers(self, arguments: dict[str, Any]) -> dict[str, CommandResult]:
        if self._state.is_executing and not self._is_executing:
            self._is_executing = True
            if monotonic() - self._answered > MAX_AGE:
                self._answers = None
        if self._answers is None:
            if self._single_facts_left:
                self._single_facts_left -= 1
                return {}
            self._arguments = arguments
            self._answers = self._run_all()
            self._facts |= self._answers.keys()
            self._answered = monotonic()
        return self._answers

    def _run_all(self) -> dict[str, CommandResult]:
        """The answers by digest. Raises PyinfraError for what is not of the form of ours."""
        program = session_program("facts", FILE, *sorted(self._executed))
        command = NoFact(assign(file=FILE), '[ ! -e "$file" ] ||', program)
        succeeded, output = self._run(command, self._arguments)
        if not output.stdout_lines:
            self._stored_digest = ""
            if not succeeded:
                logger.warning(f"the cache of facts gives no answers: {output.stderr}")
            return {}
        try:
            reply = json.loads(output.stdout_lines[-1])
            self._stored_digest = str(reply["file"])
            return {digest: _answer(*answer) for digest, answer in reply["answers"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PyinfraError(f"the cache of facts gives no answers: {error!r}") from error


def _answer(status: int, out: str, err: str) -> CommandResult:
    lines = output_lines(base64.b64decode(out), base64.b64decode(err))
    return status == 0, CommandOutput(lines)


def output_lines(out: bytes, err: bytes) -> list[OutputLine]:
    """Lines of standard output and error, as pyinfra has them."""
    return [
        OutputLine(name, line)
        for name, text in (("stdout", out), ("stderr", err))
        for line in text.decode(errors="replace").removesuffix("\n").split("\n")
        if text
    ]
