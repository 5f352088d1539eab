"""A run of pyinfra as one deploy: its first operation takes the lock, its last closes the record.

Both operations change nothing that a plan shows. The record is opened before the first command that
changes something, so a run that is cut off leaves one with the result `running`. A run that lasts
holds the lock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import gevent
from paramiko import SSHException
from pyinfra import host as current_host
from pyinfra import logger
from pyinfra.api import BaseStateCallback, Host, QuoteString, State, StringCommand, operation
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import PyinfraError

from celery_pi import manifest
from celery_pi.connector import PersistentShell
from celery_pi.deploys import history, lock
from celery_pi.deploys.source import DIRTY, NoSource, deployed_source
from celery_pi.fact_cache import FILE as FACTS
from celery_pi.fact_cache import NoFact
from celery_pi.plan import in_words
from celery_pi.preflight import GIVEN_SETTINGS, NEWEST_DEPLOY
from celery_pi.preflight.site import to_note
from celery_pi.settings import Settings
from celery_pi.shell import declared

RUN = "celery_pi_run"
TAKE, CLOSE = "Take the lock of deploys", "Close the record of this deploy"
NO_WAY_BACK = "This deploy will be no target of a rollback"
Commands = Callable[[], Iterator[PyinfraCommand]]


class DeployRun:
    """One run on one host. A plan takes no lock."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.token = uuid4().hex
        self.what: list[str] = []
        self.record: history.Record | None = None
        self.number = ""
        self.refusal = ""
        self.arguments: dict[str, Any] = {}
        self.holds = False

    def includes(self, file: str | None, component: str) -> None:
        """Note what is deployed: a file that names components, or a component that is run alone."""
        name = Path(file).name if file else component
        if name not in self.what and (file or not self.what):
            self.what.append(name)

    def take(self) -> None:
        """Take the lock and keep it until `finish`; `refusal` is the reason if another run has it.

        Raises PyinfraError if the machine does not answer.
        """
        global_arguments = cast("dict[str, Any]", self.host.current_op_global_arguments)
        self.arguments = {
            key: global_arguments[key] for key in CONNECTOR_ARGUMENT_KEYS if key in global_arguments
        }
        settings: Settings = self.host.connector_data[GIVEN_SETTINGS]
        self.record = history.begun(self.what, settings)
        self.record.planned = in_words(self.host)
        holder = lock.Holder(self.record.who, self.record.started, ", ".join(self.what))
        newest = self.host.connector_data[NEWEST_DEPLOY]
        command = lock.take(self.token, newest)
        printed = self._run(command, json.dumps(holder._asdict()) + "\n")
        self.refusal = lock.refusal(printed, self.host.name)
        self.holds = not self.refusal
        if self.holds:
            gevent.spawn(self._renew)

    def watch(self, state: State, op_hash: str) -> None:
        """Have the commands of the operation that starts now noted."""
        if self.record is None or op_hash not in state.ops[self.host]:
            return
        data = state.get_op_data_for_host(self.host, op_hash)
        noted = self._noting(data.command_generator, _name(state, op_hash))
        state.set_op_data_for_host(self.host, op_hash, replace(data, command_generator=noted))

    def finish(self, result: str) -> None:
        """Close the record, if anything was changed, and give the lock back."""
        if not self.holds or self.record is None:
            return
        self.holds = False
        try:
            if self.number:
                self.record.result, self.record.ended = result, history.now()
                self.record.files = self._files()
                self._run(history.closed(self.number), self.record.text)
            self._write_manifest(result == history.COMPLETED)
            if result == history.COMPLETED and (note := to_note(self.host, bool(self.number))):
                self._run(note)
            self._run(lock.give_back(self.token))
        except (OSError, SSHException, PyinfraError) as error:
            logger.warning(f"{self.host.name}: the end of this deploy is not recorded: {error}")

    def end(self, state: State) -> None:
        """The connection ends: finish what no last operation has finished.

        An operation that was interrupted may still run on the machine, so then the lock is left to
        its lease, and `celery-pi deploys` shows it as cut off.
        """
        if not self.holds or self.host.executing_op_hash is not None:
            return
        order = [op_hash for op_hash in self.host.op_hash_order if op_hash in state.ops[self.host]]
        undone = (
            op_hash
            for op_hash in order
            if not state.get_op_data_for_host(self.host, op_hash).operation_meta.is_complete()
        )
        first = next(undone, None)
        self.finish(f"failed: {_name(state, first)}" if first else history.COMPLETED)

    def _write_manifest(self, completed: bool) -> None:
        """Write what is on the Pi into the manifest, the fact cache among it.

        Which files a run that failed has written is unknown, but its units are to be checked.
        """
        whole = completed and history.WHOLE in self.what
        files, connector = declared(self.host) if completed else {}, self.host.connector
        cache = connector.facts if isinstance(connector, PersistentShell) else None
        if whole and cache and cache.digest:
            if command := cache.to_keep():
                self._run(*command)
            files = {**files, FACTS: ["600", "root", "root", cache.digest]}
        old = self._run(manifest.read())
        new = manifest.update(self.host, old, files, whole)
        if new.strip() != old:
            self._run(manifest.write(), new)

    def _files(self) -> list[str]:
        """Paths that this run declares to be there."""
        paths = {path for path, state in declared(self.host).items() if state}
        return sorted(paths | {manifest.FILE})

    def _renew(self) -> None:
        while True:
            gevent.sleep(lock.INTERVAL)
            if self.refusal or not self.holds:
                return
            try:
                printed = self._run(lock.renew(self.token))
            except (OSError, SSHException, PyinfraError):
                continue  # the operation that meets the same trouble reports it
            if printed == "lost":
                self.refusal = (
                    f"{self.host.name} was not reached for {lock.LEASE} s, and another "
                    "deploy has begun: run this one again"
                )

    def _noting(self, commands: Commands, name: str) -> Commands:
        def noted() -> Iterator[PyinfraCommand]:
            if self.refusal:
                yield refused(self.refusal)
            try:
                for command in commands():
                    self._note(name)
                    yield command
            except PyinfraError:
                self.finish(f"failed: {name}")  # pyinfra calls back for failed commands alone
                raise

        return noted

    def _note(self, name: str) -> None:
        """Open the record with the first operation that changes something."""
        if self.record is None or name in self.record.changed:
            return
        self.record.changed.append(name)
        if self.number:
            return
        try:
            self.record.commit = deployed_source()
        except NoSource as error:
            logger.warning(f"{NO_WAY_BACK}: {error}; deploy from a git checkout")
        if self.record.commit.endswith(DIRTY):
            logger.warning(f"{NO_WAY_BACK}: its source is changed; commit it and deploy again")
        self.record.files = self._files()
        self.number = self._run(history.opened(), self.record.text)

    def _run(self, command: StringCommand, stdin: str = "") -> str:
        """Output of the command. Raises PyinfraError if it fails."""
        succeeded, output = self.host.run_shell_command(
            NoFact(command),
            print_output=False,
            print_input=False,
            **{**self.arguments, "_stdin": stdin},
        )
        if not succeeded:
            raise PyinfraError(f"{self.host.name}: {output.stderr or 'no answer'}")
        return output.stdout.strip()


