"""What is kept of each deploy that changed something: /var/lib/celery-pi/deploys on the Pi."""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyinfra.api import FactBase, StringCommand

from celery_pi.deploys.lock import RECORDS
from celery_pi.settings import Settings
from celery_pi.shell import assign, script

KEPT = 20
RUNNING, COMPLETED = "running", "completed"
WHOLE = "deploy.py"

OPEN = script("record_open")
CLOSE = script("record_close")

SHOW = r"""
for file in "$records"/*.json; do
  [ ! -e "$file" ] || { number=${file##*/}; echo "${number%.json} $(cat "$file")"; }
done
"""


@dataclass
class Record:
    """One deploy. Times are UTC.

    `settings` are those that differ from their defaults, `given` all that the owner gave; `commit`
    is the source's, with `-dirty` if it was changed after it; `planned` is what the run was to do
    to which things, by verb; `files` are the paths of ours that it declared.
    """

    who: str
    started: str
    what: list[str]
    settings: dict[str, Any]
    given: dict[str, Any]
    commit: str = ""
    result: str = RUNNING
    ended: str = ""
    planned: dict[str, list[str]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """One line of JSON."""
        return json.dumps(vars(self)) + "\n"

    @property
    def is_whole(self) -> bool:
        """Whether all components were deployed, to the end."""
        return self.result == COMPLETED and WHOLE in self.what


def begun(what: list[str], settings: Settings) -> Record:
    """The record of a run that begins now."""
    changed = settings.on_the_pi(exclude_defaults=True)
    given = settings.on_the_pi(exclude_unset=True)
    return Record(who=_who(), started=now(), what=what, settings=changed, given=given)


def _who() -> str:
    try:
        user = getpass.getuser()
    except KeyError:
        user = str(os.getuid())  # one without a name, as in some containers
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def opened() -> StringCommand:
    """Command that keeps a new record, its standard input, and prints its number."""
    return StringCommand(assign(records=RECORDS, kept=str(KEPT)), OPEN)


def closed(number: str) -> StringCommand:
    """Command that replaces the record of that number by its standard input."""
    return StringCommand(assign(records=RECORDS, number=number), CLOSE)


class DeployRecords(FactBase[dict[str, dict[str, Any]]]):
    """Every record that is kept, by its number, the oldest first."""

    default = dict

    def command(self) -> StringCommand:
        return StringCommand(assign(records=RECORDS), SHOW)

    def process(self, output: list[str]) -> dict[str, dict[str, Any]]:
        return {
            number: json.loads(text) for number, _, text in (li.partition(" ") for li in output)
        }
