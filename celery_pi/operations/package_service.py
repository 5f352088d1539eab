"""A service of Debian's that we no longer look after."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.operations.service import RECORDS
from celery_pi.plan import will
from celery_pi.shell import assign, script

LEAVE = script("package_service_leave")


class Started(FactBase[bool]):
    """Whether a deploy has started the unit."""

    default = bool

    def command(self, record: str) -> StringCommand:
        return StringCommand("ls", QuoteString(record), "2>/dev/null || true")  # no is an answer

    def process(self, output: list[str]) -> bool:
        return bool(output)


@operation()
def left_to_its_package(unit: str, check: str) -> Generator[StringCommand]:
    """A unit that deploys have looked after runs as its package has it, without our files.

    Where the shell command `check` says that it could not, it is stopped and disabled. One that no
    deploy has started is left alone.
    """
    record = f"{RECORDS}/{unit}"
    if not host.get_fact(Started, record=record):
        host.noop(f"{unit} is not looked after")
        return
    will(host, "restart", unit, "as its package has it, or stops where it cannot run so")
    yield StringCommand(assign(unit=unit, check=check, record=record), LEAVE)
