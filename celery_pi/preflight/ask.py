"""Commands that are too slow for a fact, which the fact cache would run in each later deploy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyinfra.api import DeployError, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments

from celery_pi.fact_cache import NoFact

if TYPE_CHECKING:
    from pyinfra.api.host import Host

Ask = Callable[[StringCommand], list[str]]


def asker(host: Host) -> Ask:
    """For that host: takes a command, returns the lines that it prints. Raises DeployError."""

    def ask(command: StringCommand) -> list[str]:
        arguments, _ = pop_global_arguments(host.state, host, {})
        connector_arguments = {
            key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS
        }
        succeeded, output = host.run_shell_command(
            NoFact(command), print_output=False, print_input=False, **connector_arguments
        )
        if not succeeded:
            raise DeployError(f"{host.name}: {output.stderr.strip() or 'no answer'}")
        return output.stdout_lines

    return ask
