"""Units that are not there any more, nor anything that was made for them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation
from pyinfra.api.operation import OperationMeta

from celery_pi.operations.service import RECORDS
from celery_pi.remote import assign, declare

UNITS = "/etc/systemd/system"

SHOW = r"""
for unit in $units; do
  case $(systemctl show -p LoadState -p ActiveState "$unit") in
    *=loaded* | *=active* | *=failed*) echo "$unit" ;;
  esac
done
for path in $paths; do [ ! -e "$path" ] || echo "$path"; done
"""

# The files go last but for the reload: while one is left, the next run finds something to do.
REMOVE = r"""
set -e
(eval "$check") >&2 || exit 1
for unit in $units; do
  systemctl disable --quiet --now "$unit" 2>/dev/null || true  # it may be half gone already
done
rm -f $paths
systemctl daemon-reload
# Without a name it means all units; a unit that has not failed is an error to it.
[ -z "$units" ] || systemctl reset-failed $units 2>/dev/null || true
"""


class Left(FactBase[list[str]]):
    """Units that systemd still knows, and paths that are still there, read in one command."""

    default = list

    def command(self, units: Sequence[str], files: Sequence[str]) -> StringCommand:
        return StringCommand(_variables(units, files), SHOW)

    def process(self, output: list[str]) -> list[str]:
        return output


def absent_units(
    name: str, units: Sequence[str], files: Sequence[str], check: str = "true"
) -> OperationMeta:
    """The units, if any, are stopped, disabled and unknown; the files are gone as well.

    Names are without blanks, and the units lie in /etc/systemd/system. Nothing is removed while
    the shell command `check` fails.
    """
    declare(host, dict.fromkeys([*files, *(f"{UNITS}/{unit}" for unit in units)]))
    return _absent_units(name=name, units=units, files=files, check=check)


@operation()
def _absent_units(
    units: Sequence[str], files: Sequence[str], check: str
) -> Generator[StringCommand]:
    left = host.get_fact(Left, units=list(units), files=list(files))
    if not left:
        host.noop(f"there is no {' and no '.join([*units, *files])}")
        return
    yield StringCommand(_variables(units, files), assign(check=check), REMOVE)


def _variables(units: Sequence[str], files: Sequence[str]) -> StringCommand:
    made = [path for unit in units for path in (f"{UNITS}/{unit}", f"{RECORDS}/{unit}")]
    stamps = [f"/var/lib/systemd/timers/stamp-{unit}" for unit in units]
    return assign(units=" ".join(units), paths=" ".join([*files, *made, *stamps]))
