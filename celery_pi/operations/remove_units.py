"""Units that are not there any more, nor anything that was made for them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation
from pyinfra.api.operation import OperationMeta

from celery_pi.before import IS_OURS
from celery_pi.operations.service import RECORDS
from celery_pi.plan import will
from celery_pi.shell import assign, declare

UNITS = "/etc/systemd/system"

# Of what is there, what is ours. A unit is somebody else's when its file is, or when its package
# has one: that stays, whatever its name is.
OURS = (
    IS_OURS
    + r"""
is_theirs() {
  case $1 in *celery-pi*) return 1 ;; esac
  [ -e "$directory/$1" ] || [ -L "$directory/$1" ] || {
    file=$(systemctl show -P FragmentPath "$1")
    case $file in '' | "$directory"/*) return 1 ;; *) return 0 ;; esac
  }
  ! is_ours "$directory/$1"
}
left= ours=
for unit in $units; do is_theirs "$unit" || ours="$ours $unit"; done
units=${ours# }
for path in $paths; do
  if [ -e "$path" ] || [ -L "$path" ]; then
    case " $made " in *" $path "*) of=${path##*/}; of=${of#stamp-}
      case " $units " in *" $of "*) left="$left $path" ;; esac ;;
    *) ! is_ours "$path" || left="$left $path" ;; esac
  fi
done
paths=${left# }
"""
)

SHOW = r"""
for unit in $units; do
  case $(systemctl show -p LoadState -p ActiveState "$unit") in
    *=loaded* | *=active* | *=failed*) echo "$unit" ;;
  esac
done
for path in $paths; do echo "$path"; done
"""

# The files go last but for the reload: while one is left, the next run finds something to do.
REMOVE = r"""
set -e
(eval "$check") >&2 || exit 1
for unit in $units; do
  systemctl disable --quiet --now "$unit" 2>/dev/null || true  # it may be half gone already
done
rm -f $paths
for path in $paths; do  # what root's Python has compiled of it
  case $path in *.py) name=${path##*/}; rm -f "${path%/*}/__pycache__/${name%.py}".*.pyc ;; esac
done
systemctl daemon-reload
# Without a name it means all units; a unit that has not failed is an error to it.
[ -z "$units" ] || systemctl reset-failed $units 2>/dev/null || true
"""


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
    left = host.get_fact(Leftovers, units=list(units), files=list(files))
    if not left:
        host.noop(f"there is no {' and no '.join([*units, *files])}")
        return
    _tell(left, units)
    yield StringCommand(_variables(units, files), assign(check=check), OURS, REMOVE)


def _tell(left: Sequence[str], units: Sequence[str]) -> None:
    """A unit that no deploy has started is its owner's."""
    for unit in units:
        if unit in left:
            will(host, "stop", unit, theirs=f"{RECORDS}/{unit}" not in left)
    for path in left:
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
