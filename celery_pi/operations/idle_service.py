"""A service of Debian's that we have installed and that nobody needs any more."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from celery_pi.operations.service import RECORDS
from celery_pi.shell import assign

# The record goes first: what starts the unit again is then taken for a first start.
STOP = r"""
rm -f "$record"
systemctl disable --quiet --now "$unit"
"""


class Idle(FactBase[bool]):
    """Whether the unit neither runs nor starts by itself; so is one that is not there."""

    default = bool

    def command(self, unit: str) -> StringCommand:
        return StringCommand("systemctl show -p ActiveState -p UnitFileState", QuoteString(unit))

    def process(self, output: list[str]) -> bool:
        running = {"ActiveState=active", "ActiveState=activating", "ActiveState=reloading"}
        return running.isdisjoint(output) and "UnitFileState=enabled" not in output


@operation()
def idle_service(unit: str) -> Generator[StringCommand]:
    """The unit is stopped, and stays so after a boot. It must be one that we have brought."""
    if host.get_fact(Idle, unit=unit):
        host.noop(f"{unit} does not run")
        return
    yield StringCommand(assign(unit=unit, record=f"{RECORDS}/{unit}"), STOP)
