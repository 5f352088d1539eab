"""What the last deploy asked the machine while it planned, asked again in one round trip.

A plan asks some seventy questions, and each costs a process and a way there and back. The commands
of the last whole deploy are kept on the Pi, and the first question of a run has all of them
answered; a question that was not among them is asked by itself. An answer is taken for a command
that is the same to the letter, and until something is changed. Root runs what is kept, so its
digest is among those of our files, and what somebody has made of it is told by the audit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from pyinfra.api import QuoteString, StringCommand
from pyinfra.connectors.util import CommandOutput, OutputLine

from celery_pi import deploy_lock
from celery_pi.remote import assign
from celery_pi.shell_session import ShellSession

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.connectors.base import BaseConnector

FILE = "/var/cache/celery-pi/facts"  # a cache: without it a deploy is slower
FRESH = 10  # seconds for which what a plan was told is good for the run that follows it
ALONE = 3  # questions after a change that are asked by themselves, for the next may be near
BULK = "celery_pi_bulk_facts"
Answer = tuple[bool, CommandOutput]

# Each in a shell of its own, which sees no arguments and no input, as it would by itself. Then a
# line that ends its answer on standard output, and one on standard error. What this run has asked
# already is left out; it is rarely asked again. One of two that work beside each other asks every
# other question.
ASK = r"""ask() {
  celery_pi_turn=$((1 - celery_pi_turn))
  case $celery_pi_part in $celery_pi_turn | "") ;; *) return ;; esac
  case $celery_pi_done in *$1*) return ;; esac
  celery_pi_digest=$1 celery_pi_asked=$2
  set --
  (eval "$celery_pi_asked") </dev/null
  celery_pi_status=$?
  printf '\n%s %s %s\n' "$celery_pi_end" "$celery_pi_digest" "$celery_pi_status"
  printf '\n%s\n' "$celery_pi_end" >&2
}
celery_pi_end=$1 celery_pi_done=${2-} celery_pi_part=${3-} celery_pi_turn=0
"""

# First the digest of what is kept. Answers may hold secrets, so they wait in memory.
ASK_ALL = r"""
[ -e "$file" ] || exit 0
sha256sum <"$file"
umask 077
mkdir -p "$directory"
aside=$(mktemp -d "$directory/facts.XXXXXX") || exit 1
trap 'rm -r "$aside"' EXIT
umask 022
sh "$file" "$end" "$known" 1 >"$aside/out" 2>"$aside/err" </dev/null &
sh "$file" "$end" "$known" 0
wait
cat "$aside/out"
cat "$aside/err" >&2
"""

KEEP = r"""
set -e
umask 022; mkdir -p "${file%/*}"
umask 077
cat >"$file.new"
mv "$file.new" "$file"
"""


class BulkFacts:
    """A host's connector, which knows the answers to what the last deploy asked."""

    def __init__(self, host: Host) -> None:
        self._host, self._connector = host, host.connector
        self._shell = ShellSession(host, host.connector)
        self._arguments: dict[str, Any] = {}
        self._answers: dict[str, Answer] | None = None
        self._answered = 0.0
        self._kept = ""
        self._asked: dict[str, str] = {}
        self._done: set[str] = set()
        self._alone = 0
        self._is_changing = self._is_executing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connector, name)

    def run_shell_command(
        self,
        command: StringCommand | str,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> Answer:
        """Like pyinfra's: whether the command succeeded, and what it printed."""
        told = print_output or print_input  # at -vvv each question is shown with its answer
        if not (told or arguments.get("_stdin") or self._is_changing):
            answers = self._present_answers(arguments)
            if arguments == self._arguments:
                asked = StringCommand(command).get_raw_value()
                digest = hashlib.sha256(asked.encode()).hexdigest()
                self._asked[digest] = asked
                if self._is_executing:
                    self._done.add(digest)
                if digest in answers:
                    return answers[digest]
        return self.tell(command, print_output, print_input, **arguments)

    def tell(self, command: StringCommand | str, *told: bool, **arguments: Any) -> Answer:
        """The same, for what is no question of a plan."""
        command = StringCommand(command)
        answer = None if any(told) else self._shell.run(command, arguments)
        return answer or self._connector.run_shell_command(command, *told, **arguments)

    @contextmanager
    def change(self) -> Iterator[None]:
        """For the time of a command that may change things: the answers hold no longer."""
        self._answers, self._alone, self._is_changing = None, ALONE, True
        yield
        self._is_changing = False

    def to_keep(self) -> tuple[StringCommand, str] | None:
        """Command that keeps what this run has asked, and its standard input; nothing when it is
        what was kept."""
        if not self._asked or self.digest == self._kept:
            return None
        return StringCommand(assign(file=FILE), KEEP), self._text

    @property
    def digest(self) -> str:
        """SHA-256 of what is kept once `to_keep` has been run; of nothing, none."""
        return hashlib.sha256(self._text.encode()).hexdigest() if self._asked else ""

    @property
    def _text(self) -> str:
        """The same whatever the order was in which the run has asked."""
        asked = (
            StringCommand("ask", digest, QuoteString(text)).get_raw_value()
            for digest, text in sorted(self._asked.items())
        )
        return "\n".join([ASK, *asked, ""])

    def _present_answers(self, arguments: dict[str, Any]) -> dict[str, Answer]:
        if self._host.state.is_executing and not self._is_executing:
            self._is_executing = True
            if monotonic() - self._answered > FRESH:
                self._answers = None
        if self._answers is None:
            if self._alone:
                self._alone -= 1
                return {}
            self._arguments = arguments
            self._answers = self._ask_all()
            self._answered = monotonic()
        return self._answers

    def _ask_all(self) -> dict[str, Answer]:
        end = uuid4().hex
        values = assign(
            file=FILE, directory=deploy_lock.DIRECTORY, end=end, known=",".join(self._done)
        )
        _, output = self.tell(StringCommand(values, ASK_ALL), **self._arguments)
        self._kept = next(iter(output.stdout_lines), "").partition(" ")[0]
        out = _parts(output.stdout_lines[1:], end)
        errors = _parts(output.stderr_lines, end)
        answers = {}
        for (said, (digest, status)), (complaints, _) in zip(out, errors, strict=False):
            lines = [OutputLine("stdout", line) for line in said]
            lines += [OutputLine("stderr", line) for line in complaints]
            answers[digest] = (status == "0", CommandOutput(lines))
        return answers


def bulk_facts(host: Host) -> BulkFacts:
    """The host's connector, made to be one of these by the first call."""
    if BULK not in host.connector_data:
        host.connector_data[BULK] = BulkFacts(host)
        host.connector = cast("BaseConnector", host.connector_data[BULK])
    return cast("BulkFacts", host.connector_data[BULK])


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
