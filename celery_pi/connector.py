"""pyinfra's connectors `docker` and `ssh` with one process on the machine for a whole run.

pyinfra starts a process for each command: 65 ms over docker; over ssh a channel, a login of sudo
and two lines in the journal. A first deploy runs 150 commands. With these connectors one program
runs them all, each in a shell of its own, so that none sees what another one left behind.

They are registered in the entry point group `pyinfra.connectors` by `celery_pi-*.dist-info`, which
lies beside this package. pyinfra keeps the last connector of a name in the order of `sys.path`
(`pyinfra/api/connectors.py`, `get_all_connectors`), and its command appends the working directory
to that (`pyinfra_cli/main.py`, `main`), so these replace its own. Where they do not, each command
costs a process, and nothing else changes.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast
from uuid import uuid4

import paramiko
from gevent.subprocess import PIPE, Popen
from pyinfra.api import StringCommand
from pyinfra.connectors.base import BaseConnector
from pyinfra.connectors.docker import DockerConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine, make_unix_command_for_host

from celery_pi.fact_cache import FactCache, output_lines, session_program

CommandResult = tuple[bool, CommandOutput]
Streams = tuple[IO[bytes], IO[bytes], IO[bytes]]  # of standard input, output and error

MAX_OUTPUT = 64 * 2**20  # bytes of one command; a machine in other hands may never end
MAX_LINE, MAX_LINES = 4096, 1000  # of what is no output of a command
LOST = "the connection to the machine was lost in the midst of this command"
NOT_SHARED = {"_timeout", "_get_pty"}  # a command with one of these needs a process of its own
PER_COMMAND = {"_stdin", "_success_exit_codes"}  # arguments that may differ between commands


class ShellSession:
    """The shell of one host, started with the first command.

    It runs one command at a time, for the user and in the environment of the first.
    """

    def __init__(self, connector: BaseConnector, start: Callable[[str], Streams]) -> None:
        """`start` runs a command line on the machine and returns its streams."""
        self._connector, self._start_process = connector, start
        self._arguments: dict[str, Any] | None = None
        self._streams: Streams | None = None
        self._is_busy = False

    def run(self, command: StringCommand, arguments: dict[str, Any]) -> CommandResult | None:
        """Run the command; whether it succeeded, and its output.

        Returns None, and has not run the command, if this shell cannot: it is busy or lost, or the
        command needs a timeout, a terminal, another user or another environment. Raises OSError if
        the output exceeds `MAX_OUTPUT` bytes.
        """
        stdin, good_statuses = (
            arguments.get("_stdin") or "",
            arguments.get("_success_exit_codes") or [0],
        )
        shell_arguments = {
            key: value for key, value in arguments.items() if value and key not in PER_COMMAND
        }
        if self._is_busy or not isinstance(stdin, str) or NOT_SHARED & shell_arguments.keys():
            return None
        with self._busy():
            if self._arguments is None:
                self._arguments = shell_arguments
                self._start(shell_arguments)
            if self._streams is None or shell_arguments != self._arguments:
                return None
            status, output = self._exchange(_message(command.get_raw_value(), stdin))
            return status in good_statuses, output

    def close(self) -> None:
        """End the shell as soon as the command that it runs has ended."""
        if self._streams:
            with suppress(OSError):  # it has ended by itself
                self._streams[0].close()
        self._streams = None

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _start(self, shell_arguments: dict[str, Any]) -> None:
        """Start the program. If it does not start, pyinfra runs each command and reports why."""
        state, host = self._connector.state, self._connector.host
        line = make_unix_command_for_host(
            state, host, session_program("session"), **shell_arguments
        ).get_raw_value()
        stdin, stdout, stderr = self._start_process(line)
        # What a shell prints first, such as of ~/.bashrc, is none of it.
        first = f"{uuid4().hex}\n".encode()
        with suppress(OSError):  # it has ended, and so does its output
            stdin.write(first)
            stdin.flush()
        for _ in range(MAX_LINES):
            if (printed := stdout.readline(MAX_LINE)) == first:
                self._streams = stdin, stdout, stderr
            if printed in (first, b""):
                return

    def _exchange(self, message: bytes) -> tuple[int | None, CommandOutput]:
        """Send the message; the exit status of the command and its output, or None if the shell is
        lost. Raises OSError for more than `MAX_OUTPUT` bytes of output."""
        streams, self._streams = self._streams, None  # until it is known that they still serve
        assert streams
        stdin, stdout, _ = streams
        with suppress(OSError):  # it has ended, and so does its output
            stdin.write(message)
            stdin.flush()
        blocks: dict[str, list[bytes]] = {"out": [], "err": []}
        size = 0
        while (line := stdout.readline(MAX_LINE)) and (header := _header(line)):
            name, number = header
            if name == "end":
                self._streams = streams
                return number, _output(blocks)
            size += number
            if size > MAX_OUTPUT:
                host, limit = self._connector.host.name, MAX_OUTPUT >> 20
                raise OSError(f"{host} sent more than {limit} MiB in one command")
            blocks[name].append(stdout.read(number))
        output = _output(blocks)
        return None, CommandOutput([*output.combined_lines, OutputLine("stderr", LOST)])


def _header(line: bytes) -> tuple[str, int] | None:
    """What comes next, and its size; or how the command has ended, and its status."""
    match = re.fullmatch(rb"(out|err|end) ([0-9]{1,9})\n", line)
    return (match[1].decode(), int(match[2])) if match else None


def _output(blocks_by_name: dict[str, list[bytes]]) -> CommandOutput:
    out, err = (b"".join(blocks) for blocks in blocks_by_name.values())
    return CommandOutput(output_lines(out, err))


def _message(text: str, stdin: str) -> bytes:
    if stdin and not stdin.endswith("\n"):
        stdin += "\n"  # as pyinfra does
    command, data = text.encode(), stdin.encode()
    return f"{len(command)} {len(data)}\n".encode() + command + data


class PersistentShell(BaseConnector):
    """What both connectors have in common. What `-vv` and `-vvv` show is run by pyinfra itself."""

    shell: ShellSession | None = None
    facts: FactCache | None = None

    def start_process(self, line: str) -> Streams:
        """Run a command line on the machine."""
        raise NotImplementedError

    def connect(self) -> None:
        super().connect()
        self.shell = ShellSession(self, self.start_process)

    def cache_facts(self) -> None:
        """From here on use the fact cache: for a deploy of ours, which asks all that it knows."""
        self.facts = self.facts or FactCache(self.state, self._run)

    def disconnect(self) -> None:
        if self.shell:
            self.shell.close()
        self.shell = self.facts = None
        super().disconnect()

    def run_shell_command(
        self,
        command: StringCommand | str,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> CommandResult:
        """Like pyinfra's: whether the command succeeded, and its output."""
        if isinstance(command, str):
            command = StringCommand(command)
        if print_output or print_input:
            if self.facts:
                self.facts.drop()
            return self._run_by_itself(command, print_output, print_input, **arguments)
        cached = self.facts.answer(command, arguments) if self.facts else None
        return cached or self._run(command, arguments)

    def put_file(self, *arguments: Any, **more: Any) -> bool:
        if self.facts:
            self.facts.drop()
        return super().put_file(*arguments, **more)  # type: ignore[safe-super]

    def _run(self, command: StringCommand, arguments: dict[str, Any]) -> CommandResult:
        answer = self.shell.run(command, arguments) if self.shell else None
        return answer or self._run_by_itself(command, **arguments)

    def _run_by_itself(self, *arguments: Any, **more: Any) -> CommandResult:
        return super().run_shell_command(*arguments, **more)  # type: ignore[safe-super]


