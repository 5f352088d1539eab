"""pyinfra in this process, so that operations are tested in milliseconds and without a Pi.

What an operation sends to its machine is run for real by a local shell, or answered from a
script; a test looks at what came of it: files, calls of stand-in programs, what was shown.
"""

from __future__ import annotations

import logging
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gevent.subprocess import PIPE, Popen
from pyinfra.api import Config, Host, Inventory, StringCommand, inventory, output
from pyinfra.api import State as PyinfraState
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from pyinfra.connectors.fake import FakeConnector
from pyinfra.connectors.local import LocalConnector
from pyinfra.connectors.util import CommandOutput, OutputLine, make_unix_command_for_host
from pyinfra.context import ctx_host, ctx_state

from celery_pi.connector import PersistentShell, Streams

# A machine's answer to preflight, which asks pip for the app's packages.
PIP_AGREES = {"/usr/share/python-wheels": ["{}", "pip 0"]}
ME = pwd.getpwuid(os.getuid()).pw_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@dataclass
class Run:
    """What one run of pyinfra planned, did and showed at `-vvv --diff`."""

    planned: list[bool] = field(default_factory=list)
    """For each operation, whether the plan says that it changes something."""
    changed: list[bool] = field(default_factory=list)
    """For each operation, whether it did."""
    names: list[str] = field(default_factory=list)
    """Of the operations, in their order."""
    commands: list[str] = field(default_factory=list)
    """Every command as its shell got it; facts are among them."""
    shown: str = ""
    error: str = ""


class LocalShell(LocalConnector):
    """pyinfra's own connector to this machine, but quick: without gevent's processes."""

    def __init__(self, state: PyinfraState, host: Host) -> None:
        super().__init__(state, host)
        self.executed_commands: list[str] = []

    def run_shell_command(
        self,
        command: StringCommand,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> tuple[bool, CommandOutput]:
        self.executed_commands.append(command.get_raw_value())
        sent = arguments.pop("_stdin", None) or ""
        for control in ("_get_pty", "_timeout", "_success_exit_codes"):
            arguments.pop(control, None)
        line = make_unix_command_for_host(self.state, self.host, command, **arguments)
        if print_input:
            output.echo(f">>> {line}")
        ran = subprocess.run(
            ["sh", "-c", line.get_raw_value()],
            input=sent,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        said = [OutputLine("stdout", text) for text in ran.stdout.splitlines()]
        said += [OutputLine("stderr", text) for text in ran.stderr.splitlines()]
        if print_output:
            output.echo("\n".join(line.line for line in said))
        return ran.returncode == 0, CommandOutput(said)


class Cached(PersistentShell, LocalShell):
    """The same with the shell and the cache of facts that our connectors have."""

    def start_process(self, line: str) -> Streams:
        process = Popen(["sh", "-c", line], stdin=PIPE, stdout=PIPE, stderr=PIPE)
        return process.stdin, process.stdout, process.stderr


def run(
    task: Callable[[], object],
    *,
    answers: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    dry: bool = False,
) -> Run:
    """Run a task, which calls operations, on a machine of one's own: this one, or with `answers`
    one that gives them. A failed operation is told in `error`; a refusal to plan is raised."""
    scripted = {"fake_responses": answers, "fake_delay": 0, "fake_delay_jitter": 0}
    state, host = machine("@local" if answers is None else "@fake", {**scripted, **(data or {})})
    state.print_input = state.print_output = state.print_noop_info = True
    state.print_fact_info = state.print_fact_input = state.print_fact_output = True
    connector = LocalShell(state, host) if answers is None else FakeConnector(state, host)
    host.connector = connector
    done = Run(commands=connector.executed_commands)
    with _listening() as heard:
        try:
            connect_all(state)
            add_op(state, task)
            done.names = [", ".join(state.get_op_meta(key).names) for key in host.op_hash_order]
            done.planned = [bool(op.operation_meta.will_change) for op in state.ops[host].values()]
            if not dry:
                done.error = _execute(state)
                done.changed = [
                    op.operation_meta.is_complete() and op.operation_meta.did_change()
                    for op in state.ops[host].values()
                ]
        finally:
            disconnect_all(state)  # as the command line does
            ctx_state.reset()  # pyinfra leaves them set when something was raised
            ctx_host.reset()
            done.shown = "\n".join(heard)
    return done


def sh(command: StringCommand) -> list[str]:
    """Lines that a fact's command gives here; the command must succeed."""
    done, said = LocalShell(*machine("@local", {})).run_shell_command(command)
    assert done, said.output
    return said.stdout_lines


class Programs:
    """Stand-ins for programs that a test must not or cannot run; first on PATH."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.log = directory / "calls"
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")

    def add(self, name: str, script: str = "") -> None:
        """A program that notes its call, then does what the shell script says."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        """The calls since they were last asked for."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


def inode(path: Path) -> tuple[int, int]:
    """Changes whenever the file was replaced or written."""
    seen = path.stat()
    return seen.st_ino, seen.st_mtime_ns


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# pyinfra looks through all installed packages for its connectors, for each inventory anew.
inventory.get_all_connectors = cache(inventory.get_all_connectors)
inventory.get_execution_connectors = cache(inventory.get_execution_connectors)


def machine(name: str, data: dict[str, Any]) -> tuple[PyinfraState, Host]:
    hosts = Inventory(([name], data))  # type: ignore[no-untyped-call]
    config = Config(DIFF=True)  # type: ignore[no-untyped-call]
    return PyinfraState(hosts, config), hosts.get_host(name)


def _execute(state: PyinfraState) -> str:
    try:
        run_ops(state)
    except PyinfraError as error:
        return str(error) or type(error).__name__
    return ""


@contextmanager
def _listening() -> Iterator[list[str]]:
    """All that pyinfra would show on a terminal, its log included."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pyinfra")
    level, before = logger.level, output._echo
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    output.set_echo(lambda message="", **_: heard.append(str(message)))
    try:
        yield heard
    finally:
        output.set_echo(before)
        logger.setLevel(level)
        logger.removeHandler(handler)
