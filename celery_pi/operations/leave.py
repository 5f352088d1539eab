"""celery-pi taken off a machine again."""

from __future__ import annotations

import base64
from collections.abc import Generator

from pyinfra import host, logger, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi import on_the_pi, privileges
from celery_pi.shell import script

RUN = script("leave")


class Leaving(FactBase[list[str]]):
    """What would be done, a line each."""

    default = list

    def command(self) -> StringCommand:
        return _program()

    def process(self, output: list[str]) -> list[str]:
        return output


@operation()
def leave() -> Generator[StringCommand]:
    """The machine is as it was before the first deploy, but for what others have changed since.

    Each step is logged, while it is planned too. What is cut off goes on with the next run.
    """
    steps = host.get_fact(Leaving)
    if not steps:
        host.noop("celery-pi is not on this machine")
        return
    if not state.is_executing:
        for step in steps:
            host.log(f"Will {step.partition(' ')[2]}", logger.info)
    yield _program("--yes")


def _program(*words: str) -> StringCommand:
    files = {
        "leave.py": on_the_pi.program("leave").encode(),
        "celery_pi_tools/privileges.py": privileges.text().encode(),
    }
    transfers = [
        StringCommand("put", name, QuoteString(base64.b64encode(content).decode()), ";")
        for name, content in files.items()
    ]
    return StringCommand(RUN, *transfers, '/usr/bin/python3 -B "$scratch/leave.py"', *words)