@operation()
def take_lock() -> Generator[StringCommand]:
    """The first operation of a run. It changes nothing; it fails if another deploy has the lock."""
    run = _run_of(current_host)
    assert run
    if current_host.state.is_executing:
        run.take()
        if run.refusal:
            yield refused(run.refusal)


@operation()
def close_record() -> Generator[StringCommand]:
    """The last operation of a run. What comes after it, of another deploy file, ends the run."""
    run = _run_of(current_host)
    is_last = current_host.current_op_hash == current_host.op_hash_order[-1]
    if run and is_last and current_host.state.is_executing:
        run.finish(history.COMPLETED)
    yield from ()


def refused(why: str) -> StringCommand:
    """A command that fails with the sentence, and so ends the run on this host alone."""
    return StringCommand("echo", QuoteString(why), ">&2; exit 1")


class Recorder(BaseStateCallback):
    """Forwards pyinfra's callbacks to the run on a host, if there is one."""

    @staticmethod
    def operation_host_start(state: State, host: Host, op_hash: str) -> None:
        if run := _run_of(host):
            run.watch(state, op_hash)

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        del retry_count, max_retries
        is_ignored = state.get_op_data_for_host(host, op_hash).global_arguments["_ignore_errors"]
        if (run := _run_of(host)) and not is_ignored:
            run.finish(f"failed: {_name(state, op_hash)}")

    @staticmethod
    def host_disconnect(state: State, host: Host) -> None:
        if run := _run_of(host):
            run.end(state)


def begin(file: str | None, component: str) -> None:
    """Begin the run on the present host with its first operation, or include a component more."""
    # The host itself, not pyinfra's `host`: another greenlet has no present one.
    state = current_host.state
    host = state.inventory.get_host(current_host.name)
    run = _run_of(host)
    if run is None:
        run = host.connector_data[RUN] = DeployRun(host)
        if not any(isinstance(handler, Recorder) for handler in state.callback_handlers):
            state.add_callback_handler(Recorder())  # type: ignore[no-untyped-call]
        if isinstance(host.connector, PersistentShell):
            host.connector.cache_facts()
        take_lock(name=TAKE)
    run.includes(file, component)


def end() -> None:
    """End the run on the present host with its last operation."""
    close_record(name=CLOSE)


def _run_of(host: Host) -> DeployRun | None:
    return cast("DeployRun | None", host.connector_data.get(RUN))


def _name(state: State, op_hash: str) -> str:
    return ", ".join(state.get_op_meta(op_hash).names)
