"""A run of pyinfra as one deploy: it holds the lock, and is recorded once it changes something."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import gevent
from paramiko import SSHException
from pyinfra import logger
from pyinfra.api import BaseStateCallback, Host, QuoteString, State, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_host, ctx_state

from celery_pi import deploy_lock, deploy_record, manifest
from celery_pi.bulk_facts import FILE as FACTS
from celery_pi.bulk_facts import bulk_facts
from celery_pi.plan import in_words
from celery_pi.preflight import GIVEN, NEWEST_DEPLOY
from celery_pi.remote import declared
from celery_pi.settings import Settings
from celery_pi.site.look import to_note
from celery_pi.source_tree import NoSource, kept_source

RUN = "celery_pi_run"
Commands = Callable[[], Iterator[PyinfraCommand]]


class DeployRun:
    """One run on one host. Before its first operation it takes the lock; a plan takes none.

    The record is there before the first command that changes something, so a run that is cut off
    leaves one that says `running`; the lock tells whether it still does.
    """

    def __init__(self, host: Host, settings: Settings, seen: str) -> None:
        self.host, self.settings, self.seen = host, settings, seen
        self.token = uuid4().hex
        self.what: list[str] = []
        self.record: deploy_record.Record | None = None
        self.number = ""
        self.refusal = ""
        self.arguments: dict[str, Any] = {}
        self.holds = False

    def includes(self, file: str | None, component: str) -> None:
        """Note what is deployed: a file that names components, or a component that is run alone."""
        name = Path(file).name if file else component
        if name not in self.what and (file or not self.what):
            self.what.append(name)

    def before(self, state: State, op_hash: str) -> None:
        """Take the lock, if this is the first operation; have what the operation changes noted."""
        if op_hash not in state.ops[self.host]:
            return
        data = state.get_op_data_for_host(self.host, op_hash)
        if self.record is None:
            given = cast("dict[str, Any]", data.global_arguments)
            self.arguments = {key: given[key] for key in CONNECTOR_ARGUMENT_KEYS if key in given}
            self.record = deploy_record.begun(self.what, self.settings)
            self.record.planned = in_words(self.host)
            self._take(self.record)
        data.command_generator = self._noting(data.command_generator, _name(state, op_hash))

    def finish(self, result: str) -> None:
        """Close the record, if anything was changed, and give the lock back."""
        if not self.holds or self.record is None:
            return
        self.holds = False
        try:
            if self.number:
                self.record.result, self.record.ended = result, deploy_record.now()
                self.record.files = self._files()
                self._say(deploy_record.closed(self.number), self.record.text)
            self._write_manifest(result == deploy_record.COMPLETED)
            if result == deploy_record.COMPLETED and (
                note := to_note(self.host, bool(self.number))
            ):
                self._say(note)
            self._say(deploy_lock.give_back(self.token))
        except (OSError, SSHException, PyinfraError) as error:
            logger.warning(f"{self.host.name}: the end of this deploy is not recorded: {error}")

    def _write_manifest(self, completed: bool) -> None:
        """Have the manifest say what is on the Pi, what that keeps of this run among it. Of a run
        that failed, which files it has written is not known, but its units are to be looked at."""
        whole = completed and deploy_record.WHOLE in self.what
        ours, bulk = declared(self.host) if completed else {}, bulk_facts(self.host)
        if whole and bulk.digest:
            if kept := bulk.to_keep():
                self._say(*kept)
            ours = {**ours, FACTS: ["600", "root", "root", bulk.digest]}
        old = self._say(manifest.read())
        new = manifest.update(self.host, old, ours, whole)
        if new.strip() != old:
            self._say(manifest.write(), new)

    def _files(self) -> list[str]:
        """Paths that this run declares to be there."""
        found = {path for path, state in declared(self.host).items() if state}
        return sorted(found | {manifest.FILE})

    def _take(self, record: deploy_record.Record) -> None:
        holder = deploy_lock.Holder(record.who, record.started, ", ".join(self.what))
        printed = self._say(
            deploy_lock.take(self.token, self.seen), json.dumps(holder._asdict()) + "\n"
        )
        self.refusal = deploy_lock.refusal(printed, self.host.name)
        self.holds = not self.refusal
        gevent.spawn(self._renew)

    def _renew(self) -> None:
        while True:
            gevent.sleep(deploy_lock.INTERVAL)
            if self.refusal or not self.holds:
                return
            try:
                printed = self._say(deploy_lock.renew(self.token))
            except (OSError, SSHException, PyinfraError):
                continue  # the connection's trouble is told by the operation that meets it
            if printed == "lost":
                self.refusal = (
                    f"{self.host.name} was not reached for {deploy_lock.LEASE} s, and another "
                    "deploy has begun: run this one again"
                )

    def _noting(self, commands: Commands, name: str) -> Commands:
        def noted() -> Iterator[PyinfraCommand]:
            if self.refusal:
                yield StringCommand("echo", QuoteString(self.refusal), ">&2; exit 1")
            try:
                for command in commands():
                    self._note(name)
                    with bulk_facts(self.host).change():
                        yield command
            except PyinfraError:
                self.finish(f"failed: {name}")  # pyinfra tells nobody of it
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
            self.record.come_from(kept_source(self.host.name))
        except NoSource as error:
            logger.warning(f"nobody will be able to roll back to this deploy: {error}")
        self.record.files = self._files()
        self.number = self._say(deploy_record.opened(), self.record.text)

    def _say(self, command: StringCommand, sent: str = "") -> str:
        """What the command prints. Raises PyinfraError when it fails."""
        arguments = {**self.arguments, "_stdin": sent}
        done, output = bulk_facts(self.host).tell(command, **arguments)
        if not done:
            raise PyinfraError(f"{self.host.name}: {output.stderr or 'no answer'}")
        return output.stdout.strip()


class Recorder(BaseStateCallback):
    """Tells the runs of where pyinfra is. Hosts to which nothing of ours is deployed have none."""

    @staticmethod
    def operation_host_start(state: State, host: Host, op_hash: str) -> None:
        if run := _run_of(host):
            run.before(state, op_hash)

    @staticmethod
    def operation_host_success(
        state: State, host: Host, op_hash: str, retry_count: int = 0
    ) -> None:
        del state, retry_count
        if (run := _run_of(host)) and op_hash == host.op_hash_order[-1]:
            run.finish(deploy_record.COMPLETED)

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        del retry_count, max_retries
        if run := _run_of(host):
            run.finish(f"failed: {_name(state, op_hash)}")


def recorded() -> DeployRun:
    """The run on the present host, which has been found fit: the same for all its components."""
    # Themselves, not pyinfra's `host`: another greenlet has no present one.
    state, host = ctx_state.get(), ctx_host.get()  # type: ignore[no-untyped-call]
    if RUN not in host.connector_data:
        seen = host.connector_data[NEWEST_DEPLOY]
        host.connector_data[RUN] = DeployRun(host, host.connector_data[GIVEN], seen)
        if not any(isinstance(known, Recorder) for known in state.callback_handlers):
            state.callback_handlers.append(Recorder())
    return cast("DeployRun", host.connector_data[RUN])


def _run_of(host: Host) -> DeployRun | None:
    return cast("DeployRun | None", host.connector_data.get(RUN))


def _name(state: State, op_hash: str) -> str:
    return ", ".join(state.get_op_meta(op_hash).names)
