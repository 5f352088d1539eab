"""`make rollback`: deploy again what was deployed before, from its own source and settings.

The record on the Pi names commit and settings; the source itself lies in git on this machine.
Nothing that comes from the Pi is run here, nor can it lead to another machine or read a file here:
it is taken for a record only where all of it has the form that ours have, and a setting that names
a file on this machine is never taken from it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter, ValidationError

from celery_pi.deploys.history import DeployRecords, Record
from celery_pi.deploys.source import DIRTY, NoSource, lay_out
from celery_pi.render import ROOT
from celery_pi.settings import RENAMED, model
from celery_pi.terminal import printable

PYINFRA = (str(Path(sys.executable).with_name("pyinfra")),)  # as `-m` its own connectors win
NUMBER = re.compile(r"[0-9]{6}")
COMMIT = re.compile(r"(?:[0-9a-f]{7,64}(?:-dirty)?)?")
LARGEST = 2**16  # characters of all settings of one record
FACT = f"{DeployRecords.__module__}.{DeployRecords.__name__}"


class CannotGoBack(Exception):
    """Why there is no way back, in a sentence."""


def main() -> int:
    """Exit status: 0 all is as it was then, 1 nothing was done or not all."""
    parser = argparse.ArgumentParser(prog="make rollback")
    parser.add_argument(
        "--to", type=int, help="number of the deploy, as `celery-pi deploys` lists it"
    )
    arguments = parser.parse_args()
    try:
        host, records = read_records()
        number = target(records, arguments.to)
        with TemporaryDirectory() as directory:
            return go_back(number, records[number], host, Path(directory))
    except CannotGoBack as error:
        print(printable(f"No rollback: {error}."), file=sys.stderr)
        return 1


def read_records() -> tuple[str, dict[str, Record]]:
    """Name of the Pi, which must be one, and the records on it."""
    command = [*PYINFRA, "--json", "inventory.py", "fact", FACT]
    process = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise CannotGoBack(f"the Pi cannot be asked:\n{process.stderr.strip()}\n")
    hosts = json.loads(process.stdout)[FACT]
    if len(hosts) != 1:
        raise CannotGoBack(f"the inventory has {len(hosts)} machines: name one, HOST=pi@address")
    ((host, stored),) = hosts.items()
    return host, {number: _record(number, record) for number, record in stored.items()}


def _record(number: str, data: object) -> Record:
    """The record that the Pi sends of a deploy, if it could be one of ours."""
    try:
        record = TypeAdapter(Record).validate_json(json.dumps(data), strict=True)
    except ValidationError:
        record = None
    if (
        record is None
        or not NUMBER.fullmatch(number)
        or not COMMIT.fullmatch(record.commit)
        or len(json.dumps(record.given)) > LARGEST
    ):
        raise CannotGoBack(f"what the Pi tells of deploy {number[:20]} is no record of ours")
    return record


def target(records: Mapping[str, Record], to: int | None) -> str:
    """Number of the deploy to go back to: that one, or the last whole one before the newest."""
    if to is not None:
        number = f"{to:06}"
        if number not in records:
            raise CannotGoBack(f"there is no deploy {to}; `celery-pi deploys` lists them")
        if not records[number].is_whole:
            raise CannotGoBack(f"deploy {to} was not of all components, or did not end well")
    else:
        whole = [number for number in sorted(records)[:-1] if records[number].is_whole]
        if not whole:
            raise CannotGoBack("the Pi knows of no whole deploy before the newest")
        number = whole[-1]
    if not _is_committed(records[number]):
        raise CannotGoBack(_uncommitted(records, number))
    return number


def _is_committed(record: Record) -> bool:
    return bool(record.commit) and not record.commit.endswith(DIRTY)


def _uncommitted(records: Mapping[str, Record], number: str) -> str:
    """Why that deploy is no target, and which one is."""
    commit = records[number].commit
    why = "had changes that were not committed" if commit else "was not in git"
    others = [
        int(other)
        for other in sorted(records)[:-1]
        if records[other].is_whole and _is_committed(records[other])
    ]
    remedy = (
        f"deploy {others[-1]} was made from a commit: TO={others[-1]} goes back to it"
        if others
        else "no deploy before the newest was made from a commit"
    )
    return f"the source of deploy {int(number)} {why}; {remedy}"


def go_back(number: str, record: Record, host: str, directory: Path) -> int:
    """Deploy to that Pi what the record names; refused, as a plan, it changes nothing."""
    try:
        lay_out(record.commit, directory)
    except NoSource as error:
        raise CannotGoBack(
            f"this machine does not have the source of deploy {int(number)} (commit "
            f"{record.commit}), which {printable(record.who, '')} made: {error}; fetch and check "
            "out a branch that contains it"
        ) from error
    if (others := hosts_of(directory)) != [host]:
        names = ", ".join(others) or "no machine"
        raise CannotGoBack(f"the inventory of that source has {names}, and not {host} alone")
    line = f"Back to deploy {int(number)} of {record.started}, commit {record.commit}"
    print(printable(line, ""), flush=True)
    command = [*PYINFRA, *data_arguments(record.given), "inventory.py", "rollback.py", "deploy.py"]
    environment = os.environ | {"CELERY_PI_ROLLBACK_TO": number}
    for option in ("--dry", "-y"):
        process = subprocess.run(
            [*command, option],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if process.returncode:
            return 1
    return 0


def hosts_of(directory: Path) -> list[str]:
    """Names in the inventory of a source."""
    process = subprocess.run(
        [*PYINFRA, "--json", "inventory.py", "debug-inventory"],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise CannotGoBack(
            f"the inventory of that source cannot be read:\n{process.stderr.strip()}\n"
        )
    return [str(host["name"]) for host in json.loads(process.stdout)]


def data_arguments(settings: Mapping[str, Any]) -> list[str]:
    """The settings as arguments for pyinfra, which reads JSON."""
    for name in settings:
        if name not in {*model().model_fields, *RENAMED} or name in model().local_files():
            raise CannotGoBack(f"its setting {name} is none that this source knows")
    return [
        word
        for name, value in settings.items()
        for word in ("--data", f"{name}={json.dumps(value)}")
    ]


if __name__ == "__main__":
    sys.exit(main())