class Docker(PersistentShell, DockerConnector):
    """A container, such as the virtual Pi: `@docker/NAME`."""

    def start_process(self, line: str) -> Streams:
        command = (self.docker_cmd, "exec", "-i", self.container_id, "sh", "-c", line)
        process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        return process.stdin, process.stdout, process.stderr


class Ssh(PersistentShell, SSHConnector):
    """A machine that is reached over ssh."""

    def start_process(self, line: str) -> Streams:
        assert self.client
        transport = self.client.get_transport()
        assert transport
        channel = transport.open_session()
        channel.exec_command(line)
        streams = (
            channel.makefile_stdin("wb"),
            channel.makefile("rb"),
            channel.makefile_stderr("rb"),
        )
        return cast("Streams", streams)

    def make_paramiko_kwargs(self) -> dict[str, Any]:
        """pyinfra's, with a transport that sends small packets at once."""
        return {**super().make_paramiko_kwargs(), "transport_factory": undelayed_transport}


def undelayed_transport(sock: Any, **kwargs: Any) -> paramiko.Transport:
    """Transport that sends small packets at once.

    paramiko leaves Nagle's algorithm on, so each command waits for the Pi's delayed
    acknowledgement: 100 unchanged files take 16 s instead of 2.5 s. Through a jump host
    (`ProxyJump`, `ProxyCommand`) there is no socket of ours to set it on.
    """
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return paramiko.Transport(sock, **kwargs)
