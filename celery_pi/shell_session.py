"""One shell on the machine for all commands of a run, where pyinfra starts one for each.

To start one takes 65 ms over docker; over ssh it is a channel, and of sudo a login and two lines in
the journal. A first deploy runs 150 commands. Here, too, each is run by a shell of its own, and
finds what it would find by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast
from uuid import uuid4

import gevent
from gevent.subprocess import PIPE, Popen
from pyinfra.api import StringCommand
from pyinfra.connectors.docker import DockerConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine, make_unix_command_for_host

from celery_pi.remote import assign

if TYPE_CHECKING:
    from paramiko import SSHClient, Transport
    from pyinfra.api.host import Host
    from pyinfra.connectors.base import BaseConnector

Answer = tuple[bool, CommandOutput]
Streams = tuple[IO[bytes], IO[bytes], IO[bytes]]  # of standard input, output and error

# Of each command come a line with the sizes of its text and of its input, in bytes, and then both.
# What it leaves of its input is thrown away. A line on each way out ends what it says.
LOOP = r"""
finish() {
  printf '\n%s %s\n' "$end" "$1"
  printf '\n%s\n' "$end" >&2
}
finish 0
while read -r size sent; do
  asked=$(head -c "$size"; echo .)
  head -c "$sent" | {
    sh -c "${asked%.}"
    status=$?
    cat >/dev/null
    exit "$status"
  }
  finish "$?"
done
"""

MOST = 64 * 2**20  # bytes that one command may say; a machine in other hands may never end
LOST = "the connection to the machine was lost in the midst of this command"
BY_THEMSELVES = {"_timeout", "_get_pty"}  # are run the commands that are given these
OF_ONE = {"_stdin", "_success_exit_codes"}  # and not of all


class ShellSession:
    """The shell of one host, started when it is first asked.

    It runs one command at a time, for the user and in the environment of the first.
    """

    def __init__(self, host: Host, connector: BaseConnector) -> None:
        self._host, self._connector = host, connector
        self._end = uuid4().hex
        self._arguments: dict[str, Any] | None = None
        self._streams: Streams | None = None
        self._is_busy = False

    def run(self, command: StringCommand, arguments: dict[str, Any]) -> Answer | None:
        """Whether the command succeeded, and what it printed.

        None when it is none for this shell: it has not been run.
        """
        sent, good = arguments.get("_stdin") or "", arguments.get("_success_exit_codes") or [0]
        given = {key: value for key, value in arguments.items() if value and key not in OF_ONE}
        if self._is_busy or not isinstance(sent, str) or BY_THEMSELVES & given.keys():
            return None
        with self._busy():
            if self._arguments is None:
                self._arguments = given
                self._start(given)
            if self._streams is None or given != self._arguments:
                return None
            status, output = self._answer(_message(command.get_raw_value(), sent))
            return status in good, output

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _start(self, given: dict[str, Any]) -> None:
        """Where that cannot be, each command goes by itself, and pyinfra tells what is wrong."""
        loop = make_unix_command_for_host(
            self._connector.state,
            self._host,
            StringCommand(assign(end=self._end), LOOP),
            **given,
        ).get_raw_value()
        if isinstance(self._connector, DockerConnector):
            reach = (self._connector.docker_cmd, "exec", "-i", self._connector.container_id)
            process = Popen((*reach, "sh", "-c", loop), stdin=PIPE, stdout=PIPE, stderr=PIPE)
            self._streams = process.stdin, process.stdout, process.stderr
        elif isinstance(self._connector, SSHConnector):
            transport = cast("SSHClient", self._connector.client).get_transport()
            channel = cast("Transport", transport).open_session()
            channel.exec_command(loop)
            outs = channel.makefile("rb"), channel.makefile_stderr("rb")
            self._streams = cast("Streams", (channel.makefile_stdin("wb"), *outs))
        if self._streams:
            self._answer()

    def _answer(self, message: bytes = b"") -> tuple[int | None, CommandOutput]:
        """The next status, None if none comes, and what is said up to it, to this message."""
        streams, self._streams = self._streams, None  # until it is known that they still serve
        assert streams
        to, *ways = streams
        lines: list[OutputLine] = []
        readers = [
            gevent.spawn(self._read, name, way, lines)
            for name, way in zip(("stdout", "stderr"), ways, strict=True)
        ]
        with suppress(OSError):  # it has ended, and so do the readers
            to.write(message)
            to.flush()
        gevent.joinall(readers, raise_error=True)
        ends = [reader.value for reader in readers]
        if None in ends:
            lines.append(OutputLine("stderr", LOST))
            return None, CommandOutput(lines)
        self._streams = streams
        return int(ends[0]), CommandOutput(lines)

    def _read(self, name: str, way: IO[bytes], lines: list[OutputLine]) -> str | None:
        """Read lines up to the end, and what stands last in that; None if none came.

        Raises OSError when there is no end within MOST bytes.
        """
        is_empty = False  # the line before: the command's, or of the end
        size = 0
        for raw in iter(lambda: way.readline(MOST), b""):
            size += len(raw)
            if size >= MOST:
                raise OSError(f"{self._host.name} says more than {MOST >> 20} MiB to one command")
            line = raw.decode(errors="replace").rstrip("\n")
            if line.startswith(self._end):
                return line.split()[-1]
            if is_empty:
                lines.append(OutputLine(name, ""))
            is_empty = not line
            if line:
                lines.append(OutputLine(name, line))
        return None


def _message(text: str, sent: str) -> bytes:
    if sent and not sent.endswith("\n"):
        sent += "\n"  # as pyinfra does
    asked, given = text.encode(), sent.encode()
    return f"{len(asked)} {len(given)}\n".encode() + asked + given
