"""Units that are not there any more, nor anything that was made for them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation
from pyinfra.api.operation import OperationMeta

from celery_pi.operations.service import RECORDS
from celery_pi.plan import will
from celery_pi.shell import assign, declare, script

UNITS = "/etc/systemd/system"

OURS = script("is_ours", "remove_units_ours")
SHOW = script("leftovers")
REMOVE = script("remove_units")


class Leftovers(FactBase[list[str]]):
    """Units that systemd still knows, and paths that are still there, read in one command."""

    default = list

    def command(self, units: Sequence[str], files: Sequence[str]) -> StringCommand:
        return StringCommand(_variables(units, files), OURS, SHOW)

    def process(self, output: list[str]) -> list[str]:
        return output


def remove_units(
    name: str, units: Sequence[str], files: Sequence[str], check: str = "true"
) -> OperationMeta:
    """The units, if any, are stopped, disabled and unknown; the files are gone as well.

    Names are without blanks, and the units lie in /etc/systemd/system. Nothing is removed while
    the shell command `check` fails, nor what was not made by a deploy: the owner's own unit stays,
    and runs, under whatever name it has.
    """
    declare(host, dict.fromkeys([*files, *(f"{UNITS}/{unit}" for unit in units)]))
    return _remove_units(name=name, units=units, files=files, check=check)


@operation()
def _remove_units(
    units: Sequence[str], files: Sequence[str], check: str
) -> Generator[StringCommand]:
    leftovers = host.get_fact(Leftovers, units=list(units), files=list(files))
    if not leftovers:
        host.noop(f"there is no {' and no '.join([*units, *files])}")
        return
    _add_to_plan(leftovers, units)
    yield StringCommand(_variables(units, files), assign(check=check), OURS, REMOVE)


def _add_to_plan(leftovers: Sequence[str], units: Sequence[str]) -> None:
    """A unit that no deploy has started is its owner's."""
    for unit in units:
        if unit in leftovers:
            will(host, "stop", unit, is_owners=f"{RECORDS}/{unit}" not in leftovers)
    for path in leftovers:
        if path not in units and not path.startswith(f"{RECORDS}/"):
            will(host, "remove", path)


def _variables(units: Sequence[str], files: Sequence[str]) -> StringCommand:
    made = [path for unit in units for path in (f"{UNITS}/{unit}", f"{RECORDS}/{unit}")]
    stamps = [f"/var/lib/systemd/timers/stamp-{unit}" for unit in units]
    return assign(
        directory=UNITS,
        units=" ".join(units),
        made=" ".join([*made, *stamps]),
        paths=" ".join([*files, *made, *stamps]),
    )
