"""celery-pi taken off a machine again."""

from __future__ import annotations

import base64
from collections.abc import Generator
from pathlib import Path

from pyinfra import host, logger, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi import privileges
from celery_pi.render import ROOT

PROGRAM = Path(__file__).parent.parent / "on_the_pi/leave.py"
TEXT = ROOT / "files/usr/local/lib/celery-pi/celery_pi_text.py"

# In memory, so that a plan changes nothing.
RUN = r"""
umask 022
scratch=$(mktemp -d /run/celery-pi-leave.XXXXXX)
chmod 0755 "$scratch"  # other users run parts of it, in which there is no secret
trap 'rm -rf "$scratch"' EXIT
put() { printf '%s' "$2" | base64 -d >"$scratch/$1"; }
"""


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
        "leave.py": PROGRAM.read_bytes(),
        "celery_pi_privileges.py": privileges.text().encode(),
        "celery_pi_text.py": TEXT.read_bytes(),
    }
    puts = [
        StringCommand("put", name, QuoteString(base64.b64encode(content).decode()), ";")
        for name, content in files.items()
    ]
    return StringCommand(RUN, *puts, '/usr/bin/python3 -B "$scratch/leave.py"', *words)
