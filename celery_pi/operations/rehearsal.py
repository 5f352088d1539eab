"""A trial of the app in the worker's own sandbox, before anything that it needs is changed."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import PurePosixPath

from pyinfra import host, state
from pyinfra.api import OperationError, QuoteString, StringCommand, operation

from celery_pi.operations.config_files import ConfigFile, FileStates
from celery_pi.operations.env_file import _read, with_variables
from celery_pi.operations.service import CHECK_UNIT, ServiceState, _reason
from celery_pi.shell import Replacement, assign, read_quietly, replace_files

DIRECTORY = "/run/celery-pi-rehearsal"

# What systemd finds wrong with the unit is no secret.
VERIFY_UNIT = f'output=$({CHECK_UNIT}) || {{ printf "celery-pi: %s\\n" "$output" >&2; false; }}'

CHECK = r"""
status=0
output=$(/usr/local/bin/celery-pi check --candidate "$directory" </dev/null 2>&1) || status=$?
rm -rf "$directory"
[ $status = 0 ] || printf '%s\n' "$output" | grep '^celery-pi: '
"""


@operation()
def rehearsal(
    unit: ConfigFile,
    sandbox: ConfigFile,
    watch: Sequence[str],
    env: str,
    variables: Mapping[str, str],
    user: str,
) -> Generator[StringCommand]:
    """With its unit, sandbox and `.env` as they are going to be, the worker could run the app.

    It changes nothing, and is only done where the worker is to be started again for what it
    `watch`es. Fails, with the sentence of `celery-pi check`, when it could not.
    """
    current = _read(env, user).content
    content = with_variables(current, variables)
    states = host.get_fact(FileStates, paths=[unit.path, sandbox.path])
    name = PurePosixPath(unit.path).name
    running = host.get_fact(ServiceState, unit=name, watch=list(watch))
    same = all(states.get(file.path) == file.state for file in (unit, sandbox))
    if same and content == current and not _reason(running, watch):
        host.noop("the worker runs as it is to run")
        return
    if state.is_executing:
        try:
            _rehearse([(name, unit.content), ("sandbox", sandbox.content)], content, user)
        except OperationError as error:
            message = f"{error}\n{name} is not started again: what runs is left as it is"
            yield StringCommand("echo", QuoteString(message), ">&2; exit 1")
            return
    host.noop("the app loads in the worker's sandbox")


def _rehearse(files: Sequence[tuple[str, str]], env: bytes, user: str) -> None:
    replacements = [
        Replacement(
            *(f"{DIRECTORY}/{name}", text.encode(), "root", "root", "0644"),
            VERIFY_UNIT if name.endswith(".service") else "",
        )
        for name, text in files
    ]
    replacements.append(Replacement(f"{DIRECTORY}/.env", env, user, "root", "0400"))
    command = replace_files(replacements)
    script = (command, "\n", assign(directory=DIRECTORY), CHECK)
    failure = read_quietly(
        host, StringCommand(*script, _stdin=command.connector_arguments["_stdin"])
    )
    if failure:
        raise OperationError(failure)
