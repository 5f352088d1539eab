"""A cache of facts: what the last deploy asked the machine, asked again in one round trip.

A plan has some eighty facts, and each costs a round trip; a no-op deploy takes three times as long
without this cache (measured: docs/decisions/connector.md). The commands of the last whole deploy
are kept on the Pi, and the first fact of a run has all of them run. An answer is used for a command
that is the same to the letter, and until a command runs that is none of them. Root runs the file,
so its digest is among those of our files, and the audit reports a change of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pyinfra.api import QuoteString, StringCommand
from pyinfra.connectors.util import CommandOutput, OutputLine

from celery_pi.deploys import lock
from celery_pi.shell import assign, script

if TYPE_CHECKING:
    from pyinfra.api import State

FILE = "/var/cache/celery-pi/facts"  # a cache: without it a deploy is slower
MAX_AGE = 10  # seconds for which the answers of a plan are good for the run that follows it
SINGLE_FACTS = (
    3  # facts after a change that are asked by themselves, since the next change may be near
)
Answer = tuple[bool, CommandOutput]
Run = Callable[[StringCommand, dict[str, Any]], Answer]


class NoFact(StringCommand):
    """A command that changes nothing a fact reads, such as those of lock and record."""


ASK = script("fact_cache_ask")
ASK_ALL = script("fact_cache_ask_all")
KEEP = script("fact_cache_keep")


class FactCache:
    """The answers of one host to the facts of one run."""

    def __init__(self, state: State, run: Run) -> None:
        """`run` runs a command with pyinfra's connector arguments."""
        self._state, self._run = state, run
        self._arguments: dict[str, Any] = {}
        self._answers: dict[str, Answer] | None = None
        self._answered = 0.0
        self._kept = ""
        self._asked: dict[str, str] = {}
        self._known: set[str] = set()
        self._done: set[str] = set()
        self._alone = 0
        self._is_executing = False

    def answer(self, command: StringCommand, arguments: dict[str, Any]) -> Answer | None:
        """The answer to the command if it is a fact; None if it has to be run.

        Whatever is run and is no fact may change the machine: the answers are dropped. While
        pyinfra plans, all commands are facts. While it executes, those that were asked before are.
        """
        if isinstance(command, NoFact):
            return None
        if arguments.get("_stdin"):
            self.drop()
            return None
        answers = self._present_answers(arguments)
        digest = hashlib.sha256(command.get_raw_value().encode()).hexdigest()
        is_alike = arguments == self._arguments
        if is_alike and (not self._is_executing or digest in self._known):
            self._asked[digest] = command.get_raw_value()
            self._known.add(digest)
            if self._is_executing:
                self._done.add(digest)
            return answers.get(digest)
        self.drop()
        return None

    def drop(self) -> None:
        """The answers hold no longer, if pyinfra executes: something may have been changed."""
        if self._state.is_executing:
            self._answers, self._alone = None, SINGLE_FACTS

    def to_keep(self) -> tuple[StringCommand, str] | None:
        """Command that keeps the facts of this run, and its standard input; None if they are kept
        already."""
        if not self._asked or self.digest == self._kept:
            return None
        return NoFact(assign(file=FILE), KEEP), self._text

    @property
    def digest(self) -> str:
        """SHA-256 of the file once `to_keep` has been run; empty if there is nothing to keep."""
        return hashlib.sha256(self._text.encode()).hexdigest() if self._asked else ""

    @property
    def _text(self) -> str:
        """The same in whatever order the run has asked."""
        asked = (
            StringCommand("ask", digest, QuoteString(text)).get_raw_value()
            for digest, text in sorted(self._asked.items())
        )
        return "\n".join([ASK, *asked, ""])

    def _present_answers(self, arguments: dict[str, Any]) -> dict[str, Answer]:
        if self._state.is_executing and not self._is_executing:
            self._is_executing = True
            if monotonic() - self._answered > MAX_AGE:
                self._answers = None
        if self._answers is None:
            if self._alone:
                self._alone -= 1
                return {}
            self._arguments = arguments
            self._answers = self._ask_all()
            self._known |= self._answers.keys()
            self._answered = monotonic()
        return self._answers

    def _ask_all(self) -> dict[str, Answer]:
        end = uuid4().hex
        values = assign(file=FILE, directory=lock.DIRECTORY, end=end, known=",".join(self._done))
        _, output = self._run(NoFact(values, ASK_ALL), self._arguments)
        self._kept = next(iter(output.stdout_lines), "").partition(" ")[0]
        out = _parts(output.stdout_lines[1:], end)
        errors = _parts(output.stderr_lines, end)
        answers = {}
        for (said, (digest, status)), (complaints, _) in zip(out, errors, strict=False):
            lines = [OutputLine("stdout", line) for line in said]
            lines += [OutputLine("stderr", line) for line in complaints]
            answers[digest] = (status == "0", CommandOutput(lines))
        return answers


def _parts(lines: list[str], end: str) -> Iterator[tuple[list[str], list[str]]]:
    """Lines before each that begins with `end`, and the words after it."""
    part: list[str] = []
    for line in lines:
        if line.startswith(end):
            # The line break before the end is an empty line only where the one before was ended.
            yield part[:-1] if part and not part[-1] else part, line.split()[1:]
            part = []
        else:
            part.append(line)
