"""Files of ours that only later deploys had: `make rollback` removes them first."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Any

from pyinfra import host
from pyinfra.api import OperationError, StringCommand, operation

from celery_pi.deploys.history import DeployRecords
from celery_pi.operations.remove_units import Leftovers, _remove_units
from celery_pi.operations.service import RECORDS
from celery_pi.plan import will
from celery_pi.shell import assign

UNIT = re.compile(r"/etc/systemd/system/([^/]+\.(?:service|timer|path|socket|target))")
NGINX = "/etc/nginx/"
CHECK = "/usr/local/lib/celery-pi/check-nginx-config"

# Emptied, not removed: the note itself shows that a deploy has started the unit. A unit that was
# started with a file that goes is then started again, as with one that has changed.
FORGET = r"""
set -e
for note in "$notes"/*; do
  if cut -d ' ' -f 3 "$note" | grep -qxF "$gone"; then : >"$note"; fi
done
"""


@operation()
def prune_files(to: str) -> Generator[StringCommand]:
    """No file is there that was deployed after the deploy of that number and not by it.

    Their units are stopped. What was started with such a file is started again by its component.
    Nothing is removed without which nginx could not start.
    """
    records = host.get_fact(DeployRecords)
    if to not in records:
        raise OperationError(f"there is no deploy {to} to roll back to")
    paths = files_to_prune(records, to)
    units = [match[1] for path in paths if (match := UNIT.fullmatch(path))]
    files = [path for path in paths if not UNIT.fullmatch(path)]
    if not paths or not host.get_fact(Leftovers, units=units, files=files):
        host.noop("later deploys had no other files")
        return
    for unit in units:
        will(host, "stop", unit)
    for path in files:
        will(host, "remove", path)
    yield StringCommand(assign(notes=RECORDS, gone="\n".join(paths)), FORGET)
    nginx_files = " ".join(path for path in files if path.startswith(NGINX))
    check = f"[ ! -e {CHECK} ] || {CHECK} --without {nginx_files}" if nginx_files else "true"
    yield from _remove_units._inner(units=units, files=files, check=check)


def files_to_prune(records: Mapping[str, Mapping[str, Any]], to: str) -> list[str]:
    """Paths that were declared after that deploy and not by it."""
    later = {path for number, record in records.items() if number > to for path in record["files"]}
    return sorted(later - set(records[to]["files"]))
